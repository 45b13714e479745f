"""Lengths that differ compile anew, so that all of them are padded to multiples of one number: text, motion, caches."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

BUCKET = 32


def round_up(length: int, multiple: int = BUCKET) -> int:
    """The least multiple that is at least `length`."""
    return -(-length // multiple) * multiple


def padded_tokens(rows: Sequence[Sequence[int]]) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """Token rows, padded with 0 on the right, and their true lengths."""
    tokens = np.zeros((len(rows), round_up(max(map(len, rows)))), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens, np.array([len(ids) for ids in rows], np.int32)


def padded_arrays(
    rows: Sequence[Float[np.ndarray, "n C"]], *, multiple: int = BUCKET
) -> tuple[Float[np.ndarray, "B T C"], Int[np.ndarray, " B"]]:
    """Arrays, padded with 0 on the right to a multiple of `multiple`, and their true lengths."""
    padded = np.zeros((len(rows), round_up(max(map(len, rows)), multiple), rows[0].shape[1]), np.float32)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded, np.array([len(row) for row in rows], np.int32)
