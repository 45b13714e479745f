"""From a loss to its gradients: on one device or on each device of a mesh, in one part or in several."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from llamo_jax.errors import InputError
from llamo_jax.models.parallel import ALONE, ROWS, Parallel
from llamo_jax.training.losses import Metrics
from llamo_jax.training.optim import FlatParams
from llamo_jax.trees import unflatten

Loss = Callable[[dict[str, Any], Any, Array], tuple[Array, Metrics]]
"""(parameter tree, batch, key) -> (loss, figures to log)."""

Gradients = Callable[[FlatParams, FlatParams, Any, Array], tuple[FlatParams, Metrics]]
"""(what trains, what does not, batch, key) -> (gradients of what trains, figures to log)."""


class SummedLoss(Protocol):
    """A loss that is a sum over rows once the counts of the whole batch are known, so that parts of it add up."""

    def draw(self, batch: Any, key: Array) -> Any:
        """All noise of a batch; rows are the first axis."""
        ...

    def counts(self, batch: Any) -> Any:
        """What the sums over the whole batch are divided by."""
        ...

    def part(
        self, params: dict[str, Any], batch: Any, noise: Any, counts: Any, parallel: Parallel
    ) -> tuple[Array, Metrics]:
        """What some rows contribute to the loss and to the figures."""
        ...


def of_whole(loss: Loss) -> Gradients:
    """Gradients of a loss of the whole batch."""

    def gradients(trained: FlatParams, fixed: FlatParams, batch: Any, key: Array) -> tuple[FlatParams, Metrics]:
        return jax.grad(lambda each: loss(unflatten(each | fixed), batch, key), has_aux=True)(trained)

    return gradients


def of_sum(loss: SummedLoss, parallel: Parallel = ALONE, *, parts: int = 1) -> Gradients:
    """Gradients of a loss that is a sum over rows.

    Each device computes those of its own rows. Gradients of weights that are split over fsdp come summed and scattered,
    layer by layer; what is left to add up over data (and of what nothing splits, over fsdp) is added up once, after all
    parts.

    Args:
      loss: the loss.
      parallel: the devices.
      parts: that the rows of each device are taken in, one after the other. Noise and counts are those of the whole
        batch: the sums are the same up to rounding.

    Raises:
      InputError: when called, the rows do not divide.
    """

    def gradients(trained: FlatParams, fixed: FlatParams, batch: Any, key: Array) -> tuple[FlatParams, Metrics]:
        noise, counts = loss.draw(batch, key), loss.counts(batch)

        def on_each(trained: FlatParams, fixed: FlatParams, rows: Any, counts: Any) -> tuple[FlatParams, Metrics]:
            fixed, trained = parallel.entered(fixed), parallel.entered(trained)

            def of(rows: Any) -> tuple[FlatParams, Metrics]:
                def value(each: FlatParams) -> tuple[Array, Metrics]:
                    return loss.part(unflatten(each | fixed), *rows, counts, parallel)

                return jax.grad(value, has_aux=True)(trained)

            if parts == 1:
                return parallel.totals(*of(rows))
            rows = _in_parts(rows, parts)
            figures = jax.eval_shape(of, jax.tree.map(lambda leaf: leaf[0], rows))[1]
            zeros = jax.tree.map(jnp.zeros_like, trained), parallel.zeros_of_rows(figures)

            def add(total: Any, part: Any) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, of(part)), None

            return parallel.totals(*jax.lax.scan(add, zeros, rows)[0])

        if parallel.mesh is None:
            return on_each(trained, fixed, (batch, noise), counts)
        whole, rows = PartitionSpec(), PartitionSpec(ROWS)
        places, fixed_places = ({path: parallel.specs[path] for path in tree} for tree in (trained, fixed))
        mapped = jax.shard_map(
            on_each,
            mesh=parallel.mesh,
            in_specs=(places, fixed_places, rows, whole),
            out_specs=(places, whole),
        )
        return mapped(trained, fixed, (batch, noise), counts)

    return gradients


def _in_parts(rows: Any, parts: int) -> Any:
    """Rows in equal parts, on a first axis."""
    sizes = {len(leaf) for leaf in jax.tree.leaves(rows)}
    if uneven := sorted(size for size in sizes if size % parts):
        found = f"{', '.join(map(str, uneven))} rows on each device cannot be taken in {parts} parts"
        raise InputError(f"{found}; choose a number of parts that divides them")
    return jax.tree.map(lambda leaf: leaf.reshape(parts, len(leaf) // parts, *leaf.shape[1:]), rows)
