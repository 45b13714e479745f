"""Rotary positions, and the one attention that all towers share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llamo_jax.config import LLMConfig


def rope_frequencies(config: LLMConfig) -> np.ndarray:
    """Angular frequencies [H / 2] of the rotary embedding in float32, in transformers' order of operations.

    One wrong last bit turns a key by 0.004 radians at position 100,000. Powers are rounded once, from float64;
    PyTorch's are the same but for one or two of the frequencies of some models.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    powers = (config.rope_theta ** exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1.0) / powers
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / np.float32(scaling.factor)
    wavelengths = np.float32(2 * np.pi) / frequencies
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend = (scaling.original_positions / wavelengths - low) / (high - low)
    blended = (1 - blend) * frequencies / scaling.factor + blend * frequencies
    return np.where(blend < 0, frequencies / scaling.factor, np.where(blend > 1, frequencies, blended)).astype(
        np.float32
    )


class Rotary(NamedTuple):
    """Cosines and sines of the angles at a stream's positions, the same in every layer."""

    cos: Float[Array, "B 1 T H/2"]
    sin: Float[Array, "B 1 T H/2"]


def rotary(positions: Int[Array, "B T"], config: LLMConfig, dtype: jnp.dtype) -> Rotary:
    """The rotations of tokens at these positions; angles are float32 whatever the dtype."""
    angles = positions[:, None, :, None].astype(jnp.float32) * rope_frequencies(config)
    return Rotary(jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype))


def rotate(rotary: Rotary, x: Float[Array, "B N T H"]) -> Float[Array, "B N T H"]:
    """Rotates pairs (i, i + H/2) by position x frequency (the half-split layout of Hugging Face's Llama)."""
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate([first * rotary.cos - second * rotary.sin, second * rotary.cos + first * rotary.sin], -1)


class Places(NamedTuple):
    """Where tokens stand: their position in their sample, and which sample of the row it is. Segment 0 is padding."""

    positions: Int[Array, "B T"]
    segments: Int[Array, "B T"]


class Plan(NamedTuple):
    """What the queries of a stream may see, the same in every layer: made once a step, outside of the layers."""

    mask: Bool[Array, "B T S"]


def plan(queries: Places, keys: Places, *, window: int | None = None) -> Plan:
    """A query sees the keys of its own sample that are not later in time and less than `window` positions back.

    Padding sees padding, so that no row of the softmax is empty, and is seen by nothing else.
    """
    distance = queries.positions[:, :, None] - keys.positions[:, None, :]
    before = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return Plan(before & (queries.segments[:, :, None] == keys.segments[:, None, :]))


def attend(
    plan: Plan, q: Float[Array, "B N T H"], k: Float[Array, "B K S H"], v: Float[Array, "B K S H"]
) -> Float[Array, "B N T H"]:
    """Softmax attention with grouped key-value heads; logits and softmax in float32.

    The queries of a group lie behind each other as one matrix, so that keys and values are neither repeated nor
    copied, and stay so until the end: on a CPU a training step takes 4 % longer if logits are reshaped in between.
    """
    batch, heads, queries, width = q.shape
    groups = k.shape[1]
    members = heads // groups
    q = q.reshape(batch, groups, members * queries, width)
    logits = jnp.einsum("bkth,bksh->bkts", q, k, preferred_element_type=jnp.float32) * width**-0.5
    # A finite number: rows that are all masked (empty cache slots of an unused row) stay free of NaN.
    logits = logits + jnp.tile(jnp.where(plan.mask, 0.0, -1e30), (1, members, 1))[:, None]
    # The maximum cancels out, so its gradient is zero; dividing after the product touches H columns instead of S.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True).astype(v.dtype)
    mixed = jnp.einsum("bkts,bksh->bkth", weights.astype(v.dtype), v) / total
    return mixed.reshape(batch, heads, queries, width)
