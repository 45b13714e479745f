"""The LLM's own head: captions of motions and plain text, greedy and batched."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llamo_jax.config import LlamoConfig
from llamo_jax.inference.generate import pad_rows, prefill_text
from llamo_jax.models import llamo
from llamo_jax.models.cache import KVCache


def caption_tokens(
    params: dict[str, Any],
    config: LlamoConfig,
    before: list[int],
    motions: list[np.ndarray],
    after: list[int],
    *,
    eos_id: int,
    max_tokens: int,
) -> list[list[int]]:
    """Greedy text after motions.

    Args:
      params: with unstacked layers (`llamo.decoding_params`).
      config: the model's.
      before: token ids in front of every motion.
      motions: normalised latents [n, Z] of each.
      after: ids behind every motion, [EOM] first.
      eos_id: the token that ends a caption.
      max_tokens: most tokens of a caption.

    Returns:
      The new token ids of each, without the one that ended it.
    """
    batch, slots = len(motions), max(len(motion) for motion in motions) + 1
    latents = np.zeros((batch, slots, config.latent_channels), np.float32)
    for row, motion in zip(latents, motions, strict=True):
        row[1 : len(motion) + 1] = motion
    motion_lengths = jnp.asarray([len(motion) + 1 for motion in motions], jnp.int32)
    cache = KVCache.empty(config.text, batch, len(before) + slots + len(after) + max_tokens, params["text"]["embed"].dtype)
    tokens, lengths = pad_rows([before] * batch, len(before))
    cache = prefill_text(params, config, tokens, jnp.zeros_like(lengths), lengths, cache)
    cache = _prefill_motion(params, config, jnp.asarray(latents), lengths, motion_lengths, cache)
    tokens, after_lengths = pad_rows([after] * batch, len(after))
    return _decode(params, config, tokens, lengths + motion_lengths, after_lengths, cache, eos_id, max_tokens)


def complete_tokens(params: dict[str, Any], config: LlamoConfig, prompt: list[int], *, eos_id: int, max_tokens: int) -> list[int]:
    """Greedy continuation of a text."""
    cache = KVCache.empty(config.text, 1, len(prompt) + max_tokens, params["text"]["embed"].dtype)
    tokens, lengths = pad_rows([prompt], len(prompt))
    return _decode(params, config, tokens, jnp.zeros_like(lengths), lengths, cache, eos_id, max_tokens)[0]


def _decode(
    params: dict,
    config: LlamoConfig,
    tokens: Int[Array, "B T"],
    starts: Int[Array, " B"],
    lengths: Int[Array, " B"],
    cache: KVCache,
    eos_id: int,
    max_tokens: int,
) -> list[list[int]]:
    batch = tokens.shape[0]
    outputs: list[list[int]] = [[] for _ in range(batch)]
    alive = np.ones(batch, bool)
    for _ in range(max_tokens):
        tokens, cache = _next_token(params, config, tokens, starts, cache)
        starts, lengths = starts + lengths, jnp.ones_like(lengths)
        drawn = np.asarray(tokens[:, 0])
        alive &= drawn != eos_id
        for row in np.flatnonzero(alive):
            outputs[row].append(int(drawn[row]))
        if not alive.any():
            break
    return outputs


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def _next_token(
    params: dict, config: LlamoConfig, tokens: Int[Array, "B T"], starts: Int[Array, " B"], cache: KVCache
) -> tuple[Int[Array, "B 1"], KVCache]:
    positions = starts[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    h, cache = llamo.text_step(params, config, tokens, positions, jnp.ones_like(tokens), cache)
    return llamo.lm_head(params["text"], h[:, -1:]).argmax(-1).astype(jnp.int32), cache


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def _prefill_motion(
    params: dict,
    config: LlamoConfig,
    latents: Float[Array, "B S Z"],
    starts: Int[Array, " B"],
    lengths: Int[Array, " B"],
    cache: KVCache,
) -> KVCache:
    index = jnp.broadcast_to(jnp.arange(latents.shape[1], dtype=jnp.int32), latents.shape[:2])
    segments = (index < lengths[:, None]).astype(jnp.int32)
    return llamo.motion_step(params, config, latents, index == 0, starts[:, None] + index, segments, cache)[1]
