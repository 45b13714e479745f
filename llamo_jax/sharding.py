"""The mesh, the rules that map logical axes to mesh axes, and the shardings of parameters and batches.

Meshes have the axes (data, fsdp, tensor). Parameters name their axes logically where they are declared; a `Rules`
value alone says which mesh axis each of those is split over. Batches are split over data and fsdp.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llamo_jax.errors import InputError

Axes = tuple[str | None, ...]
"""Logical names of an array's axes."""

MESH_AXES = ("data", "fsdp", "tensor")

Rules = Mapping[str, str | None]
"""Logical axis -> the mesh axis that it is split over, or None."""

TRAINING: Rules = {
    "layers": None,  # scanned
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffn": "tensor",
    "head": "fsdp",  # hidden units of the flow head, which is small
    "embed": "fsdp",
    "conv_out": "fsdp",
    "conv_in": "tensor",
    "latent": None,
}


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of data x fsdp x tensor devices, with automatic propagation of shardings.

    Raises:
      InputError: the product is not the number of devices.
    """
    sizes = (data, fsdp, tensor)
    if data * fsdp * tensor != jax.device_count():
        raise InputError(
            f"mesh {data},{fsdp},{tensor} has {data * fsdp * tensor} devices; there are {jax.device_count()}: "
            "the product of data, fsdp and tensor must be that number"
        )
    return mesh_of(jax.devices(), sizes)


def mesh_of(devices: Sequence[Any], shape: tuple[int, int, int]) -> Mesh:
    """A mesh of these devices, which may be of a topology that is not here.

    Neighbours in the mesh are neighbours in the torus, and an axis of the mesh is whole axes of the torus where sizes
    allow it. Of several slices of TPUs, only data goes from one to another.

    Args:
      devices: as many as the mesh has.
      shape: sizes of data, fsdp and tensor.

    Raises:
      InputError: data does not divide over the slices.
    """
    data, fsdp, tensor = shape
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}) or 1
    if data % slices:
        raise InputError(
            f"mesh {data},{fsdp},{tensor} on {slices} slices: only data can go from slice to slice, and its size "
            f"{data} is no multiple of {slices}"
        )
    inside = (data // slices, fsdp, tensor)

    def arranged(split: bool) -> np.ndarray:
        options = {"devices": devices, "allow_split_physical_axes": split}
        if slices > 1:
            return mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), **options)
        return mesh_utils.create_device_mesh(inside, **options)

    try:
        found = arranged(False)
    except NotImplementedError:  # sizes that are no products of whole axes of the torus
        found = arranged(True)
    return Mesh(found, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def data_mesh(*rows: int) -> Mesh:
    """A mesh that splits batches over as many devices as divide all of `rows`, and no parameters.

    The rest of the devices stay idle.
    """
    size = max(n for n in range(1, jax.device_count() + 1) if not any(count % n for count in rows))
    return jax.make_mesh((size, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:size])


def mesh_for(shape: tuple[int, int, int] | None, *rows: int) -> Mesh:
    """The mesh of a stage with batches of so many rows: one that was asked for, or `data_mesh`.

    Raises:
      InputError: the rows cannot be split over data and fsdp.
    """
    if shape is None:
        return data_mesh(*rows)
    mesh = make_mesh(*shape)
    parts = shape[0] * shape[1]
    if uneven := [count for count in rows if count % parts]:
        raise InputError(
            f"batches of {', '.join(map(str, uneven))} rows cannot be split over data x fsdp = {parts} devices; "
            f"choose a mesh whose product divides them, or rows that it divides"
        )
    return mesh


def mesh_shape(text: str) -> tuple[int, int, int]:
    """Sizes of (data, fsdp, tensor) from "2,32,4".

    Raises:
      InputError: these are no three positive numbers.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f'--mesh "{text}"; expected three sizes, data,fsdp,tensor, as 1,64,1')
    return int(parts[0]), int(parts[1]), int(parts[2])


def spec(axes: Axes, shape: tuple[int, ...], mesh: Mesh, rules: Rules = TRAINING, path: str = "") -> PartitionSpec:
    """The partition of an array with these logical axes.

    Raises:
      InputError: a split does not divide its axis, or two axes of the array would be split over one mesh axis.
    """
    entries = tuple(rules[axis] if axis else None for axis in axes)
    for entry, axis, size in zip(entries, axes, shape, strict=True):
        if entry and size % mesh.shape[entry]:
            choices = ", ".join(str(n) for n in range(1, mesh.shape[entry]) if size % n == 0)
            raise InputError(
                f'{path or "array"}: axis "{axis}" of size {size} cannot be split over mesh axis "{entry}" of size '
                f"{mesh.shape[entry]}; choose a {entry} size of {choices}, or a larger one that divides {size}"
            )
        if entry and entries.count(entry) > 1:
            raise InputError(f'{path or "array"}: two of the axes {axes} are split over mesh axis "{entry}"')
    return PartitionSpec(*entries)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())
