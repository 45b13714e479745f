"""Rotary positions, and the one attention that all towers share."""

import math
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import TextConfig


class Rotary(NamedTuple):
    """Cosines and sines [B, 1, T, H / 2] of positions."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, config: TextConfig, dtype: torch.dtype) -> Self:
        """Rotations for `positions` [B, T]; angles in float32 whatever the dtype, since positions reach thousands."""
        angles = positions[:, None, :, None].float() * rope_frequencies(config, positions.device)
        return cls(angles.cos().to(dtype), angles.sin().to(dtype))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotates pairs (i, i + H / 2) of [B, N, T, H]."""
        first, second = x.chunk(2, -1)
        return torch.cat([first * self.cos - second * self.sin, second * self.cos + first * self.sin], -1)


def rope_frequencies(config: TextConfig, device: torch.device | str = "cpu") -> Tensor:
    """Angular frequencies [H / 2] in float32. Computed at use: as a buffer, `.to(torch.bfloat16)` would ruin them."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling["kind"] == "linear":
        return frequencies / scaling["factor"]
    # In transformers' order of operations: one last bit of a frequency is 0.004 radians at position 100,000.
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    blend = (scaling["original_positions"] / (2 * math.pi / frequencies) - low) / (high - low)
    blended = (1 - blend) * frequencies / scaling["factor"] + blend * frequencies
    return torch.where(blend < 0, frequencies / scaling["factor"], torch.where(blend > 1, frequencies, blended))


class Stream(NamedTuple):
    """Embedded tokens x [B, T, D] of one modality with their positions and segments [B, T]; segment 0 is padding."""

    x: Tensor
    positions: Tensor
    segments: Tensor


def visible(query: Stream, positions: Tensor, segments: Tensor, window: int | None) -> Tensor:
    """Mask [B, 1, T, S], True where a query may look at a key: of its own segment, not later, and less than `window`
    positions back.

    Every token sees itself, padding too, so that no row of a softmax is empty.
    """
    distance = query.positions[:, :, None] - positions[:, None]
    mask = (distance >= 0) & (query.segments[:, :, None] == segments[:, None])
    return (mask if window is None else mask & (distance < window))[:, None]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention of queries [B, N, T, H] over keys and values [B, K, S, H]; N is a multiple of K."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
