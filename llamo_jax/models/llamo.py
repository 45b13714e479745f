"""LLaMo: embeddings, both towers and the three heads, as functions of a parameter tree.

The tree has the sub-trees `text` (the LLM: frozen, absent from every gradient), `motion` (the motion tower, its adapter
and the embeddings [BOM] and [EOM]), `flow_head` and `exit_head`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int

from llamo_jax.batch import Batch, PrefixRows
from llamo_jax.config import LlamoConfig, LLMConfig
from llamo_jax.models import mot
from llamo_jax.models.attention import Places
from llamo_jax.models.cache import KVCache
from llamo_jax.models.declaration import Linear, init, param
from llamo_jax.models.flow import FlowHead
from llamo_jax.models.layers import dot, linear, rms_norm
from llamo_jax.models.parallel import ALONE, Parallel

Params = dict[str, Any]

START_SCALE = {"q": 0.5, "k": 0.5, "v": 0.1}
"""Sizes of what a random motion tower projects to, of those of the text tower, layer by layer. At 1 of SmolLM2's, a
caption's first loss is 12.6, more than that of guessing; at these 5.9."""

HEAD_ROWS = 8192
"""Rows of the language head that a device of a mesh uses at a time, at most."""


class LLM(nnx.Module):
    """Declares the text tower."""

    def __init__(self, rngs: nnx.Rngs, config: LLMConfig):
        # Rows that are not outputs too can be large, so that what a token is outlasts what the layers add.
        std = 0.02 if config.tie_embeddings else 1.0
        self.embed = param(rngs, (config.vocab_size, config.width), ("vocab", "embed"), std=std)
        self.layers = mot.Tower(rngs, config, config.width, config.ffn_width)
        self.norm = param(rngs, (config.width,), ("embed",), mean=1.0)
        if not config.tie_embeddings:
            self.head = param(rngs, (config.vocab_size, config.width), ("vocab", "embed"), std=config.width**-0.5)


class MotionSide(nnx.Module):
    """Declares all that training adds to the LLM: motion tower, adapter, embeddings, flow head and exit head."""

    def __init__(self, rngs: nnx.Rngs, config: LlamoConfig):
        width = config.motion.width
        self.motion = nnx.Dict(
            adapter=Linear(rngs, width, config.latent_channels, ("embed", "latent")),
            bom=param(rngs, (width,), ("embed",), std=1.0),
            eom=param(rngs, (config.text.width,), ("embed",), std=0.02),
            layers=mot.Tower(rngs, config.text, width, config.motion.ffn_width),
            norm=param(rngs, (width,), ("embed",), mean=1.0),
        )
        self.flow_head = FlowHead(rngs, config.flow_head, width, config.latent_channels)
        self.exit_head = Linear(rngs, 1, width, (None, "embed"))


class Model(MotionSide):
    """Declares the whole model."""

    def __init__(self, rngs: nnx.Rngs, config: LlamoConfig):
        super().__init__(rngs, config)
        self.text = LLM(rngs, config.text)


def init_motion(
    config: LlamoConfig, key: jax.Array, text: Params, shardings: Mapping[str, NamedSharding] | None = None
) -> Params:
    """The motion side at the start of training: `motion`, `flow_head` and `exit_head`.

    Where the shapes of the towers agree, the motion tower starts as a copy of the text tower, else at random, with
    queries, keys and values of sizes that the text tower is used to (`START_SCALE`): what a random tower says in an
    attention that both share would else be noise in every layer of the LLM.

    Args:
      config: the model's.
      key: of the random values.
      text: the text tower, with stacked layers.
      shardings: by path, where each array is made; None is the default device.
    """
    copied = (config.motion.width, config.motion.ffn_width) == (config.text.width, config.text.ffn_width)
    without = ("motion/layers", "motion/norm") if copied else ()
    params = init(MotionSide, config, key, shardings, without=without)
    if copied:
        params["motion"] |= _float32_copy({"layers": text["layers"], "norm": text["norm"]})
    else:
        params["motion"] |= _in_scale(params["motion"], text)
    return params


@jax.jit
def _in_scale(motion: Params, text: Params) -> Params:
    """The parts of a random motion side that meet the text tower, in its scale."""

    def size(layers: Params, name: str) -> Float[Array, " L"]:
        """Root mean square of what a projection makes of normalised inputs."""
        weight, gain = layers["attn"][name]["weight"], layers["attn_norm"]
        return jnp.sqrt(jnp.square((weight * gain[:, None]).astype(jnp.float32)).sum(-1).mean(-1))

    layers = motion["layers"]
    scaled = {
        name: {**layers["attn"][name], "weight": layers["attn"][name]["weight"] * ratio[:, None, None]}
        for name, factor in START_SCALE.items()
        for ratio in (factor * size(text["layers"], name) / size(layers, name),)
    }
    wanted, found = (jnp.sqrt(jnp.square(each.astype(jnp.float32)).mean()) for each in (text["embed"], motion["eom"]))
    return {"layers": {**layers, "attn": layers["attn"] | scaled}, "eom": motion["eom"] * wanted / found}


