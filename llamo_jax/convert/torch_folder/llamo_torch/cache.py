"""The key-value cache of generation."""

import dataclasses
from typing import Self

import torch
from torch import Tensor

from .config import TextConfig


@dataclasses.dataclass
class KVCache:
    """Keys (rotated) and values [B, K, S, H] of each layer in S slots, in the order in which tokens came, from either
    tower.

    A slot is empty, or padding, while its segment is 0. The cursor is a tensor and everything is written in place, so
    that all decoding steps have the same shapes and compile to one graph.
    """

    keys: list[Tensor]
    values: list[Tensor]
    positions: Tensor
    segments: Tensor
    cursor: Tensor

    @classmethod
    def empty(cls, config: TextConfig, batch: int, slots: int, dtype: torch.dtype, device: torch.device) -> Self:
        """A cache with nothing in it."""
        shape = (batch, config.num_kv_heads, slots, config.head_dim)
        keys, values = (
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)] for _ in range(2)
        )
        positions, segments = (torch.zeros(batch, slots, dtype=torch.int64, device=device) for _ in range(2))
        return cls(keys, values, positions, segments, torch.zeros((), dtype=torch.int64, device=device))

    def doubled(self) -> Self:
        """The same contents with as many empty slots behind them."""
        keys, values = ([torch.cat([x, torch.zeros_like(x)], 2) for x in part] for part in (self.keys, self.values))
        positions, segments = (torch.cat([x, torch.zeros_like(x)], 1) for x in (self.positions, self.segments))
        return type(self)(keys, values, positions, segments, self.cursor)

    def advance(self, positions: Tensor, segments: Tensor) -> Tensor:
        """Takes the next T slots for tokens at these positions [B, T] and returns their indices [T] for `write`."""
        slots = self.cursor + torch.arange(positions.shape[1], device=positions.device)
        self.positions.index_copy_(1, slots, positions.long())
        self.segments.index_copy_(1, slots, segments.long())
        self.cursor.add_(positions.shape[1])
        return slots

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Puts one layer's new keys and values [B, K, T, H] into slots; returns all of that layer's."""
        return self.keys[layer].index_copy_(2, slots, k), self.values[layer].index_copy_(2, slots, v)
