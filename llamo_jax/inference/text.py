"""The LLM's own head: captions of motions and plain text, greedy and batched."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from llamo_jax.config import LlamoConfig
from llamo_jax.inference.buckets import padded_arrays, padded_tokens, round_up
from llamo_jax.inference.decoding import Decoding, say, show, start, write


def caption_tokens(
    params: dict[str, Any],
    config: LlamoConfig,
    before: Sequence[int],
    motions: Sequence[Float[np.ndarray, "n Z"]],
    after: Sequence[int],
    *,
    eos_id: int,
    max_tokens: int,
) -> list[list[int]]:
    """Greedy text after motions.

    Args:
      params: with unstacked layers (`llamo.decoding_params`).
      config: the model's.
      before: token ids in front of every motion.
      motions: normalised latents of each.
      after: ids behind every motion, [EOM] first.
      eos_id: the token that ends a caption.
      max_tokens: most tokens of a caption.

    Returns:
      The new token ids of each, without the one that ended it.
    """
    latents, counts = padded_arrays(motions)
    tokens, lengths = padded_tokens([after] * len(motions))
    room = latents.shape[1] + 1 + max(tokens.shape[1], round_up(len(after) + max_tokens))
    state = start(params, config, [[before] * len(motions)], room=room)
    state = show(params, config, state, jnp.asarray(latents), jnp.asarray(counts))
    state = say(params, config, state, jnp.asarray(tokens)[None], jnp.asarray(lengths)[None])
    return _continue(params, config, state, eos_id, max_tokens)


def complete_tokens(
    params: dict[str, Any], config: LlamoConfig, prompt: Sequence[int], *, eos_id: int, max_tokens: int
) -> list[int]:
    """Greedy continuation of a text."""
    state = start(params, config, [[prompt]], room=max_tokens)
    return _continue(params, config, state, eos_id, max_tokens)[0]


def _continue(params: dict, config: LlamoConfig, state: Decoding, eos_id: int, max_tokens: int) -> list[list[int]]:
    batch = state.position.shape[1]
    outputs: list[list[int]] = [[] for _ in range(batch)]
    alive = np.ones(batch, bool)
    for _ in range(max_tokens):
        state, tokens = write(params, config, state)
        drawn = np.asarray(tokens)
        alive &= drawn != eos_id
        for row in np.flatnonzero(alive):
            outputs[row].append(int(drawn[row]))
        if not alive.any():
            break
    return outputs
