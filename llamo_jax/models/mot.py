"""The Mixture-of-Transformers: towers over streams of their own, one attention.

Text and motion tokens are separate arrays, each with its global positions and segment ids. Each tower is a dense Llama
stack over its own stream; in every layer the queries, keys and values of all towers meet in one attention. Without
motion, the text tower is the plain LLM, bit for bit. Source: LLaMo, section 3; the shape contract (equal depth and
heads, free widths) is that of multi-expert attention in openpi.

Axis letters, here and everywhere: B batch, T query tokens, S key tokens, Lt and Lm text and motion tokens, N heads,
K key-value heads, H head width, D model width, F feed-forward width, V vocabulary, Z latent channels, J joints,
G guidance (1 or 2), R = G B rows of a cache.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from llamo_jax.config import LLMConfig
from llamo_jax.models.attention import Places, Rotary, attend, attention, plan, rotary, rotate, visible
from llamo_jax.models.cache import KVCache
from llamo_jax.models.declaration import Linear, param
from llamo_jax.models.layers import dot, linear, rms_norm
from llamo_jax.models.parallel import ALONE, Parallel


class Stream(NamedTuple):
    """Embedded tokens of one modality, and where they stand."""

    x: Float[Array, "B T D"]
    places: Places


class Prefix(NamedTuple):
    """Tokens that come first in their samples, as the rotated keys and the values of each layer, and where they
    stand."""

    keys: Float[Array, "L B K S H"]
    values: Float[Array, "L B K S H"]
    places: Places


class _Attention(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, config: LLMConfig, width: int):
        q_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        options = {"bias": config.qkv_bias, "layers": config.num_layers}
        self.q = Linear(rngs, q_dim, width, ("heads", "embed"), **options)
        self.k = Linear(rngs, kv_dim, width, ("kv_heads", "embed"), **options)
        self.v = Linear(rngs, kv_dim, width, ("kv_heads", "embed"), **options)
        std = q_dim**-0.5 * (2 * config.num_layers) ** -0.5
        options["bias"] = config.output_bias
        self.o = Linear(rngs, width, q_dim, ("embed", "heads"), std=std, **options)
        if config.qk_norm:
            shape = (config.num_layers, config.head_dim)
            self.q_norm = param(rngs, shape, ("layers", None), mean=1.0)
            self.k_norm = param(rngs, shape, ("layers", None), mean=1.0)


class _FeedForward(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, config: LLMConfig, width: int, ffn_width: int):
        options = {"bias": config.ffn_bias, "layers": config.num_layers}
        std = ffn_width**-0.5 * (2 * config.num_layers) ** -0.5
        self.gate = Linear(rngs, ffn_width, width, ("ffn", "embed"), **options)
        self.up = Linear(rngs, ffn_width, width, ("ffn", "embed"), **options)
        self.down = Linear(rngs, width, ffn_width, ("embed", "ffn"), std=std, **options)


class Tower(nnx.Module):
    """The layers of one tower, stacked on a leading axis. Outputs to the residual stream start 1 / sqrt(2 layers)
    smaller.

    Both towers have the LLM's options (biases, norms of queries and keys), so that one can start as the other's copy.
    """

    def __init__(self, rngs: nnx.Rngs, config: LLMConfig, width: int, ffn_width: int):
        self.attn_norm = param(rngs, (config.num_layers, width), ("layers", "embed"), mean=1.0)
        self.attn = _Attention(rngs, config, width)
        self.ffn_norm = param(rngs, (config.num_layers, width), ("layers", "embed"), mean=1.0)
        self.ffn = _FeedForward(rngs, config, width, ffn_width)


Layers = dict[str, Any] | tuple[dict[str, Any], ...]
"""A `Tower` tree: stacked, as it trains, or as one tree a layer (`unstack`), as it decodes."""


def forward(
    towers: Sequence[tuple[Layers, Stream]],
    config: LLMConfig,
    *,
    prefix: Prefix | None = None,
    sees: Sequence[int] | None = None,
    parallel: Parallel = ALONE,
    paths: Sequence[str] = ("text/layers", "motion/layers"),
) -> tuple[Float[Array, "B T D"], ...]:
    """Any number of towers over whole sequences of their own streams.

    Args:
      towers: the layers of each tower, and its embedded tokens.
      config: the LLM's, which fixes heads and positions for all towers.
      prefix: seen by all towers, computed by none.
      sees: how many of the towers, counted from the first, give each tower its keys; None is all. (1, 2) is for
        samples whose text comes first: the text tower is then the LLM on its own.
      parallel: the devices.
      paths: of the layers of each tower among the parameters.

    Returns:
      The residual stream of each tower after its last layer, before the final norm.
    """
    streams = tuple(stream for _, stream in towers)
    options = parallel.attention_options(streams[0].x.dtype, config.head_dim)
    before = None if prefix is None else prefix.places
    seen = plan([stream.places for stream in streams], sees, prefix=before, window=config.sliding_window, **options)
    rotations = [rotary(stream.places.positions, config, stream.x.dtype) for stream in streams]

    def layer(xs: tuple[Array, ...], of_layer: tuple[tuple[dict, ...], Any]) -> tuple[tuple[Array, ...], None]:
        trees, kept = of_layer
        trees = tuple(
            parallel.gather(tree, path, x.dtype, of_stack=True)
            for tree, path, x in zip(trees, paths[: len(trees)], xs, strict=True)
        )
        projected = [
            project(tree, x, turn, config, parallel) for tree, x, turn in zip(trees, xs, rotations, strict=True)
        ]
        mixed = attend(seen, projected, kept)
        return tuple(finish(tree, x, m, config, parallel) for tree, x, m in zip(trees, xs, mixed, strict=True)), None

    xs = tuple(stream.x for stream in streams)
    layers = tuple(layers for layers, _ in towers)
    kept = None if prefix is None else tuple(each.astype(xs[0].dtype) for each in prefix[:2])
    if isinstance(layers[0], tuple):
        for index, trees in enumerate(zip(*layers, strict=True)):
            xs, _ = layer(xs, (trees, jax.tree.map(lambda each, index=index: each[index], kept)))
        return xs
    return jax.lax.scan(parallel.rematerialised(layer), xs, (layers, kept))[0]


def keys_and_values(
    layers: dict[str, Any], config: LLMConfig, stream: Stream, prefix: Prefix | None = None
) -> tuple[Float[Array, "L B K T H"], Float[Array, "L B K T H"]]:
    """The rotated keys and the values that each layer of one tower gives a stream of its own, after a prefix."""
    before = None if prefix is None else prefix.places
    seen = plan([stream.places], prefix=before, window=config.sliding_window)
    rotation = rotary(stream.places.positions, config, stream.x.dtype)

    def layer(x: Array, of_layer: tuple[dict, Any]) -> tuple[Array, tuple[Array, Array]]:
        tree, kept = of_layer
        projected = project(tree, x, rotation, config)
        (mixed,) = attend(seen, [projected], kept)
        return finish(tree, x, mixed, config), projected[1:]

    given = None if prefix is None else tuple(each.astype(stream.x.dtype) for each in prefix[:2])
    return jax.lax.scan(layer, stream.x, (layers, given))[1]


def forward_cached(
    layers: tuple[dict[str, Any], ...], config: LLMConfig, stream: Stream, cache: KVCache
) -> tuple[Float[Array, "R T D"], KVCache]:
    """One tower over new tokens of its modality, after everything in the cache; appends their keys and values.

    Args:
      layers: one tree a layer (`unstack`): a decode step runs them unrolled, without copying weights out of a stack.
      config: the LLM's.
      stream: embedded new tokens; those of segment 0 are padding, on the right, which later tokens do not see.
      cache: what came before, from any tower.
    """
    cache, slots = cache.advance(stream.places)
    mask = visible(stream.places, cache.places, window=config.sliding_window)
    rotation = rotary(stream.places.positions, config, stream.x.dtype)
    x = stream.x
    for index, layer in enumerate(layers):
        q, k, v = project(layer, x, rotation, config)
        cache = cache.write(index, slots, k, v)
        x = finish(layer, x, attention(q, cache.k[index], cache.v[index], mask), config)
    return x, cache


def project(
    layer: dict, x: Float[Array, "B T D"], rotary: Rotary, config: LLMConfig, parallel: Parallel = ALONE
) -> tuple[Float[Array, "B N T H"], Float[Array, "B K T H"], Float[Array, "B K T H"]]:
    """Rotated queries and keys, and values, of one layer."""
    p = layer["attn"]
    h = parallel.split(rms_norm(layer["attn_norm"], x, config.norm_eps))
    q, k, v = (linear(p[name], h).reshape(*h.shape[:2], -1, config.head_dim) for name in "qkv")
    if config.qk_norm:
        q, k = rms_norm(p["q_norm"], q, config.norm_eps), rms_norm(p["k_norm"], k, config.norm_eps)
    q, k, v = (jnp.moveaxis(part, 2, 1) for part in (q, k, v))
    return rotate(rotary, q), rotate(rotary, k), v


def finish(
    layer: dict, x: Float[Array, "B T D"], mixed: Float[Array, "B N T H"], config: LLMConfig, parallel: Parallel = ALONE
) -> Float[Array, "B T D"]:
    """The rest of a Llama layer after attention: output projection, then the feed-forward layer, both residual."""
    output = _summed(layer["attn"]["o"], jnp.moveaxis(mixed, 1, 2).reshape(*x.shape[:2], -1), parallel)
    x = x + checkpoint_name(output, "output")
    return x + feed_forward(layer["ffn"], rms_norm(layer["ffn_norm"], x, config.norm_eps), parallel)


def feed_forward(p: dict, h: Float[Array, "B T D"], parallel: Parallel = ALONE) -> Float[Array, "B T D"]:
    """SwiGLU of normalised activations."""
    h = parallel.split(h)
    gate, up = (checkpoint_name(linear(p[name], h), name) for name in ("gate", "up"))
    return _summed(p["down"], jax.nn.silu(gate) * up, parallel)


def _summed(p: dict, x: Float[Array, "B T I"], parallel: Parallel) -> Float[Array, "B T O"]:
    """A linear layer whose inputs lie on several devices; the bias is added once."""
    y = parallel.reduce(dot(x, p["weight"]))
    return y + p["bias"].astype(x.dtype) if "bias" in p else y


def unstack(layers: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Stacked layers as one tree a layer, for decoding."""
    depth = len(jax.tree.leaves(layers)[0])
    return tuple(jax.tree.map(lambda leaf, index=index: leaf[index], layers) for index in range(depth))
