"""Text-to-motion, offline and batched: one jitted step a latent, over a fixed-size KV cache."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from llamo_jax.config import LlamoConfig, SamplingConfig
from llamo_jax.inference.decoding import draw, schedule, start


def generate_latents(
    params: dict[str, Any],
    config: LlamoConfig,
    prompts: Sequence[Sequence[int]],
    unconditional: Sequence[int],
    keys: Array,
    sampling: SamplingConfig,
    *,
    max_latents: int,
    until_exit: bool = True,
    noise: Float[Array, "B n Z"] | None = None,
) -> list[Float[np.ndarray, "n Z"]]:
    """Normalised latents for each prompt.

    Args:
      params: with unstacked layers (`llamo.decoding_params`).
      config: the model's.
      prompts: token ids before the motion.
      unconditional: the ids that stand for no text, for guidance.
      keys: [B] keys of the noise, as in `Decoding`.
      sampling: how to draw.
      max_latents: most latents for each.
      until_exit: end a motion where the exit head says so; else all have `max_latents`.
      noise: standard normal, for `max_latents` latents, in place of what the keys give.

    Returns:
      For each prompt [n, Z] with 1 <= n <= max_latents.
    """
    sides = [prompts, [unconditional] * len(prompts)] if sampling.guided else [prompts]
    state = start(params, config, sides, room=max_latents, keys=keys)
    times = schedule(params, sampling)
    alive, lengths = np.ones(len(prompts), bool), np.zeros(len(prompts), int)
    drawn = []
    for index in range(max_latents):
        given = None if noise is None else noise[:, index]
        state, latent, ended = draw(params, config, sampling, times, state, given)
        if until_exit:
            alive &= ~np.asarray(ended)
            if not alive.any():
                break
        lengths += alive
        drawn.append(latent)
    latents = np.asarray(jnp.stack(drawn, 1))
    return [row[:length] for row, length in zip(latents, lengths, strict=True)]
