"""Rotary positions, masks and the one attention that both towers share."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llamo_jax.config import LLMConfig


def rope_frequencies(config: LLMConfig) -> np.ndarray:
    """Angular frequencies [H / 2] of the rotary embedding in float32, in transformers' order of operations.

    A last bit that differs is 0.004 radians at position 100,000. Powers are rounded once, from float64; PyTorch's are the same but for one
    or two of the frequencies of some models.
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
    return np.where(blend < 0, frequencies / scaling.factor, np.where(blend > 1, frequencies, blended)).astype(np.float32)


def rope(x: Float[Array, "B T N H"], positions: Int[Array, "B T"], frequencies: np.ndarray) -> Float[Array, "B T N H"]:
    """Rotates pairs (i, i + H/2) by position x frequency (the half-split layout of Hugging Face's Llama)."""
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def causal_mask(
    query_positions: Int[Array, "B T"],
    key_positions: Int[Array, "B S"],
    query_segments: Int[Array, "B T"],
    key_segments: Int[Array, "B S"],
    window: int | None = None,
) -> Bool[Array, "B T S"]:
    """True where a query may look: at keys of its own sample, not later in time, less than `window` positions back.

    Segment 0 is padding. It sees itself, so that no row of the softmax is empty, and is seen by nothing else.
    """
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    before = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return before & (query_segments[:, :, None] == key_segments[:, None, :])


def attention(
    q: Float[Array, "B T N H"], k: Float[Array, "B S K H"], v: Float[Array, "B S K H"], mask: Bool[Array, "B T S"]
) -> Float[Array, "B T N H"]:
    """Softmax attention with grouped key-value heads; logits and softmax in float32.

    Key-value heads are repeated and products run head by head with an additive mask: on CPU this is 2.7 times faster, forward and
    backward, than a grouped einsum over narrow heads.
    """
    repeats = q.shape[2] // k.shape[2]
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q, k, v))
    k, v = (jnp.repeat(x, repeats, axis=1) for x in (k, v))
    logits = jnp.einsum("bnth,bnsh->bnts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    # A finite number: rows that are all masked (empty cache slots of an unused row) stay free of NaN.
    logits = logits + jnp.where(mask, 0.0, -1e30)[:, None]
    # The maximum cancels out, so its gradient is zero; dividing after the product touches H columns instead of S.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    mixed = jnp.einsum("bnts,bnsh->bnth", weights.astype(v.dtype), v) / weights.sum(-1, keepdims=True).astype(v.dtype)
    return jnp.moveaxis(mixed, 1, 2)
