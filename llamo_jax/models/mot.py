"""The Mixture-of-Transformers: two towers over two streams, one attention.

Text and motion tokens are separate arrays, each with its global positions and segment ids. Each tower is a dense Llama stack over its own
stream; in every layer Q, K and V of both meet in one attention. Without motion, the text tower is the plain LLM, bit for bit.
Source: LLaMo, section 3; the shape contract (equal depth and heads, free widths) is that of multi-expert attention in openpi.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from llamo_jax.config import LLMConfig
from llamo_jax.models.attention import attention, causal_mask, rope, rope_frequencies
from llamo_jax.models.cache import KVCache
from llamo_jax.models.layers import affine, param, rms_norm


class Stream(NamedTuple):
    """Tokens of one modality on their way through their tower."""

    x: Float[Array, "B T D"]
    positions: Int[Array, "B T"]
    segments: Int[Array, "B T"]


class _Attention(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, config: LLMConfig, width: int):
        layers, q_dim, kv_dim = config.num_layers, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        std, out_std = width**-0.5, q_dim**-0.5 * (2 * layers) ** -0.5
        self.q = param(rngs, (layers, q_dim, width), ("layers", "heads", "embed"), std=std)
        self.k = param(rngs, (layers, kv_dim, width), ("layers", "kv_heads", "embed"), std=std)
        self.v = param(rngs, (layers, kv_dim, width), ("layers", "kv_heads", "embed"), std=std)
        self.o = param(rngs, (layers, width, q_dim), ("layers", "embed", "heads"), std=out_std)
        if config.qkv_bias:
            self.q_bias = param(rngs, (layers, q_dim), ("layers", "heads"))
            self.k_bias = param(rngs, (layers, kv_dim), ("layers", "kv_heads"))
            self.v_bias = param(rngs, (layers, kv_dim), ("layers", "kv_heads"))
        if config.output_bias:
            self.o_bias = param(rngs, (layers, width), ("layers", "embed"))
        if config.qk_norm:
            self.q_norm = param(rngs, (layers, config.head_dim), ("layers", None), mean=1.0)
            self.k_norm = param(rngs, (layers, config.head_dim), ("layers", None), mean=1.0)


class _FeedForward(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, config: LLMConfig, width: int, ffn_width: int):
        layers = config.num_layers
        std, out_std = width**-0.5, ffn_width**-0.5 * (2 * layers) ** -0.5
        self.gate = param(rngs, (layers, ffn_width, width), ("layers", "ffn", "embed"), std=std)
        self.up = param(rngs, (layers, ffn_width, width), ("layers", "ffn", "embed"), std=std)
        self.down = param(rngs, (layers, width, ffn_width), ("layers", "embed", "ffn"), std=out_std)
        if config.ffn_bias:
            self.gate_bias = param(rngs, (layers, ffn_width), ("layers", "ffn"))
            self.up_bias = param(rngs, (layers, ffn_width), ("layers", "ffn"))
            self.down_bias = param(rngs, (layers, width), ("layers", "embed"))


class Tower(nnx.Module):
    """The layers of one tower, stacked on a leading axis. Outputs to the residual stream start 1 / sqrt(2 layers) smaller.

    Both towers have the LLM's options (biases, norms of queries and keys), so that one can start as the other's copy.
    """

    def __init__(self, rngs: nnx.Rngs, config: LLMConfig, width: int, ffn_width: int):
        self.attn_norm = param(rngs, (config.num_layers, width), ("layers", "embed"), mean=1.0)
        self.attn = _Attention(rngs, config, width)
        self.ffn_norm = param(rngs, (config.num_layers, width), ("layers", "embed"), mean=1.0)
        self.ffn = _FeedForward(rngs, config, width, ffn_width)


def forward(
    text_layers: dict[str, Any],
    motion_layers: dict[str, Any],
    config: LLMConfig,
    text: Stream,
    motion: Stream | None,
    *,
    text_first: bool = False,
    remat: bool = False,
) -> tuple[Float[Array, "B Lt Dt"], Float[Array, "B Lm Dm"] | None]:
    """Both towers over whole sequences.

    Args:
      text_layers: the stacked layers of the text tower (a `Tower` tree).
      motion_layers: those of the motion tower; not used when `motion` is None.
      config: the LLM's, which fixes heads and positions for both towers.
      text: embedded text tokens.
      motion: embedded motion tokens, or None.
      text_first: no motion precedes text in any sample. Then the text tower is the LLM on its own, whose queries need no motion keys, and
        nothing trainable lies behind its K and V: its backward pass never runs.
      remat: recompute each layer in the backward pass instead of storing its activations.

    Returns:
      The residual streams after the last layer, before the final norms.
    """
    frequencies = rope_frequencies(config)
    if motion is None:
        mask = causal_mask(text.positions, text.positions, text.segments, text.segments, config.sliding_window)

        def text_layer(x: Array, layer: dict) -> tuple[Array, None]:
            q, k, v = project(layer, x, text.positions, config, frequencies)
            return finish(layer, x, attention(q, k, v, mask), config), None

        return jax.lax.scan(_maybe_remat(text_layer, remat), text.x, text_layers)[0], None

    positions = jnp.concatenate([text.positions, motion.positions], 1)
    segments = jnp.concatenate([text.segments, motion.segments], 1)
    motion_mask = causal_mask(motion.positions, positions, motion.segments, segments, config.sliding_window)
    seen_positions, seen_segments = (text.positions, text.segments) if text_first else (positions, segments)
    text_mask = causal_mask(text.positions, seen_positions, text.segments, seen_segments, config.sliding_window)
    text_x = jax.lax.stop_gradient(text.x) if text_first else text.x

    def layer(xs: tuple[Array, Array], layers: tuple[dict, dict]) -> tuple[tuple[Array, Array], None]:
        text_q, text_k, text_v = project(layers[0], xs[0], text.positions, config, frequencies)
        motion_q, motion_k, motion_v = project(layers[1], xs[1], motion.positions, config, frequencies)
        k, v = jnp.concatenate([text_k, motion_k], 1), jnp.concatenate([text_v, motion_v], 1)
        text_mixed = attention(text_q, text_k, text_v, text_mask) if text_first else attention(text_q, k, v, text_mask)
        motion_mixed = attention(motion_q, k, v, motion_mask)
        return (finish(layers[0], xs[0], text_mixed, config), finish(layers[1], xs[1], motion_mixed, config)), None

    return jax.lax.scan(_maybe_remat(layer, remat), (text_x, motion.x), (text_layers, motion_layers))[0]


def forward_cached(
    layers: tuple[dict[str, Any], ...], config: LLMConfig, stream: Stream, cache: KVCache
) -> tuple[Float[Array, "B T D"], KVCache]:
    """One tower over new tokens of its modality, after everything in the cache; appends their K and V.

    Args:
      layers: one tree a layer (`unstack`): a decode step runs them unrolled, without copying weights out of a stack.
      config: the LLM's.
      stream: embedded new tokens; those of segment 0 are padding, which later tokens do not see.
      cache: what came before, from either tower.
    """
    frequencies = rope_frequencies(config)
    cache = cache.advance(stream.positions, stream.segments)
    mask = causal_mask(stream.positions, cache.positions, stream.segments, cache.segments, config.sliding_window)
    x = stream.x
    for index, layer in enumerate(layers):
        q, k, v = project(layer, x, stream.positions, config, frequencies)
        cache = cache.write(index, k, v)
        x = finish(layer, x, attention(q, cache.k[index], cache.v[index], mask), config)
    return x, cache


def project(
    layer: dict, x: Float[Array, "B T D"], positions: Int[Array, "B T"], config: LLMConfig, frequencies: Any
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
    """Rotated queries and keys, and values, of one layer."""
    p = layer["attn"]
    h = rms_norm(layer["attn_norm"], x, config.norm_eps)
    q, k, v = (affine(p, name, h).reshape(*h.shape[:2], -1, config.head_dim) for name in "qkv")
    if config.qk_norm:
        q, k = rms_norm(p["q_norm"], q, config.norm_eps), rms_norm(p["k_norm"], k, config.norm_eps)
    return rope(q, positions, frequencies), rope(k, positions, frequencies), v


def finish(layer: dict, x: Float[Array, "B T D"], mixed: Float[Array, "B T N H"], config: LLMConfig) -> Float[Array, "B T D"]:
    """The rest of a Llama layer after attention: output projection, then the feed-forward layer, both residual."""
    x = x + affine(layer["attn"], "o", mixed.reshape(*mixed.shape[:2], -1))
    return x + feed_forward(layer["ffn"], rms_norm(layer["ffn_norm"], x, config.norm_eps))


def feed_forward(p: dict, h: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """SwiGLU of normalised activations."""
    return affine(p, "down", jax.nn.silu(affine(p, "gate", h)) * affine(p, "up", h))


def unstack(layers: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Stacked layers as one tree a layer, for `forward_cached`."""
    depth = len(jax.tree.leaves(layers)[0])
    return tuple(jax.tree.map(lambda leaf, index=index: leaf[index], layers) for index in range(depth))


def _maybe_remat(layer: Any, remat: bool) -> Any:
    return jax.checkpoint(layer, prevent_cse=False) if remat else layer