@jax.jit
def _float32_copy(tree: Params) -> Params:
    # On the same devices as the text tower, each array split as there. A copy: one of the two is going to train.
    return jax.tree.map(lambda leaf: jnp.copy(leaf.astype(jnp.float32)), tree)


def embed_text(
    text: Params,
    tokens: Int[Array, "B T"],
    eom: Float[Array, " D"] | None = None,
    *,
    vocab_size: int | None = None,
    parallel: Parallel = ALONE,
) -> Float[Array, "B T D"]:
    """Embeddings of text tokens. The id one past the LLM's vocabulary is [EOM] and takes its trained vector `eom`."""
    vocab_size = vocab_size or len(text["embed"])
    embedded = parallel.embed(text["embed"], jnp.minimum(tokens, vocab_size - 1))
    return (
        embedded if eom is None else jnp.where((tokens == vocab_size)[..., None], eom.astype(embedded.dtype), embedded)
    )


def embed_motion(
    params: Params, latents: Float[Array, "B T Z"], start: Bool[Array, "B T"], dtype: jnp.dtype
) -> Float[Array, "B T D"]:
    """Inputs of the motion tower: each slot's latent through the adapter, or [BOM] at the start of a motion."""
    adapted = linear(params["motion"]["adapter"], latents.astype(dtype))
    return jnp.where(start[..., None], params["motion"]["bom"].astype(dtype), adapted)


