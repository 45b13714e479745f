"""The elementary functions of parameter trees."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def linear(p: dict, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    """x W^T + b in the dtype of x; b is left out where the tree has none."""
    y = dot(x, p["weight"])
    return y + p["bias"].astype(x.dtype) if "bias" in p else y


def dot(x: Float[Array, "... I"], weight: Float[Array, "O I"]) -> Float[Array, "... O"]:
    """x W^T in the dtype of x, with a weight stored [out, in]."""
    weight = weight.astype(x.dtype)
    if 1 < math.prod(x.shape[:-1]) <= _FEW_ROWS:
        return jax.lax.platform_dependent(x, weight, cpu=_row_by_row, default=_product)
    return _product(x, weight)


_FEW_ROWS = 3
"""On a CPU, so many products of one row each are faster than one of all: two rows of 1024 x 1024 take 0.6 of the
time."""


def _product(x: Float[Array, "... I"], weight: Float[Array, "O I"]) -> Float[Array, "... O"]:
    return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))


def _row_by_row(x: Float[Array, "... I"], weight: Float[Array, "O I"]) -> Float[Array, "... O"]:
    rows = x.reshape(-1, 1, x.shape[-1])
    return jnp.concatenate([_product(row, weight) for row in rows]).reshape(*x.shape[:-1], -1)


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
