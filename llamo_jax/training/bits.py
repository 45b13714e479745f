"""Checksums of arrays, made where they lie: is the frozen tower, or the data, still what it was?"""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def sums_of_bits(flat: Mapping[str, Any]) -> dict[str, int]:
    """A checksum of each array, made on its own devices, however it is split."""
    return {path: int(total) for path, total in _device_sums(dict(flat)).items()}


def fingerprint(flat: Mapping[str, Any]) -> int:
    """One checksum of all arrays, so that a run is continued with the same ones only."""
    return zlib.crc32(repr(sorted(sums_of_bits(flat).items())).encode())


@jax.jit
def _device_sums(flat: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def of(leaf: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(leaf, {2: np.uint16, 4: np.uint32}[leaf.dtype.itemsize]).astype(np.uint32)
        return bits.sum()

    return {path: of(leaf) for path, leaf in flat.items()}
