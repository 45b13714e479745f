"""What is passed over while records are drawn, and its count: one bad record does not end a run of weeks."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Generic

import numpy as np

from data_pipelines.records import Record
from llamo_jax.errors import InputError, MotionWarning

DAMAGED_SHARE = 0.01
"""A run ends where more of the draws than this are damaged."""

_ENOUGH = 1000  # draws, before a share of them says anything
_NAMED = 20  # damaged records that are named; further ones are only counted


@dataclasses.dataclass
class Skipped:
    """What of the records that were drawn was of no use. Nothing is left out without being counted here.

    Draws count as they are made: ahead of the batches that are given out, and again after going back. Each process
    counts its own.

    Attributes:
      drawn: records drawn.
      damaged: of them, those that cannot be read or hold no finite numbers.
      captions: captions of the others that are empty, or with their prompt longer than a row.
      records: records of the others that have no caption left.
    """

    drawn: int = 0
    damaged: int = 0
    captions: int = 0
    records: int = 0

    def __bool__(self) -> bool:
        return bool(self.damaged or self.captions or self.records)

    def __str__(self) -> str:
        damaged = f"; {self.damaged} draws were of damaged records" if self.damaged else ""
        return (
            f"{self.records} of {self.drawn} draws, and {self.captions} captions in them, were too long or empty"
            f"{damaged}"
        )


class Reader(Generic[Record]):
    """Reads records as they are drawn, passing over those that are damaged.

    Args:
      records: to read from.
      count: of them that are drawn.
      channels: width of the array of each.
      skipped: where draws and damaged records are counted.
    """

    def __init__(self, records: Sequence[Record], count: int, channels: int, skipped: Skipped):
        self._records, self._count, self._channels, self._skipped = records, count, channels, skipped
        self._known: set[int] = set()

    def read(self, number: int) -> Record | None:
        """A record, or None where it is damaged, of which a `MotionWarning` tells once.

        Raises:
          InputError: too many of those that were drawn are damaged.
        """
        self._skipped.drawn += 1
        try:
            record = self._records[number]
            if (fault := self._fault(record)) is None:
                return record
            found = f"record {number} ({record.name}) {fault}"
        except InputError as error:
            found = str(error)
        self._skipped.damaged += 1
        if number not in self._known:
            self._known.add(number)
            if (known := len(self._known)) <= _NAMED:
                rest = "; further damaged records are counted, and not named" if known == _NAMED else ""
                warnings.warn(f"a damaged record is left out: {found}{rest}", MotionWarning, stacklevel=2)
        self._require_few(found)
        return None

    def _fault(self, record: Record) -> str | None:
        array = record.array
        if array.ndim != 2 or array.shape[1] != self._channels:
            return f"has an array of {array.shape}; expected {self._channels} columns"
        if not len(array):
            return "is empty"
        return None if np.isfinite(array).all() else "holds numbers that are not finite"

    def _require_few(self, found: str) -> None:
        drawn, damaged = self._skipped.drawn, self._skipped.damaged
        everything = damaged == drawn and drawn >= min(_ENOUGH, self._count)
        if everything or (drawn >= _ENOUGH and damaged > DAMAGED_SHARE * drawn):
            raise InputError(
                f"{damaged} of {drawn} records that were drawn are damaged, and {DAMAGED_SHARE:.0%} at most are passed "
                f"over (the last: {found}): build the data folder again"
            )
