"""Declarations of parameters (Flax NNX), and all that follows from them: shapes, initial values and shardings.

Modules declare shapes, initial values and logical axes, and nothing else; every computation is a function of plain
trees. A module is declared once, as a class called with (rngs, config), and `abstract`, `init` and `shardings` read
that one declaration. Linear weights are stored [out, in], as PyTorch and Hugging Face store them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from llamo_jax.sharding import TRAINING, Axes, Rules, spec
from llamo_jax.trees import flatten, unflatten

Module = Callable[[nnx.Rngs, Any], nnx.Module]
"""A class that declares parameters, called with (rngs, config)."""


def param(rngs: nnx.Rngs, shape: tuple[int, ...], axes: Axes, *, std: float = 0.0, mean: float = 0.0) -> nnx.Param:
    """A float32 parameter drawn from N(mean, std^2), with the logical names of its axes."""
    value = jnp.full(shape, mean, jnp.float32)
    if std:
        value = value + std * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, axes=axes)


class Linear(nnx.Module):
    """weight [out, in] and bias [out].

    Args:
      rngs: for the initial weights.
      out_dim: number of outputs.
      in_dim: number of inputs.
      axes: logical names of the weight's axes.
      std: of the initial weights; None is 1 / sqrt(in).
      bias: whether there is one. It starts at zero.
      layers: number of equal layers that are stacked along a first axis; None for a single one.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        out_dim: int,
        in_dim: int,
        axes: Axes,
        *,
        std: float | None = None,
        bias: bool = True,
        layers: int | None = None,
    ):
        stack, stack_axes = ((), ()) if layers is None else ((layers,), ("layers",))
        std = in_dim**-0.5 if std is None else std
        self.weight = param(rngs, (*stack, out_dim, in_dim), (*stack_axes, *axes), std=std)
        if bias:
            self.bias = param(rngs, (*stack, out_dim), (*stack_axes, axes[0]))


def init(
    module: Module,
    config: Any,
    key: jax.Array,
    shardings: Mapping[str, NamedSharding] | None = None,
    *,
    without: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The tree of float32 parameters that a module declares, made in one compiled call.

    Args:
      module: the declaration.
      config: its config.
      key: of the initial values.
      shardings: by path, where each array is made; None is the default device.
      without: paths that begin with one of these are neither computed nor returned. They change no other value.
    """

    def values(key: jax.Array) -> dict[str, jax.Array]:
        flat = {path: variable.get_value() for path, variable in _declared(module(nnx.Rngs(key), config)).items()}
        return {path: leaf for path, leaf in flat.items() if not path.startswith(without)}

    paths = jax.eval_shape(values, key)
    out = None if shardings is None else {path: shardings[path] for path in paths}
    return unflatten(jax.jit(values, out_shardings=out)(key))


def abstract(module: Module, config: Any) -> dict[str, Any]:
    """The same tree as shapes and dtypes, with nothing allocated."""
    return unflatten({path: leaf for path, (leaf, _) in _abstract(module, config).items()})


def shardings(module: Module, config: Any, mesh: Mesh, rules: Rules = TRAINING) -> dict[str, NamedSharding]:
    """Path -> sharding of every parameter that a module declares.

    Raises:
      InputError: a split does not divide its axis.
    """
    declared = _abstract(module, config)
    return {
        path: NamedSharding(mesh, spec(axes, leaf.shape, mesh, rules, path)) for path, (leaf, axes) in declared.items()
    }


def axes_of(module: Module, config: Any) -> dict[str, Axes]:
    """Path -> logical names of the axes of every parameter that a module declares."""
    return {path: axes for path, (_, axes) in _abstract(module, config).items()}


def count(tree: dict[str, Any]) -> int:
    """Number of parameters in a tree."""
    return sum(leaf.size for leaf in flatten(tree).values())


def _declared(module: nnx.Module) -> dict[str, nnx.Variable]:
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {"/".join(map(str, path)): variable for path, variable in flat}


@functools.lru_cache(maxsize=64)
def _abstract(module: Module, config: Any) -> dict[str, tuple[jax.ShapeDtypeStruct, Axes]]:
    axes: dict[str, Axes] = {}

    def values() -> dict[str, jax.Array]:
        declared = _declared(module(nnx.Rngs(0), config))
        axes.update({path: variable.get_metadata("axes") for path, variable in declared.items()})
        return {path: variable.get_value() for path, variable in declared.items()}

    return {path: (leaf, axes[path]) for path, leaf in jax.eval_shape(values).items()}
