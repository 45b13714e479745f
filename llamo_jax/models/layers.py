"""Declarations of parameters (Flax NNX) and the elementary pure functions on them.

Modules declare shapes, initial values and logical axes, and nothing else: `init` turns one into a plain nested dict, and every
computation is a function of such dicts. Linear weights are stored [out, in], as PyTorch and Hugging Face store them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from llamo_jax.sharding import Axes
from llamo_jax.trees import flatten, unflatten


def param(rngs: nnx.Rngs, shape: tuple[int, ...], axes: Axes, *, std: float = 0.0, mean: float = 0.0) -> nnx.Param:
    """A float32 parameter drawn from N(mean, std^2), with the logical names of its axes."""
    value = jnp.full(shape, mean, jnp.float32)
    if std:
        value = value + std * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, axes=axes)


class Linear(nnx.Module):
    """weight [out, in] and bias [out]; `std` defaults to 1 / sqrt(in)."""

    def __init__(self, rngs: nnx.Rngs, out_dim: int, in_dim: int, axes: Axes, std: float | None = None):
        self.weight = param(rngs, (out_dim, in_dim), axes, std=in_dim**-0.5 if std is None else std)
        self.bias = param(rngs, (out_dim,), axes[:1])


def linear(p: dict, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    """x W^T + b."""
    return dot(x, p["weight"]) + p["bias"].astype(x.dtype)


def dot(x: Float[Array, "... I"], weight: Float[Array, "O I"]) -> Float[Array, "... O"]:
    """x W^T in the dtype of x, with a weight stored [out, in]."""
    return jax.lax.dot_general(x, weight.astype(x.dtype), (((x.ndim - 1,), (1,)), ((), ())))


def affine(p: dict, name: str, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    """The projection `name` of an attention or feed-forward layer, with its bias where the LLM has one."""
    y = dot(x, p[name])
    bias = p.get(f"{name}_bias")
    return y if bias is None else y + bias.astype(y.dtype)


def rms_norm(weight: Float[Array, " D"], x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    """Root-mean-square normalisation in float32, scaled in the dtype of x (the order of Hugging Face's Llama)."""
    x32 = x.astype(jnp.float32)
    normalised = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
    return weight.astype(x.dtype) * normalised.astype(x.dtype)


def layer_norm(x: Float[Array, "... D"], eps: float = 1e-6) -> Float[Array, "... D"]:
    """Normalisation to mean 0 and variance 1 in float32, without parameters: adaLN brings its own."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - x32.mean(-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)).astype(x.dtype)


def init(declare: Callable[[nnx.Rngs], nnx.Module], key: jax.Array, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The parameter tree that a module declares, as a nested dict of float32 arrays, made in one compiled call.

    Paths that begin with one of `without` are neither computed nor returned; the others are what they would be with them.
    """

    def values(key: jax.Array) -> dict[str, Any]:
        flat = flatten(_values(declare(nnx.Rngs(key))))
        return unflatten({path: leaf for path, leaf in flat.items() if not path.startswith(without)})

    return jax.jit(values)(key)


def abstract(declare: Callable[[nnx.Rngs], nnx.Module]) -> dict[str, Any]:
    """The same tree as shapes and dtypes, with nothing allocated."""
    return jax.eval_shape(lambda: _values(declare(nnx.Rngs(0))))


def logical_axes(declare: Callable[[nnx.Rngs], nnx.Module]) -> dict[str, Axes]:
    """Path -> logical axis names of every parameter."""
    state = nnx.eval_shape(lambda: nnx.state(declare(nnx.Rngs(0)), nnx.Param))
    return {"/".join(map(str, path)): variable.get_metadata("axes") for path, variable in nnx.to_flat_state(state)}


def count(tree: dict[str, Any]) -> int:
    """Number of parameters in a tree."""
    return sum(leaf.size for leaf in flatten(tree).values())


def _values(module: nnx.Module) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))
