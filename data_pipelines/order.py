"""In which order records are drawn: balanced, and deterministic in the seed."""

import functools
import hashlib

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


def stable_hash(text: str) -> int:
    """A 64-bit hash that is the same in every process and on every machine (Python's own is not)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def mixed_seed(*parts: int) -> int:
    """One seed of 31 bits from several: different parts give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)
