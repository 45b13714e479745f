"""Batches of a loader on the devices of a mesh: each host loads its own share."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

from jax.sharding import Mesh

from llamo_jax import hosts, sharding


class Loader(Protocol):
    """A loader whose global batches consist of equal parts, its shards."""

    @property
    def shards(self) -> int: ...
    def iterator(self, shards: Sequence[int]) -> Any: ...


class Feed:
    """An endless iterator of global batches. All processes take the same number of steps.

    Args:
      loader: of the data.
      mesh: whose data and fsdp axes split the rows.
      rows: of the kinds of batches that the loader gives.

    Raises:
      InputError: the shards cannot be divided over the processes.
    """

    def __init__(self, loader: Loader, mesh: Mesh, *rows: int):
        self._rows, self._shards = sharding.batch_sharding(mesh), loader.shards
        self._held = hosts.shards_of(self._rows, loader.shards, *rows)
        self._data: Iterator[Any] = loader.iterator(self._held)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return hosts.place_batch(next(self._data), self._rows, self._held, self._shards)

    def get_state(self) -> dict[str, Any]:
        """The position of every shard, from all processes: JSON."""
        states = hosts.gather_json(self._data.get_state())
        return {shard: state for part in states for shard, state in part.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from the position of a run on any number of hosts."""
        self._data.set_state(state)
