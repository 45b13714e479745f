"""In which order records are drawn: balanced, and deterministic in the seed."""

import atexit
import functools
import hashlib
import weakref
from collections.abc import Callable
from typing import Any

import grain
import numpy as np
from jaxtyping import Float, Int


class SampleOrder:
    """An endless sequence of record numbers, made of epochs of one draw a record.

    In every epoch a record with `share` times the mean weight comes floor(share) or ceil(share) times (systematic
    sampling): with equal weights each record comes exactly once.

    Args:
      weights: [N], positive.
      seed: the same seed gives the same sequence.
    """

    def __init__(self, weights: Float[np.ndarray, " N"], seed: int):
        # Interval i of the line [0, N] belongs to record i and is as long as the record's share of an epoch.
        self._ends = np.cumsum(weights) * (len(weights) / np.sum(weights))
        self._seed = seed
        self._epoch = functools.lru_cache(maxsize=2)(self._draw_epoch)

    def __getitem__(self, draw: int) -> int:
        """The record of draw number `draw`."""
        epoch, place = divmod(draw, len(self._ends))
        return int(self._epoch(epoch)[place])

    def _draw_epoch(self, epoch: int) -> Int[np.ndarray, " N"]:
        rng = np.random.default_rng((self._seed, epoch))
        size = len(self._ends)
        # Equal weights must give each record once: points at least 1e-6 from the ends are safe from rounding.
        points = np.arange(size) + np.clip(rng.random(), 1e-6, 1 - 1e-6)
        records = np.minimum(np.searchsorted(self._ends, points), size - 1)
        return rng.permutation(records)


def sample_stream(make: Callable[[int, np.random.Generator], Any], *seed: int) -> grain.IterDataset:
    """An endless Grain dataset of make(draw, rng), without the draws for which it returns None.

    rng depends on the seed (any number of parts) and on the draw's number alone.
    """
    dataset = grain.MapDataset.range(_ENDLESS).seed(mixed_seed(*seed)).random_map(make)
    # One thread: the work is NumPy on small arrays, which threads only slow down.
    return dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))


def stable_hash(text: str) -> int:
    """A 64-bit hash that is the same in every process and on every machine (Python's own is not)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def mixed_seed(*parts: int) -> int:
    """One seed of 31 bits from several: different parts give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)


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


_ENDLESS = 1 << 48
