"""Rotary positions, and the one attention that all towers share."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from llamo_jax.config import LLMConfig
from llamo_jax.errors import InputError
from llamo_jax.models import splash


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


def visible(queries: Places, keys: Places, *, window: int | None = None) -> Bool[Array, "B T S"]:
    """Which keys a query sees: those of its own sample, not later in time and less than `window` positions back.

    Padding sees padding, so that no row of the softmax is empty, and is seen by nothing else.
    """
    distance = queries.positions[:, :, None] - keys.positions[:, None, :]
    before = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return before & (queries.segments[:, :, None] == keys.segments[:, None, :])


def attention(
    q: Float[Array, "B N T H"], k: Float[Array, "B K S H"], v: Float[Array, "B K S H"], mask: Bool[Array, "B T S"]
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
    logits = logits + jnp.tile(jnp.where(mask, 0.0, -1e30), (1, members, 1))[:, None]
    # The maximum cancels out, so its gradient is zero; dividing after the product touches H columns instead of S.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True).astype(v.dtype)
    mixed = jnp.einsum("bkts,bksh->bkth", weights.astype(v.dtype), v) / total
    return mixed.reshape(batch, heads, queries, width)


Backend = Literal["xla", "cudnn", "splash"]
"""Which kernel attends: products and a softmax that XLA fuses, cuDNN's flash attention (NVIDIA GPUs, 16-bit types), or
JAX's splash attention (TPUs; elsewhere it is interpreted, slowly)."""

Projected = tuple[Float[Array, "B N T H"], Float[Array, "B K T H"], Float[Array, "B K T H"]]
"""Rotated queries and keys, and values, of one stream."""


def backend_for(
    choice: Literal["auto", "xla", "cudnn", "splash"], platform: str, dtype: jnp.dtype, width: int
) -> Backend:
    """The backend that was chosen or, with "auto", the fastest that a platform has for this type and head width.

    Raises:
      InputError: cuDNN cannot compute in this type or with heads of this width.
    """
    fits = jnp.dtype(dtype).itemsize == 2 and width % 8 == 0 and width <= 128
    if choice == "cudnn" and not fits:
        raise InputError(
            f'attention "cudnn": found {jnp.dtype(dtype).name} and heads of width {width}; expected bfloat16 or float16'
            ' and a multiple of 8 up to 128; choose "xla", or another precision'
        )
    if choice != "auto":
        return choice
    return {"tpu": "splash", "gpu": "cudnn" if fits else "xla"}.get(platform, "xla")  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the queries of every stream see, the same in every layer: made once a step, outside of the layers.

    Attributes:
      sees: how many of the streams, counted from the first, give each stream its keys.
      backend: which kernel attends.
      masks: of each stream, where the backend takes masks.
      order: of both streams in time, where the backend takes one sequence.
    """

    sees: tuple[int, ...]
    backend: Backend
    masks: tuple[Bool[Array, "B T S"], ...] = ()
    order: splash.TimeOrder | None = None


def plan(
    streams: Sequence[Places],
    sees: Sequence[int] | None = None,
    *,
    prefix: Places | None = None,
    window: int | None = None,
    backend: Backend = "xla",
    interpret: bool = False,
) -> Plan:
    """What each stream sees of the streams of a row.

    Args:
      streams: places of the tokens of each.
      sees: how many of the streams, counted from the first, give each its keys; None is all. Fewer promises that the
        others stand later in every sample, and that nothing that trains lies behind this one: it is not differentiated.
      prefix: places of tokens that give keys alone, to all streams.
      window: a token sees this many positions, its own included; None is all before it.
      backend: which kernel attends.
      interpret: of splash attention, on devices that are no TPUs.

    Raises:
      InputError: splash attention, whose keys have queries of their own, with a prefix.
    """
    sees = tuple(sees or (len(streams),) * len(streams))
    if backend == "splash":
        if prefix is not None:
            raise InputError('attention "splash" cannot read kept keys of prompts; choose "xla", or keep none')
        order = splash.time_order(*joined(streams), window=window, interpret=interpret)
        return Plan(sees, backend, order=order)
    before = [] if prefix is None else [prefix]
    keys = {count: joined([*before, *streams[:count]]) for count in set(sees)}
    masks = (visible(places, keys[count], window=window) for places, count in zip(streams, sees, strict=True))
    return Plan(sees, backend, tuple(masks))


def attend(
    plan: Plan,
    projected: Sequence[Projected],
    prefix: tuple[Float[Array, "B K S H"], Float[Array, "B K S H"]] | None = None,
) -> tuple[Float[Array, "B N T H"], ...]:
    """What the heads of each stream mix from the keys and values that it sees: the one attention of a layer.

    Args:
      plan: what each stream sees.
      projected: of each stream.
      prefix: rotated keys, and values, of the plan's prefix.
    """
    fixed = [count < len(projected) for count in plan.sees]
    projected = [
        tuple(checkpoint_name(part, name) for part, name in zip(each, "qkv", strict=True))
        for each in (jax.lax.stop_gradient(each) if stop else each for each, stop in zip(projected, fixed, strict=True))
    ]
    if plan.backend == "splash":
        q, k, v = (jnp.concatenate(parts, 2) for parts in zip(*projected, strict=True))
        ends = np.cumsum([each[0].shape[2] for each in projected])
        mixed = jnp.split(splash.attention(q, k, v, plan.order), ends[:-1], 2)
        # What is fixed is so on its way out too, where one call has mixed it with what trains.
        return tuple(jax.lax.stop_gradient(each) if stop else each for each, stop in zip(mixed, fixed, strict=True))
    one = attention if plan.backend == "xla" else cudnn
    before = [] if prefix is None else [(None, *prefix)]
    seen = {
        count: [jnp.concatenate([each[part] for each in (*before, *projected[:count])], 2) for part in (1, 2)]
        for count in set(plan.sees)
    }
    return tuple(
        checkpoint_name(one(q, *seen[count], mask), splash.KEPT)
        for (q, _, _), count, mask in zip(projected, plan.sees, plan.masks, strict=True)
    )


def cudnn(
    q: Float[Array, "B N T H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    mask: Bool[Array, "B T S"],
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B N T H"]:
    """The same attention by cuDNN's kernel, of which `implementation` "xla" is the reference."""
    length = q.shape[2]
    # It differentiates even lengths only. A query of padding sees something, a key of padding is seen by nothing real.
    odd, more = length % 2, k.shape[2] % 2
    mask = jnp.pad(jnp.pad(mask, ((0, 0), (0, odd), (0, 0)), constant_values=True), ((0, 0), (0, 0), (0, more)))
    parts = (jnp.moveaxis(part, 1, 2) for part in (q, k, v))
    q, k, v = (
        jnp.pad(part, ((0, 0), (0, extra), (0, 0), (0, 0)))
        for part, extra in zip(parts, (odd, more, more), strict=True)
    )
    mixed = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], implementation=implementation)
    return jnp.moveaxis(mixed[:, :length], 2, 1)


def joined(streams: Sequence[Places]) -> Places:
    """The tokens of several streams, one stream behind the other."""
    return Places(*(jnp.concatenate(parts, 1) for parts in zip(*streams, strict=True)))
