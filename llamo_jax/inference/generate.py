"""Text-to-motion, offline and batched: one jitted step a latent token, over a fixed-size KV cache."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llamo_jax.config import LlamoConfig
from llamo_jax.errors import InputError
from llamo_jax.models import flow, llamo
from llamo_jax.models.cache import KVCache
from llamo_jax.models.flow import SOLVERS, Solver

_BUCKET = 32  # prompts and caches are padded to multiples of this, so that few shapes compile


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How latents are drawn.

    Attributes:
      guidance: classifier-free guidance scale; 1 is off, and skips the second pass.
      steps: steps of the ODE solver a token.
      solver: "euler", "midpoint" or "heun".
      exit_threshold: a motion ends at the first slot where the probability that it has ended by then exceeds this. The exit head is
        read as a hazard, 1 - prod (1 - p): single probabilities stay low where the end is uncertain.
    """

    guidance: float = 2.0
    steps: int = 10
    solver: Solver = "euler"
    exit_threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise InputError(f'solver "{self.solver}" does not exist; expected one of {", ".join(SOLVERS)}')
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; expected at least 1")
        if not self.guidance >= 0:
            raise InputError(f"guidance is {self.guidance}; expected 0 or more")
        if not 0 < self.exit_threshold < 1:
            raise InputError(f"exit_threshold is {self.exit_threshold}; expected between 0 and 1")


def generate_latents(
    params: dict[str, Any],
    config: LlamoConfig,
    prompts: list[list[int]],
    unconditional: list[int],
    keys: Array,
    sampling: SamplingConfig,
    max_tokens: int,
    *,
    until_exit: bool = True,
) -> list[np.ndarray]:
    """Normalised latents for each prompt.

    Args:
      params: with unstacked layers (`llamo.decoding_params`).
      config: the model's.
      prompts: token ids before the motion.
      unconditional: the ids that stand for no text, for guidance.
      keys: [B] keys; token i of row b draws from fold_in(keys[b], i) alone, whatever else is in the batch.
      sampling: how to draw.
      max_tokens: most latents for each.
      until_exit: end a motion where the exit head says so; else all have `max_tokens`.

    Returns:
      For each prompt [n, Z] with 1 <= n <= max_tokens.
    """
    batch = len(prompts)
    guided = sampling.guidance != 1
    rows = prompts + [unconditional] * batch if guided else prompts
    length = _round_up(max(map(len, rows)))
    tokens, lengths = pad_rows(rows, length)
    cache = KVCache.empty(config.text, len(rows), length + _round_up(max_tokens), params["text"]["embed"].dtype)
    cache = prefill_text(params, config, tokens, jnp.zeros_like(lengths), lengths, cache)
    latent = jnp.zeros((batch, config.latent_channels))
    alive = np.ones(batch, bool)
    survival = np.ones(batch)
    ends = np.full(batch, max_tokens)
    drawn = []
    for index in range(max_tokens):
        latent, exit_probability, cache = _step(params, config, sampling, latent, jnp.int32(index), lengths, keys, cache)
        if until_exit:
            survival *= 1 - np.asarray(exit_probability)
            # A motion has at least one latent: ending before the first would be nothing at all.
            ended = alive & (1 - survival > sampling.exit_threshold) & (index > 0)
            ends[ended] = index
            alive &= ~ended
            if not alive.any():
                break
        drawn.append(latent)
    latents = np.asarray(jnp.stack(drawn, 1))
    return [latents[row, : ends[row]] for row in range(batch)]


def pad_rows(rows: list[list[int]], length: int) -> tuple[Int[Array, "B T"], Int[Array, " B"]]:
    """Token rows padded with 0 to `length`, and their true lengths."""
    tokens = np.zeros((len(rows), length), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return jnp.asarray(tokens), jnp.asarray([len(ids) for ids in rows], jnp.int32)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def prefill_text(
    params: dict, config: LlamoConfig, tokens: Int[Array, "B T"], starts: Int[Array, " B"], lengths: Int[Array, " B"], cache: KVCache
) -> KVCache:  # fmt: skip
    """Runs whole text prompts that begin at the positions `starts` into the cache; slots past a row's length stay empty."""
    index = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    segments = (index < lengths[:, None]).astype(jnp.int32)
    return llamo.text_step(params, config, tokens, starts[:, None] + index, segments, cache)[1]


@functools.partial(jax.jit, static_argnames=("config", "sampling"), donate_argnames="cache")
def _step(
    params: dict,
    config: LlamoConfig,
    sampling: SamplingConfig,
    latent: Float[Array, "B Z"],
    index: Int[Array, ""],
    starts: Int[Array, " R"],
    keys: Array,
    cache: KVCache,
) -> tuple[Float[Array, "B Z"], Float[Array, " B"], KVCache]:
    """Feeds the last latent ([BOM] at index 0) and draws the next. Rows of the cache: B with text, then B without, if guided."""
    batch, rows = latent.shape[0], starts.shape[0]
    inputs = jnp.tile(latent, (rows // batch, 1))[:, None]
    positions = (starts + index)[:, None]
    start = jnp.broadcast_to(index == 0, (rows, 1))
    h, cache = llamo.motion_step(params, config, inputs, start, positions, jnp.ones_like(positions), cache)
    h = h[:, 0].astype(jnp.float32)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), (config.latent_channels,)))(keys)
    unconditional = h[batch:] if rows > batch else None
    solver = {"solver": sampling.solver, "steps": sampling.steps, "guidance": sampling.guidance}
    sampled = flow.sample(params["flow"], h[:batch], noise, **solver, unconditional=unconditional)
    return sampled, jax.nn.sigmoid(llamo.exit_head(params, h[:batch])), cache


def _round_up(length: int) -> int:
    return -(-length // _BUCKET) * _BUCKET