def hidden(
    params: Params,
    config: LlamoConfig,
    batch: Batch,
    *,
    latents: Float[Array, "B Lm Z"] | None = None,
    text_first: bool = False,
    parallel: Parallel = ALONE,
) -> tuple[Float[Array, "B Lt Dt"] | None, Float[Array, "B Lm Dm"] | None]:
    """Normalised hidden states of both streams of a batch; None of a stream without tokens.

    Args:
      params: the whole tree; for a batch of plain text its sub-tree `text` is enough.
      config: the model's.
      batch: rows of both streams, or of text alone.
      latents: inputs in place of the batch's own (history noise); slot i is fed the latent of slot i - 1.
      text_first: no motion precedes text in any sample. Then the text tower is the LLM on its own, and nothing that
        trains lies behind its keys and values: its backward pass never runs.
      parallel: the devices, of which each has its part of `params` and its rows of `batch`.
    """
    text, motion, kept = batch
    dtype = params["text"]["embed"].dtype
    towers, sides = [], []
    if text.tokens.shape[1]:
        eom = parallel.gather(params["motion"]["eom"], "motion/eom", dtype) if "motion" in params else None
        x = embed_text(params["text"], text.tokens, eom, vocab_size=config.text.vocab_size, parallel=parallel)
        x = jax.lax.stop_gradient(x) if text_first else x
        sides.append("text")
        towers.append((params["text"]["layers"], mot.Stream(x, Places(text.positions, text.segments))))
    if motion is not None:
        targets = motion.latents if latents is None else latents
        previous = jnp.pad(targets, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        whole = {name: parallel.gather(params["motion"][name], f"motion/{name}", dtype) for name in ("adapter", "bom")}
        inputs = embed_motion({"motion": whole}, previous, motion.start, dtype)
        stream = mot.Stream(inputs, Places(motion.positions, motion.segments))
        sides.append("motion")
        towers.append((params["motion"]["layers"], stream))
    sees = (1, 2) if text_first and len(towers) == 2 else None
    prefix = None if kept is None else _prefix_of(kept)
    paths = [f"{side}/layers" for side in sides]
    states = mot.forward(towers, config.text, prefix=prefix, sees=sees, parallel=parallel, paths=paths)
    norms = [parallel.gather(params[side]["norm"], f"{side}/norm", dtype) for side in sides]
    normed = {side: rms_norm(norm, x, config.text.norm_eps) for side, norm, x in zip(sides, norms, states, strict=True)}
    return normed.get("text"), normed.get("motion")


def _prefix_of(rows: PrefixRows) -> mot.Prefix:
    keys, values = (jnp.moveaxis(each, 1, 0) for each in (rows.keys, rows.values))
    return mot.Prefix(keys, values, Places(rows.positions, rows.segments))


@functools.partial(jax.jit, static_argnames="config")
def prefix_keys(
    text: Params,
    config: LLMConfig,
    tokens: Int[Array, "B T"],
    before: tuple[Float[Array, "L K S H"], Float[Array, "L K S H"]] | None = None,
) -> tuple[Float[Array, "B L K T H"], Float[Array, "B L K T H"]]:
    """Rotated keys and values of texts that start their samples, padded on the right: what `PrefixRows` keeps.

    Args:
      text: the text tower.
      config: its config.
      tokens: of the texts; with `before`, of what comes after it.
      before: keys and values of what all of them begin with.
    """
    prefix, start = None, 0
    if before is not None:
        keys, values = (jnp.broadcast_to(each[:, None], (len(each), len(tokens), *each.shape[1:])) for each in before)
        start = keys.shape[3]
        places = Places(*jnp.broadcast_to(jnp.arange(start), (2, len(tokens), start)))
        prefix = mot.Prefix(keys, values, places._replace(segments=jnp.ones_like(places.segments)))
    positions = jnp.broadcast_to(jnp.arange(start, start + tokens.shape[1], dtype=jnp.int32), tokens.shape)
    stream = mot.Stream(embed_text(text, tokens), Places(positions, jnp.ones_like(positions)))
    keys, values = mot.keys_and_values(text["layers"], config, stream, prefix)
    return jnp.moveaxis(keys, 0, 1), jnp.moveaxis(values, 0, 1)


def lm_head(text: Params, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Float32 logits over the LLM's vocabulary."""
    return dot(x, text["head"] if "head" in text else text["embed"]).astype(jnp.float32)


def next_token(
    text: Params,
    x: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    *,
    parallel: Parallel = ALONE,
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """Negative log likelihood of each next token, and whether it is the likeliest.

    On a mesh the head is used a chunk of the vocabulary at a time: neither is it gathered whole, nor are all logits
    of a batch ever there.

    Args:
      text: the text tower.
      x: normalised hidden states.
      targets: tokens to be said next.
      parallel: the devices.
    """
    name = "head" if "head" in text else "embed"
    head = text[name]
    if parallel.mesh is None:
        logits = dot(x, head).astype(jnp.float32)
        nll = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
        return nll, logits.argmax(-1) == targets
    x = parallel.split(x)
    local = targets - parallel.first_row(len(head))
    # The fewest equal chunks.
    count = next(n for n in range(-(-len(head) // HEAD_ROWS), len(head) + 1) if len(head) % n == 0)
    chunks = head.reshape(count, len(head) // count, head.shape[1])

    @jax.checkpoint
    def of_chunk(carry: tuple[Array, ...], part: tuple[Array, Array]) -> tuple[tuple[Array, ...], None]:
        most, total, own = carry
        rows, first = part
        logits = dot(x, parallel.gather(rows, f"text/{name}", x.dtype)).astype(jnp.float32)
        higher = jnp.maximum(most, jax.lax.stop_gradient(logits.max(-1)))
        total = total * jnp.exp(most - higher) + jnp.exp(logits - higher[..., None]).sum(-1)
        inside = (local >= first) & (local < first + len(rows))
        picked = jnp.take_along_axis(logits, jnp.clip(local - first, 0, len(rows) - 1)[..., None], -1)[..., 0]
        return (higher, total, own + jnp.where(inside, picked, 0.0)), None

    zero = 0.0 * jax.lax.stop_gradient(x[..., 0]).astype(jnp.float32)  # as x is spread over devices
    firsts = jnp.arange(count) * chunks.shape[1]
    (most, total, own), _ = jax.lax.scan(of_chunk, (zero - jnp.inf, zero, zero), (chunks, firsts))
    everywhere = parallel.largest(jax.lax.stop_gradient(most))
    total = parallel.reduce(total * jnp.exp(most - everywhere))
    own = parallel.reduce(own)
    return jnp.log(total) + everywhere - own, own >= everywhere


def exit_head(params: Params, x: Float[Array, "... D"]) -> Float[Array, "..."]:
    """Logit that the motion has ended before this slot's latent."""
    return linear(params["exit_head"], x)[..., 0].astype(jnp.float32)


def text_logits(text: Params, config: LLMConfig, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    """The LLM alone: logits of whole text sequences (position = index). Reads nothing of the motion side."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    stream = mot.Stream(embed_text(text, tokens), Places(positions, jnp.ones_like(positions)))
    (x,) = mot.forward([(text["layers"], stream)], config)
    return lm_head(text, rms_norm(text["norm"], x, config.norm_eps))


def text_step(
    params: Params, config: LlamoConfig, tokens: Int[Array, "R T"], places: Places, cache: KVCache
) -> tuple[Float[Array, "R T D"], KVCache]:
    """New text tokens after a cache: their normalised hidden states. `params` has unstacked layers."""
    stream = mot.Stream(embed_text(params["text"], tokens, params["motion"]["eom"]), places)
    x, cache = mot.forward_cached(params["text"]["layers"], config.text, stream, cache)
    return rms_norm(params["text"]["norm"], x, config.text.norm_eps), cache


def motion_step(
    params: Params,
    config: LlamoConfig,
    latents: Float[Array, "R T Z"],
    start: Bool[Array, "R T"],
    places: Places,
    cache: KVCache,
) -> tuple[Float[Array, "R T D"], KVCache]:
    """New motion slots after a cache: `latents` are their inputs, ignored where `start` marks a [BOM] slot."""
    stream = mot.Stream(embed_motion(params, latents, start, params["text"]["embed"].dtype), places)
    x, cache = mot.forward_cached(params["motion"]["layers"], config.text, stream, cache)
    return rms_norm(params["motion"]["norm"], x, config.text.norm_eps), cache


def decoding_params(params: Params) -> Params:
    """The same tree with the layers of its towers unstacked, as the cached steps want them. A copy of the towers."""
    towers = {
        name: {**params[name], "layers": mot.unstack(params[name]["layers"])}
        for name in ("text", "motion")
        if name in params and isinstance(params[name]["layers"], dict)
    }
    return params | towers
