"""Published peaks of accelerators, by the name that JAX gives them (`jax.devices()[0].device_kind`).

Sources, read in November 2026: the pages of Cloud TPU for each version (docs.cloud.google.com/tpu/docs: v5e, v5p, v6e,
tpu7x), for v4 "TPU v4: An Optically Reconfigurable Supercomputer" (ISCA 2023), and NVIDIA's data sheets of A100, H100,
H200 and HGX B200, without sparsity. Cloud TPU's pages give the links of a chip together, in both directions: a link is
that over twice their number.
"""

from typing import NamedTuple

_GIB = 2.0**30


class Device(NamedTuple):
    """Peaks of what JAX calls a device: a chip, or of TPU7x one of its two halves.

    Attributes:
      flops: of products of bfloat16 matrices, a second.
      memory: bytes.
      bandwidth: of the memory, bytes a second.
      link: bytes a second that one link to another chip carries one way. Of a GPU, all of NVLink.
      links: to other chips: two for each axis of the torus. 1 for a GPU, whose links meet in a switch.
      outside: bytes a second that a chip sends to another slice or node; None where nothing is published.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    links: int
    outside: float | None


_V5P = Device(459e12, 95 * _GIB, 2765e9, 100e9, 6, 50e9 / 8)

DEVICES: dict[str, Device] = {
    "TPU v4": Device(275e12, 32 * _GIB, 1228e9, 50e9, 6, None),
    "TPU v5 lite": Device(197e12, 16 * _GIB, 819e9, 50e9, 4, 25e9 / 8),
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": Device(918e12, 32 * _GIB, 1638e9, 100e9, 4, 100e9 / 8),
    "TPU7x": Device(2307e12 / 2, 96 * _GIB, 7380e9 / 2, 100e9, 6, 100e9 / 8 / 2),
    "NVIDIA A100-SXM4-40GB": Device(312e12, 40e9, 1555e9, 300e9, 1, 25e9),
    "NVIDIA A100-SXM4-80GB": Device(312e12, 80e9, 2039e9, 300e9, 1, 25e9),
    "NVIDIA H100 80GB HBM3": Device(989e12, 80e9, 3350e9, 450e9, 1, 50e9),
    "NVIDIA H200": Device(989e12, 141e9, 4800e9, 450e9, 1, 50e9),
    "NVIDIA B200": Device(2250e12, 180e9, 8000e9, 900e9, 1, 50e9),
}
"""Name of a device in JAX -> its peaks. `outside` of a GPU is a network card of 200 (A100) or 400 Gbit/s for each."""

WRAPS = {"TPU v5 lite": 16, "TPU v6 lite": 16, "TPU v4": 4, "TPU v5": 4, "TPU7x": 4}
"""Name of a TPU -> from how many chips on an axis of a slice is a ring; shorter ones are lines."""


def peak_flops(device_kind: str) -> float | None:
    """Operations on bfloat16 a second of a device of this kind; None where it is not known, as of a CPU."""
    device = DEVICES.get(device_kind)
    return None if device is None else device.flops
