"""Endless Grain datasets: drawn, divided over hosts, prepared ahead, and closed when Python ends."""

import abc
import atexit
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from data_pipelines.order import mixed_seed
from llamo_jax.errors import InputError

_ENDLESS = 1 << 48


def sample_stream(make: Callable[[int, np.random.Generator], Any], *seed: int) -> grain.IterDataset:
    """An endless Grain dataset of make(draw, rng), without the draws for which it returns None.

    rng depends on the seed (any number of parts) and on the draw's number alone.
    """
    dataset = grain.MapDataset.range(_ENDLESS).seed(mixed_seed(*seed)).random_map(make)
    # One thread: the work is NumPy on small arrays, which threads only slow down.
    return dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))


def prefetched(dataset: grain.IterDataset, batches: int) -> grain.IterDataset:
    """The same dataset, prepared ahead by a thread."""
    return _Prefetched(dataset, prefetch_buffer_size=batches) if batches else dataset


class ShardedBatches(abc.ABC):
    """Endless global batches in equal parts, the shards, each of which is drawn and packed by itself.

    A global batch holds the rows of shard 0, then those of shard 1, and so on. A process loads the shards that it needs
    and no others, so that the global batches are the same for any number of processes. `iter(...)` gives whole batches.

    Attributes:
      shards: how many parts.
      prefetch: batches that a thread prepares ahead; 0 for none.
    """

    shards: int
    prefetch: int

    @abc.abstractmethod
    def _shard(self, shard: int) -> grain.IterDataset:
        """The batches of one shard: dicts of arrays [rows / shards, ...], or of named tuples of such."""

    def __iter__(self) -> grain.DatasetIterator:
        return self.iterator(range(self.shards))

    def iterator(self, shards: Sequence[int]) -> grain.DatasetIterator:
        """A Grain iterator over the rows of some shards, in the order of `shards`.

        Batches depend on the seed and the position alone. `get_state` is plain JSON by shard, {"3": ...}, of the
        batches that were given out; `set_state` takes one that holds these shards at least: states that several
        processes saved are merged as dicts, and go on in any number of processes.

        Raises:
          InputError: there is no such shard, or one is asked for twice; in `set_state`, a shard is missing.
        """
        shards = [int(shard) for shard in shards]
        if not shards or len(set(shards)) < len(shards) or not set(shards) <= set(range(self.shards)):
            raise InputError(f"shards {shards}; expected different ones of 0 to {self.shards - 1}")
        return iter(prefetched(_Shards({shard: self._shard(shard) for shard in shards}), self.prefetch))


def rows_of_shard(rows: Mapping[str, int], shards: int) -> dict[str, int]:
    """Rows of one shard, of each kind of rows of the global batch.

    Raises:
      InputError: some rows do not divide.
    """
    if uneven := [f"{name} {count}" for name, count in rows.items() if count % shards]:
        common = math.gcd(*rows.values())
        choices = ", ".join(str(size) for size in range(1, common + 1) if common % size == 0)
        raise InputError(
            f"rows of a batch ({', '.join(uneven)}) cannot be divided into {shards} shards; choose shards of "
            f"{choices}, or rows that are multiples of {shards}"
        )
    return {name: count // shards for name, count in rows.items()}


def require_enough(count: int, shards: int, what: str) -> None:
    """Raises InputError where shards would have nothing of their own to draw."""
    if count < shards:
        raise InputError(
            f"{count} {what} cannot be divided over {shards} shards; expected one for each at least: choose {count} "
            f"shards or fewer, on as many hosts at most, or build a larger data folder"
        )


class _Shards(grain.IterDataset):
    def __init__(self, datasets: Mapping[int, grain.IterDataset]):
        super().__init__(list(datasets.values()))
        self._datasets = datasets

    def __iter__(self) -> grain.DatasetIterator:
        return _ShardsIterator({shard: iter(dataset) for shard, dataset in self._datasets.items()})


class _ShardsIterator(grain.DatasetIterator):
    def __init__(self, iterators: Mapping[int, grain.DatasetIterator]):
        super().__init__(list(iterators.values()))
        self._iterators = {str(shard): iterator for shard, iterator in iterators.items()}

    def __next__(self) -> Any:
        return _joined([next(iterator) for iterator in self._iterators.values()])

    def get_state(self) -> dict[str, Any]:
        return {shard: iterator.get_state() for shard, iterator in self._iterators.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        if missing := [shard for shard in self._iterators if shard not in state]:
            raise InputError(
                f"the saved position of the data has the shards {', '.join(state) or 'none'}, and not "
                f"{', '.join(missing)}; expected those of a run with as many shards"
            )
        for shard, iterator in self._iterators.items():
            iterator.set_state(state[shard])


def _joined(parts: list[Any]) -> Any:
    """Rows of several shards, of dicts and named tuples of arrays alike."""
    first = parts[0]
    if len(parts) == 1 or first is None:
        return first
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return type(first)(*(_joined(list(fields)) for fields in zip(*parts, strict=True)))
    return np.concatenate(parts)


class _PrefetchIterator(grain.experimental.ThreadPrefetchDatasetIterator):
    _stopped = False

    def close(self) -> None:
        # Grain's own close runs again from __del__ when Python ends, where its modules are gone.
        if not self._stopped:
            self._stopped = True
            super().close()


class _Prefetched(grain.experimental.ThreadPrefetchIterDataset):
    def __iter__(self) -> grain.DatasetIterator:
        iterator = _PrefetchIterator(iter(self._parent), self._prefetch_buffer_size)
        _open_iterators.add(iterator)
        return iterator


_open_iterators: weakref.WeakSet[grain.DatasetIterator] = weakref.WeakSet()


@atexit.register
def _stop_threads() -> None:
    # A thread that still waits inside an extension module when Python ends aborts the process.
    for iterator in list(_open_iterators):
        iterator.close()
