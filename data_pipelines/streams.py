"""Endless Grain datasets: drawn, prepared ahead, and closed when Python ends."""

import atexit
import weakref
from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from data_pipelines.order import mixed_seed

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
