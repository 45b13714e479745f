"""One decoding state for motion and text, in one piece or as a stream: `start`, `say`, `show`, `draw` and `write`.

Every function is pure: it takes a state and returns the next one. `generate.py`, `text.py` and `session.py` are loops
over them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llamo_jax.config import LlamoConfig, SamplingConfig
from llamo_jax.inference.buckets import padded_tokens, round_up
from llamo_jax.models import flow, llamo
from llamo_jax.models.attention import Places
from llamo_jax.models.cache import KVCache

_NEXT_MOTION = 2**32 - 1  # beyond the number of any latent
_LENGTH = 2**32 - 2  # so is this


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """Where B samples stand.

    Guidance is an axis of its own, G: one row of the cache for each sample with its text and, for G = 2, another
    without. Rows of the cache are numbered g B + b.

    Attributes:
      cache: keys and values of everything so far.
      position: of the next token.
      hidden: normalised hidden state of the last text token, from which the next token of text is said.
      latent: the last latent, the input of the next slot of motion.
      index: how many latents the motion has; at 0 the next slot is fed [BOM].
      survival: probability that the motion has not ended yet.
      keys: of the noise: latent i of sample b draws from fold_in(keys[b], i) alone, whatever else is in the batch, and
        its length from a number that no latent has. Text after a motion changes them: no two motions of a sample have
        the same noise.
    """

    cache: KVCache
    position: Int[Array, "G B"]
    hidden: Float[Array, "G B D"]
    latent: Float[Array, "B Z"]
    index: Int[Array, " B"]
    survival: Float[Array, " B"]
    keys: Array


def start(
    params: dict[str, Any],
    config: LlamoConfig,
    prompts: Sequence[Sequence[Sequence[int]]],
    *,
    room: int,
    keys: Array | None = None,
) -> Decoding:
    """A state that has read its prompts.

    Args:
      params: with unstacked layers (`llamo.decoding_params`).
      config: the model's.
      prompts: for each of the G sides of guidance, the token ids of each of the B samples.
      room: tokens and slots that are to come after the prompts, at most, padding included.
      keys: [B] keys of the noise; None where no motion is going to be drawn.
    """
    sides, batch = len(prompts), len(prompts[0])
    tokens, lengths = padded_tokens([ids for side in prompts for ids in side])
    dtype = params["text"]["embed"].dtype
    state = Decoding(
        KVCache.empty(config.text, sides * batch, tokens.shape[1] + round_up(room), dtype),
        position=jnp.zeros((sides, batch), jnp.int32),
        hidden=jnp.zeros((sides, batch, config.text.width), dtype),
        latent=jnp.zeros((batch, config.latent_channels)),
        index=jnp.zeros(batch, jnp.int32),
        survival=jnp.ones(batch),
        keys=jax.random.split(jax.random.key(0), batch) if keys is None else jnp.copy(keys),
    )
    shape = (sides, batch)
    return say(params, config, state, jnp.asarray(tokens.reshape(*shape, -1)), jnp.asarray(lengths.reshape(shape)))


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def say(
    params: dict, config: LlamoConfig, state: Decoding, tokens: Int[Array, "G B T"], lengths: Int[Array, "G B"]
) -> Decoding:
    """Reads text: the first `lengths` of the tokens of each row. A motion that comes after it is a new one."""
    index = jnp.broadcast_to(jnp.arange(tokens.shape[2], dtype=jnp.int32), tokens.shape)
    places = _rows(Places(state.position[..., None] + index, (index < lengths[..., None]).astype(jnp.int32)))
    h, cache = llamo.text_step(params, config, _rows(tokens), places, state.cache)
    last = jnp.maximum(lengths - 1, 0).reshape(-1)
    renewed = jax.vmap(lambda key: jax.random.fold_in(key, _NEXT_MOTION))(state.keys)
    hidden = h[jnp.arange(len(h)), last].reshape(state.hidden.shape)
    return dataclasses.replace(
        state,
        cache=cache,
        position=state.position + lengths,
        hidden=hidden,
        index=jnp.zeros_like(state.index),
        survival=jnp.ones_like(state.survival),
        keys=jnp.where(state.index > 0, renewed, state.keys),
    )


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def show(
    params: dict, config: LlamoConfig, state: Decoding, latents: Float[Array, "B n Z"], lengths: Int[Array, " B"]
) -> Decoding:
    """Reads a whole motion: the first `lengths` latents of each sample, and the slot after them."""
    return _shown(params, config, state, latents, lengths)[0]


@functools.partial(jax.jit, static_argnames="config")
def hazards(
    params: dict, config: LlamoConfig, state: Decoding, latents: Float[Array, "B n Z"], lengths: Int[Array, " B"]
) -> Float[Array, "B n+1"]:
    """Reads a whole motion, as `show`: the exit head's p at each of its slots, of which the first `lengths` + 1
    count."""
    _, h = _shown(params, config, state, latents, lengths)
    return jax.nn.sigmoid(llamo.exit_head(params, h[: len(latents)].astype(jnp.float32)))


def _shown(
    params: dict, config: LlamoConfig, state: Decoding, latents: Float[Array, "B n Z"], lengths: Int[Array, " B"]
) -> tuple[Decoding, Float[Array, "R n+1 D"]]:
    sides, batch = state.position.shape
    inputs = jnp.pad(latents, ((0, 0), (1, 0), (0, 0)))
    index = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.int32), (sides, batch, inputs.shape[1]))
    slots = lengths + 1
    segments = (index < slots[:, None]).astype(jnp.int32)
    places = _rows(Places(state.position[..., None] + index, segments))
    inputs = _rows(jnp.broadcast_to(inputs, (sides, *inputs.shape)))
    h, cache = llamo.motion_step(params, config, inputs, _rows(index) == 0, places, state.cache)
    return dataclasses.replace(state, cache=cache, position=state.position + slots), h


def resume(
    params: dict[str, Any],
    config: LlamoConfig,
    prompts: Sequence[Sequence[Sequence[int]]],
    history: Float[Array, "B n Z"],
    lengths: Int[Array, " B"],
    *,
    room: int,
    keys: Array,
    index: Int[Array, " B"],
) -> Decoding:
    """A state that has read its prompts and then a motion that goes on: the next latent is number `index`.

    Args:
      params: with unstacked layers (`llamo.decoding_params`).
      config: the model's.
      prompts: as of `start`.
      history: the last latents of each motion, padded on the right.
      lengths: how many of each count, at least 1.
      room: as of `start`.
      keys: of the noise.
      index: of the latent after the history.
    """
    state = show(params, config, start(params, config, prompts, room=room, keys=keys), history, lengths - 1)
    last = history[jnp.arange(len(history)), lengths - 1]
    return dataclasses.replace(state, latent=last, index=jnp.asarray(index, jnp.int32))


@functools.partial(jax.jit, donate_argnames="state")
def put(state: Decoding, row: Int[Array, ""], one: Decoding) -> Decoding:
    """A batch of samples with another sample, of as many slots, in the place of number `row`."""
    return _of_sample(state, lambda whole, single: whole.at[row].set(single[0]), one)


@jax.jit
def take(state: Decoding, row: Int[Array, ""]) -> Decoding:
    """A batch of sample number `row` alone; a copy."""
    return _of_sample(state, lambda whole: jax.lax.dynamic_index_in_dim(whole, row, keepdims=True))


@functools.partial(jax.jit, static_argnames="samples")
def repeat(one: Decoding, samples: int) -> Decoding:
    """A batch of so many times the same sample."""
    return _of_sample(one, lambda single: jnp.repeat(single, samples, 0))


def _of_sample(state: Decoding, change: Callable[..., Array], *others: Decoding) -> Decoding:
    """Applies a function to every array, its samples on the first axis."""
    sides = len(state.position)

    def of_rows(*leaves: Array) -> Array:
        split = (jnp.moveaxis(leaf.reshape(sides, -1, *leaf.shape[1:]), 1, 0) for leaf in leaves)
        return jnp.moveaxis(change(*split), 0, 1).reshape(-1, *leaves[0].shape[1:])

    def of_sides(*leaves: Array) -> Array:
        return jnp.moveaxis(change(*(jnp.moveaxis(leaf, 1, 0) for leaf in leaves)), 0, 1)

    every = (state, *others)
    kinds = {"cache": of_rows, "position": of_sides, "hidden": of_sides}
    return Decoding(
        **{
            field.name: jax.tree.map(kinds.get(field.name, change), *(getattr(each, field.name) for each in every))
            for field in dataclasses.fields(Decoding)
        }
    )


def schedule(params: dict, sampling: SamplingConfig) -> flow.Schedule:
    """What `draw` needs to know of the sampling, and is the same for every latent."""
    return flow.schedule(params["flow_head"], solver=sampling.solver, steps=sampling.steps, shift=sampling.shift)


@functools.partial(jax.jit, static_argnames=("config", "sampling"), donate_argnames="state")
def draw(
    params: dict,
    config: LlamoConfig,
    sampling: SamplingConfig,
    times: flow.Schedule,
    state: Decoding,
    noise: Float[Array, "B Z"] | None = None,
    active: Bool[Array, " B"] | None = None,
) -> tuple[Decoding, Float[Array, "B Z"], Bool[Array, " B"]]:
    """The next latent of each sample, and whether its motion had ended before it.

    A motion has at least one latent: ending before the first would be nothing at all.

    Args:
      params: with unstacked layers (`llamo.decoding_params`).
      config: the model's.
      sampling: how to draw.
      times: of `schedule`, for this sampling.
      state: of the samples; it is donated.
      noise: standard normal; None draws it from the keys of the state.
      active: samples that go on; the others stay where they are. None is all.
    """
    sides, batch = state.position.shape
    active = jnp.ones(batch, bool) if active is None else active
    position = state.position.reshape(-1, 1)
    segments = jnp.tile(active, sides)[:, None].astype(jnp.int32)
    inputs = jnp.tile(state.latent, (sides, 1))[:, None]
    first = jnp.tile(state.index == 0, sides)[:, None]
    h, cache = llamo.motion_step(params, config, inputs, first, Places(position, segments), state.cache)
    h = h[:, 0].astype(jnp.float32).reshape(sides, batch, -1)

    latent = flow.sample(
        params["flow_head"],
        h,
        sampling.temperature * (noise_of(config, state.keys, state.index) if noise is None else noise),
        times,
        solver=sampling.solver,
        guidance=sampling.guidance,
    )
    survival = state.survival * (1 - jax.nn.sigmoid(llamo.exit_head(params, h[0])))
    threshold = thresholds_of(state.keys) if sampling.length == "drawn" else sampling.exit_threshold
    ended = (1 - survival > threshold) & (state.index > 0)
    state = dataclasses.replace(
        state,
        cache=cache,
        position=state.position + active,
        latent=jnp.where(active[:, None], latent, state.latent),
        index=state.index + active,
        survival=jnp.where(active, survival, state.survival),
    )
    return state, latent, ended


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def write(params: dict, config: LlamoConfig, state: Decoding) -> tuple[Decoding, Int[Array, " B"]]:
    """The next token of text of each sample: the likeliest."""
    tokens = llamo.lm_head(params["text"], state.hidden).argmax(-1).astype(jnp.int32)
    return say(params, config, state, tokens[..., None], jnp.ones_like(tokens)), tokens[0]


def noise_of(config: LlamoConfig, keys: Array, index: Int[Array, " B"]) -> Float[Array, "B Z"]:
    """The noise of latent number `index` of each sample."""

    def one(key: Array, index: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, index), (config.latent_channels,))

    return jax.vmap(one)(keys, index)


def thresholds_of(keys: Array) -> Float[Array, " B"]:
    """The chance of having ended at which each sample's motion ends, where lengths are drawn: uniform in (0, 1)."""
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _LENGTH)))(keys)


def _rows(tree: Any) -> Any:
    """[G, B, ...] -> [G B, ...], the rows of the model."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)
