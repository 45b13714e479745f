"""LLaMo: embeddings, both towers and the three heads, as functions of a parameter tree.

The tree has the sub-trees `text` (the LLM: frozen, absent from every gradient), `motion` (the motion tower, its adapter and the embeddings
[BOM] and [EOM]), `flow` (the flow head) and `exit` (the exit head).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from llamo_jax.config import LlamoConfig, LLMConfig
from llamo_jax.models import mot
from llamo_jax.models.cache import KVCache
from llamo_jax.models.flow import FlowHead
from llamo_jax.models.layers import Linear, dot, init, linear, param, rms_norm

Params = dict[str, Any]


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


class Motion(nnx.Module):
    """Declares the motion side: all that training adds to the LLM."""

    def __init__(self, rngs: nnx.Rngs, config: LlamoConfig):
        width = config.motion.width
        self.motion = nnx.Dict(
            adapter=Linear(rngs, width, config.latent_channels, ("embed", "latent")),
            bom=param(rngs, (width,), ("embed",), std=1.0),
            eom=param(rngs, (config.text.width,), ("embed",), std=0.02),
            layers=mot.Tower(rngs, config.text, width, config.motion.ffn_width),
            norm=param(rngs, (width,), ("embed",), mean=1.0),
        )
        self.flow = FlowHead(rngs, config.flow, width, config.latent_channels)
        self.exit = Linear(rngs, 1, width, (None, "embed"))


def init_motion(config: LlamoConfig, key: jax.Array, text: Params) -> Params:
    """The motion side at the start of training: `motion`, `flow` and `exit`.

    Where the shapes of the towers agree, the motion tower starts as a copy of the text tower, else at random.
    """
    copied = (config.motion.width, config.motion.ffn_width) == (config.text.width, config.text.ffn_width)
    params = init(lambda rngs: Motion(rngs, config), key, without=("motion/layers", "motion/norm") if copied else ())
    if copied:
        params["motion"]["layers"] = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), text["layers"])
        params["motion"]["norm"] = jnp.array(text["norm"], jnp.float32)
    return params


def embed_text(params: Params, config: LlamoConfig, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Embeddings of text tokens; the id `eom_id` takes the trained [EOM] vector."""
    embedded = params["text"]["embed"][jnp.minimum(tokens, config.text.vocab_size - 1)]
    eom = params["motion"]["eom"].astype(embedded.dtype)
    return jnp.where((tokens == config.text.eom_id)[..., None], eom, embedded)


def embed_motion(params: Params, latents: Float[Array, "B T Z"], start: Bool[Array, "B T"], dtype: jnp.dtype) -> Float[Array, "B T D"]:
    """Inputs of the motion tower: each slot's latent through the adapter, or [BOM] at the start of a motion."""
    adapted = linear(params["motion"]["adapter"], latents.astype(dtype))
    return jnp.where(start[..., None], params["motion"]["bom"].astype(dtype), adapted)


def hidden(
    params: Params,
    config: LlamoConfig,
    batch: dict[str, Array],
    *,
    latents: Float[Array, "B Lm Z"] | None = None,
    text_first: bool = False,
    remat: bool = False,
) -> tuple[Float[Array, "B Lt Dt"], Float[Array, "B Lm Dm"] | None]:
    """Normalised hidden states of both streams of a batch (the loader's layout).

    Args:
      params: the whole tree.
      config: the model's.
      batch: a batch; without "motion_latents" it is text only.
      latents: inputs in place of batch["motion_latents"] (history noise); slot i is fed the latent of slot i - 1.
      text_first: as in `mot.forward`.
      remat: as in `mot.forward`.
    """
    text = mot.Stream(embed_text(params, config, batch["text_tokens"]), batch["text_positions"], batch["text_segments"])
    motion = None
    if "motion_latents" in batch:
        targets = batch["motion_latents"] if latents is None else latents
        previous = jnp.pad(targets, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        x = embed_motion(params, previous, batch["motion_start"], text.x.dtype)
        motion = mot.Stream(x, batch["motion_positions"], batch["motion_segments"])
    motion_layers = {} if motion is None else params["motion"]["layers"]
    text_x, motion_x = mot.forward(
        params["text"]["layers"], motion_layers, config.text, text, motion, text_first=text_first, remat=remat
    )
    text_x = rms_norm(params["text"]["norm"], text_x, config.text.norm_eps)
    if motion_x is not None:
        motion_x = rms_norm(params["motion"]["norm"], motion_x, config.text.norm_eps)
    return text_x, motion_x


def lm_head(text: Params, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Float32 logits over the LLM's vocabulary."""
    return dot(x, output_rows(text)).astype(jnp.float32)


def output_rows(text: Params) -> Float[Array, "V D"]:
    """The head's weight: one row a token."""
    return text["head"] if "head" in text else text["embed"]


def exit_head(params: Params, x: Float[Array, "... D"]) -> Float[Array, "..."]:
    """Logit that the motion has ended before this slot's latent."""
    return linear(params["exit"], x)[..., 0].astype(jnp.float32)


def text_logits(text: Params, config: LLMConfig, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    """The LLM alone: logits of whole text sequences (position = index). Reads nothing of the motion side."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    stream = mot.Stream(text["embed"][tokens], positions, jnp.ones_like(positions))
    x, _ = mot.forward(text["layers"], {}, config, stream, None)
    return lm_head(text, rms_norm(text["norm"], x, config.norm_eps))


def text_step(
    params: Params,
    config: LlamoConfig,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    cache: KVCache,
) -> tuple[Float[Array, "B T D"], KVCache]:
    """New text tokens after a cache: their normalised hidden states. `params` has unstacked layers (`decoding_params`)."""
    stream = mot.Stream(embed_text(params, config, tokens), positions, segments)
    x, cache = mot.forward_cached(params["text"]["layers"], config.text, stream, cache)
    return rms_norm(params["text"]["norm"], x, config.text.norm_eps), cache


def motion_step(
    params: Params,
    config: LlamoConfig,
    latents: Float[Array, "B T Z"],
    start: Bool[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    cache: KVCache,
) -> tuple[Float[Array, "B T D"], KVCache]:
    """New motion slots after a cache: `latents` are their inputs, ignored where `start` marks a [BOM] slot."""
    stream = mot.Stream(embed_motion(params, latents, start, params["text"]["embed"].dtype), positions, segments)
    x, cache = mot.forward_cached(params["motion"]["layers"], config.text, stream, cache)
    return rms_norm(params["motion"]["norm"], x, config.text.norm_eps), cache


def decoding_params(params: Params) -> Params:
    """The same tree with the layers of both towers unstacked, as the cached steps want them."""
    return {
        **params,
        "text": {**params["text"], "layers": mot.unstack(params["text"]["layers"])},
        "motion": {**params["motion"], "layers": mot.unstack(params["motion"]["layers"])},
    }
