"""Parameter trees from and into safetensors files, by the table in `layout.py`. Strict both ways.

A leaf (an array of the tree) is read piece by piece, each piece straight into the memory that goes to its device. At
most the leaf that is being read is held twice; on a CPU not even that.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding

from llamo_jax.errors import InputError
from llamo_jax.models.declaration import Module, abstract
from llamo_jax.storage.layout import Leaf, Rule, leaves
from llamo_jax.storage.tensor_files import DTYPES, Index, TensorFile, write_tensors
from llamo_jax.trees import flatten, unflatten

LARGEST_SHARD = 5 * 10**9
"""Bytes of weights in one written file of a Hugging Face checkpoint."""


class Weights:
    """The tensors of one or more safetensors files."""

    def __init__(self, paths: Iterable[Path]):
        """Opens the files and reads their headers.

        Raises:
          InputError: a file is missing or damaged, or two files hold a tensor of the same name.
        """
        self._files: list[TensorFile] = []
        self._where: dict[str, TensorFile] = {}
        try:
            for path in paths:
                self._files.append(file := TensorFile(path))
                if twice := sorted(set(file.entries) & set(self._where)):
                    raise InputError(f"{path}: holds {some(twice)}, which {self._where[twice[0]].path.name} holds too")
                self._where |= dict.fromkeys(file.entries, file)
        except InputError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._where)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, or None where there is none of that name."""
        return self._where[name].entries[name].shape if name in self._where else None

    def require(self, expected: Sequence[Leaf], where: Path, *, ignored: Iterable[str] = ()) -> None:
        """The tensors are those of `expected`, name by name and shape by shape, and of types of weights.

        Raises:
          InputError: tensors are missing, left over, of another shape or quantised; the message has their names, what
            was found and expected.
        """
        shapes = {name: leaf.shape for leaf in expected for name in leaf.names}
        for name in sorted(shapes.keys() & self._where.keys()):
            self._where[name].require_weight(name)
        found = {name: self._where[name].entries[name].shape for name in self._where}
        require_tensors(found, shapes, where, ignored=ignored)

    def type(self, name: str) -> str:
        """The type that a tensor is stored in, as safetensors calls it."""
        return self._where[name].entries[name].dtype

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf: that of its tensors, or the smallest that holds the numbers of all."""
        return functools.reduce(jax.numpy.promote_types, {DTYPES[self.type(name)] for name in leaf.names})

    def read(self, leaf: Leaf, index: Index | None = None, dtype: np.dtype | None = None) -> np.ndarray:
        """A leaf of the tree, or the part of it that slices of its axes name; `dtype` converts it."""
        whole = tuple(slice(0, length) for length in tree_shape(leaf))
        index = (
            whole
            if index is None
            else tuple(slice(*s.indices(full.stop)) for s, full in zip(index, whole, strict=True))
        )
        out = _aligned_empty([part.stop - part.start for part in index], np.dtype(dtype or self.dtype(leaf)))
        names = leaf.names[index[0]] if leaf.stacked else leaf.names
        parts = out if leaf.stacked else out[None]
        each = index[1:] if leaf.stacked else index

        def read(name: str, part: np.ndarray) -> None:
            if leaf.axes is None:
                self._where[name].read(name, part, each)
            else:
                tensor = np.empty(leaf.shape, DTYPES[self.type(name)])
                self._where[name].read(name, tensor)
                part[...] = tensor.transpose(leaf.axes)[each]

        if len(names) == 1:
            read(names[0], parts[0])
        else:
            list(_pool().map(read, names, parts))
        return out

    def tree(
        self,
        expected: Sequence[Leaf],
        shardings: Mapping[str, NamedSharding] | None = None,
        dtype: np.dtype | None = None,
    ) -> dict[str, Any]:
        """The whole tree as JAX arrays, each on its devices (the default device without `shardings`, by path)."""
        default = SingleDeviceSharding(jax.local_devices()[0])

        def read(leaf: Leaf) -> jax.Array:
            sharding = default if shardings is None else shardings[leaf.path]
            shape = tree_shape(leaf)
            part = self.local(leaf, sharding.addressable_devices_indices_map(shape).values(), dtype)
            return jax.make_array_from_callback(shape, sharding, part)

        # The tensors of a stacked leaf are read side by side, and so are leaves of one tensor.
        single = [leaf for leaf in expected if not leaf.stacked]
        flat = {leaf.path: array for leaf, array in zip(single, _pool().map(read, single), strict=True)}
        flat |= {leaf.path: read(leaf) for leaf in expected if leaf.stacked}
        return unflatten({leaf.path: flat[leaf.path] for leaf in expected})

    def local(
        self, leaf: Leaf, indices: Iterable[Index], dtype: np.dtype | None = None
    ) -> Callable[[Index], np.ndarray]:
        """A function that gives the parts of a leaf at any of `indices`. What lies between the first and the last of
        them is read once."""
        shape = tree_shape(leaf)
        spans = [[part.indices(length)[:2] for part, length in zip(index, shape, strict=True)] for index in indices]
        hull = [(min(start for start, _ in axis), max(stop for _, stop in axis)) for axis in zip(*spans, strict=True)]
        data = self.read(leaf, tuple(slice(start, stop) for start, stop in hull), dtype)

        def part(index: Index) -> np.ndarray:
            bounds = [part.indices(length)[:2] for part, length in zip(index, shape, strict=True)]
            return data[
                tuple(slice(start - low, stop - low) for (start, stop), (low, _) in zip(bounds, hull, strict=True))
            ]

        return part


def require_tensors(
    found: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    where: Path,
    *,
    ignored: Iterable[str] = (),
) -> None:
    """The shapes of the tensors found are those expected, by name.

    Raises:
      InputError: tensors are missing, left over or of another shape; the message has their names, what was found and
        expected.
    """
    missing = [f"{name} {shapes[name]}" for name in sorted(set(shapes) - set(found))]
    extra = [f"{name} {found[name]}" for name in sorted(set(found) - set(shapes) - set(ignored))]
    unequal = [name for name in shapes if name in found and found[name] != shapes[name]]
    misshapen = [f"{name} is {found[name]}, expected {shapes[name]}" for name in unequal]
    kinds = {"missing": missing, "unexpected": extra, "of another shape": misshapen}
    if problems := [f"{len(names)} tensors {kind}: {some(names)}" for kind, names in kinds.items() if names]:
        raise InputError(f"{where}: {'; '.join(problems)}; the config asks for {len(shapes)} tensors")


def _aligned_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array that JAX takes over as it is on a CPU, without a copy: that needs an address that 64 divides."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="weights")


def declared(rules: Sequence[Rule], module: Module, config: Any) -> list[Leaf]:
    """How the parameters that a module declares lie in files."""
    return leaves(rules, shapes_of(module, config))


def shapes_of(module: Module, config: Any) -> dict[str, tuple[int, ...]]:
    """Path -> shape of the parameters that a module declares."""
    return {path: leaf.shape for path, leaf in flatten(abstract(module, config)).items()}


def write_tree(path: Path, flat: Mapping[str, Any], rules: Sequence[Rule]) -> str:
    """Writes the leaves of a flat tree into one safetensors file; returns its SHA-256."""
    # Sorted by name: the same file whether the towers are stacked or not.
    return write_tensors(path, dict(sorted(_tensors(flat, rules))))


def write_sharded(
    folder: Path, flat: Mapping[str, Any], rules: Sequence[Rule], *, largest: int = LARGEST_SHARD
) -> None:
    """Writes a flat tree as a Hugging Face checkpoint: model.safetensors, or numbered files of at most `largest` bytes
    and their index."""
    write_checkpoint(folder, dict(_tensors(flat, rules)), largest=largest)


def write_checkpoint(folder: Path, tensors: Mapping[str, tuple], *, largest: int = LARGEST_SHARD) -> None:
    """Writes tensors, each made as it is written, as a Hugging Face checkpoint: model.safetensors, or numbered files of
    at most `largest` bytes and their index.

    Args:
      folder: that is there.
      tensors: as for `write_tensors`, in the order of the files.
      largest: bytes of weights in one file.
    """
    shards: list[dict] = [{}]
    size = total = 0
    for name, tensor in tensors.items():
        count = tensor[0].itemsize * math.prod(tensor[1])
        if shards[-1] and size + count > largest:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += count
        total += count
    if len(shards) == 1:
        write_tensors(folder / "model.safetensors", shards[0])
        return
    files = {f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard for number, shard in enumerate(shards, 1)}
    for file, shard in files.items():
        write_tensors(folder / file, shard)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: file for file, shard in files.items() for name in shard},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tensors(flat: Mapping[str, Any], rules: Sequence[Rule]) -> Iterable[tuple[str, tuple]]:
    for leaf in leaves(rules, {path: array.shape for path, array in flat.items()}):
        for layer, name in enumerate(leaf.names):
            make = functools.partial(_host_tensor, flat[leaf.path], leaf, layer)
            yield name, (np.dtype(flat[leaf.path].dtype), leaf.shape, make)


def _host_tensor(array: Any, leaf: Leaf, layer: int) -> np.ndarray:
    # Sliced before it comes to the host: an array on an accelerator would keep its whole host copy.
    tensor = np.asarray(array[layer] if leaf.stacked else array)
    return tensor if leaf.axes is None else tensor.transpose(leaf.axes)


def tree_shape(leaf: Leaf) -> tuple[int, ...]:
    """Shape of a leaf in the tree, its tensors stacked."""
    each = leaf.shape if leaf.axes is None else tuple(leaf.shape[axis] for axis in leaf.axes)
    return (len(leaf.names), *each) if leaf.stacked else each


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
