"""Checksums of arrays, made where they lie: is the frozen tower, or the data, still what it was?"""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def sums_of_bits(flat: Mapping[str, Any]) -> dict[str, int]:
    """A checksum of each array's bits and their places, made on its own devices, however it is split."""
    return {path: int(total) for path, total in _device_sums(dict(flat)).items()}


def fingerprint(flat: Mapping[str, Any]) -> int:
    """One checksum of all arrays, so that a run is continued with the same ones only."""
    return zlib.crc32(repr(sorted(sums_of_bits(flat).items())).encode())


@jax.jit
def _device_sums(flat: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def of(leaf: jax.Array) -> jax.Array:
        size = leaf.dtype.itemsize
        bits = jax.lax.bitcast_convert_type(leaf, {1: np.uint8, 2: np.uint16}.get(size, np.uint32)).astype(np.uint32)
        # Each place has an odd factor of its own: two values that change places change the sum.
        place = jnp.uint32(0)
        for axis, count in enumerate(bits.shape):
            place = place * np.uint32(count) + jax.lax.broadcasted_iota(np.uint32, bits.shape, axis)
        return (bits * (2 * place + 1)).sum()

    return {path: of(leaf) for path, leaf in flat.items()}
