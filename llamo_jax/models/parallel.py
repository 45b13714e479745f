"""What the devices of a mesh exchange while a model runs: every collective of the model is here.

Inside `jax.shard_map` each device holds its part of the parameters and its rows of the batch. *fsdp* gathers the
weights of a layer before they are used, and scatters the sums of their gradients; *tensor* adds up what heads and
hidden units on several devices give, once after attention and once after the feed-forward layer, each way; *data* adds
up gradients once a step. Outside of a mesh (`ALONE`) all of this is nothing.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from llamo_jax.config import LLMConfig
from llamo_jax.errors import InputError
from llamo_jax.models.attention import backend_for
from llamo_jax.trees import flatten, unflatten

FlatParams = dict[str, Array]
"""Path -> array."""

Attention = Literal["auto", "xla", "cudnn", "splash"]
Remat = Literal["none", "minimal", "full", "offload"]

ROWS = ("data", "fsdp")
"""The mesh axes that rows of a batch are split over."""

PRODUCTS = ("q", "k", "v", "mixed", "output", "gate", "up")
"""Names of what a layer's large products give (`jax.ad_checkpoint.checkpoint_name`)."""


def require_heads(config: LLMConfig, tensor: int) -> None:
    """Raises InputError where a tensor axis of this size would cut a head in two."""
    shared = math.gcd(config.num_heads, config.num_kv_heads)
    if shared % tensor:
        choices = [n for n in range(1, shared + 1) if shared % n == 0]
        raise InputError(
            f"{config.num_heads} heads and {config.num_kv_heads} key-value heads cannot be split over mesh axis "
            f'"tensor" of size {tensor}; choose a tensor size of {", ".join(map(str, choices))}'
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Parallel:
    """The devices that one model runs on.

    Attributes:
      mesh: None for a single device.
      specs: path of a parameter -> how it is split.
      attention: which kernel attends; "auto" is the fastest that the devices have.
      remat: what is kept of a layer for the backward pass, beside its input. "none": all, but weights that were
        gathered, which are gathered again. "minimal": what its large products gave; "offload": the same, in the host's
        memory. "full": nothing more, all is computed again.
    """

    mesh: Mesh | None = None
    specs: Mapping[str, PartitionSpec] = dataclasses.field(default_factory=dict)
    attention: Attention = "auto"
    remat: Remat = "none"

    @classmethod
    def of(
        cls,
        shardings: Mapping[str, NamedSharding],
        mesh: Mesh,
        config: LLMConfig,
        *,
        attention: Attention = "auto",
        remat: Remat = "none",
    ) -> "Parallel":
        """The devices of a mesh, with parameters that lie so; without a mesh where it has one device.

        Raises:
          InputError: the tensor axis would cut a head in two.
        """
        require_heads(config, mesh.shape["tensor"])
        if mesh.size == 1:
            return cls(attention=attention, remat=remat)
        return cls(mesh, {path: where.spec for path, where in shardings.items()}, attention, remat)

    def entered(self, params: FlatParams) -> FlatParams:
        """Parameters, by path, as each device uses them: their gradients are of its own rows, until `totals`."""
        if self.mesh is None:
            return params
        return {path: self._varying(leaf, self._shared(path)) for path, leaf in params.items()}

    def totals(self, gradients: FlatParams, figures: dict[str, Array]) -> tuple[FlatParams, dict[str, Array]]:
        """Gradients, by path, and figures, added up over all rows: within a slice first, over data last."""
        if self.mesh is None:
            return gradients, figures
        whole = {path: self._sum(leaf, self._shared(path)) for path, leaf in gradients.items()}
        return whole, {name: self._sum(value, ROWS) for name, value in figures.items()}

    def zeros_of_rows(self, figures: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
        """Figures at zero, as each device has those of its own rows."""
        zeros = {name: jnp.zeros(value.shape, value.dtype) for name, value in figures.items()}
        return zeros if self.mesh is None else {name: self._varying(value, ROWS) for name, value in zeros.items()}

    def _shared(self, path: str) -> tuple[str, ...]:
        """The axes of rows that a parameter is not split over."""
        return tuple(axis for axis in ROWS if axis not in self.specs[path])

    @staticmethod
    def _varying(leaf: Array, axes: tuple[str, ...]) -> Array:
        return jax.lax.pcast(leaf, axes, to="varying") if axes else leaf

    @staticmethod
    def _sum(leaf: Array, axes: tuple[str, ...]) -> Array:
        return jax.lax.psum(leaf, axes) if axes else leaf

    def gather(self, tree: Any, path: str, dtype: jnp.dtype, *, of_stack: bool = False) -> Any:
        """Whole weights over fsdp, in the type that is computed in; their parts over tensor stay apart.

        Args:
          tree: a sub-tree or a leaf of the parameters.
          path: of it.
          dtype: what is gathered, so that no byte too many crosses.
          of_stack: these are of one layer of stacked ones.
        """
        if self.mesh is None:
            return tree

        def whole(leaf: Array, spec: PartitionSpec) -> Array:
            entries = tuple(spec)[1:] if of_stack else tuple(spec)
            if "fsdp" not in entries:
                return leaf
            return jax.lax.all_gather(leaf.astype(dtype), "fsdp", axis=entries.index("fsdp"), tiled=True)

        if not isinstance(tree, dict | list):
            return whole(tree, self.specs[path])
        return unflatten({name: whole(leaf, self.specs[f"{path}/{name}"]) for name, leaf in flatten(tree).items()})

    def attention_options(self, dtype: jnp.dtype, width: int) -> dict[str, Any]:
        """Options of `attention.plan` for activations of this type and heads of this width.

        Raises:
          InputError: the kernel that was chosen does not compute in this type or width.
        """
        platform = jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform
        backend = backend_for(self.attention, platform, dtype, width)
        return {"backend": backend, "interpret": platform != "tpu"}

    def rematerialised(self, layer: Callable) -> Callable:
        """A layer of which the backward pass finds what `remat` keeps; weights that were gathered never are."""
        if self.remat == "none":
            return layer if self.mesh is None else jax.checkpoint(layer, policy=_all_but_gathered)
        policies = jax.checkpoint_policies
        policy = {
            "full": policies.nothing_saveable,
            "minimal": policies.save_only_these_names(*PRODUCTS),
            "offload": policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=list(PRODUCTS),
                offload_src="device",
                offload_dst="pinned_host",
            ),
        }[self.remat]
        return jax.checkpoint(layer, policy=policy)

    def split(self, x: Array) -> Array:
        """What every device of the tensor axis is about to use in its own part of heads or hidden units."""
        return x if self.mesh is None else jax.lax.pcast(x, ("tensor",), to="varying")

    def reduce(self, x: Array) -> Array:
        """The sum over the tensor axis of what its devices made of their parts."""
        return x if self.mesh is None else jax.lax.psum(x, "tensor")

    def largest(self, x: Array) -> Array:
        """The largest over the tensor axis."""
        return x if self.mesh is None else jax.lax.pmax(x, "tensor")

    def embed(self, table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Rows of a table that is split by rows over tensor and by columns over fsdp, and stays where it is.

        Every device looks up its columns for the tokens of all devices of its fsdp axis; then each gets the columns of
        its own tokens.
        """
        if self.mesh is None:
            return table[tokens]
        ids = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True) - jax.lax.axis_index("tensor") * len(table)
        here = (ids >= 0) & (ids < len(table))
        columns = jnp.where(here[..., None], table[jnp.clip(ids, 0, len(table) - 1)], 0)
        return self.reduce(jax.lax.all_to_all(columns, "fsdp", split_axis=0, concat_axis=2, tiled=True))

    def first_row(self, rows: int) -> int | Array:
        """Number of the first row of a table that is split over tensor, where this device has `rows` of them."""
        return 0 if self.mesh is None else jax.lax.axis_index("tensor") * rows


def _all_but_gathered(primitive: Any, *arguments: Any, **parameters: Any) -> bool:
    """What may be kept for the backward pass: all but weights that were gathered, which are gathered again."""
    del arguments, parameters
    # Saying over which axes it varies gives the same weight another name.
    return primitive.name not in ("all_gather", "all_gather_invariant", "pvary", "pcast")


ALONE = Parallel()
"""One device."""
