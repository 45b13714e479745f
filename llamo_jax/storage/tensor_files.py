"""Safetensors files, read and written a tensor at a time, straight from and into arrays.

The safetensors library maps files into memory, so that what it reads stays on this process's account, and needs all
tensors at once to write a file. Here bytes go from the file into their place in an array, only those that are asked
for, and a file is written as its tensors are made. The format is 8 bytes of header length, a JSON header of names,
types, shapes and byte ranges, and the data (https://github.com/huggingface/safetensors). No pickle is ever read.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import ml_dtypes
import numpy as np

from llamo_jax.errors import InputError

DTYPES = {"F64": np.dtype("f8"), "F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
"""What weights may be stored as; integers and 8-bit floats are quantised weights, which need more than their
numbers."""

INTEGERS = {"I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
"""What buffers beside the weights may be stored as (positions, masks), with their bytes; they are never read."""

_SIZES = {code: dtype.itemsize for code, dtype in DTYPES.items()} | INTEGERS

_LARGEST_HEADER = 100_000_000

Index = tuple[slice, ...]


class Entry(NamedTuple):
    """What a file's header says of one tensor. `start` counts bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


class TensorFile:
    """A safetensors file, open for reading.

    Attributes:
      path: of the file.
      entries: by name of the tensor.
    """

    def __init__(self, path: Path):
        """Opens the file and checks its header.

        Raises:
          InputError: no such file, or not a whole and consistent safetensors file.
        """
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); expected a safetensors file") from error
        try:
            self.entries = self._read_header()
        except InputError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; nothing can be read afterwards."""
        os.close(self._file)

    def require_weight(self, name: str) -> None:
        """A tensor is of a type of `DTYPES`.

        Raises:
          InputError: it is of another.
        """
        if (dtype := self.entries[name].dtype) not in DTYPES:
            raise self._wrong_type(name, dtype)

    def _wrong_type(self, name: str, dtype: str) -> InputError:
        known = ", ".join(DTYPES)
        return InputError(
            f'{self.path}: tensor "{name}" is of type {dtype}; expected {known} (quantised weights are not read)'
        )

    def read(self, name: str, out: np.ndarray, index: Index = ()) -> None:
        """Fills `out` with a tensor, or with the part of it that the slices of `index` name, converted to the type of
        `out`.

        Rows are read straight into `out` where types agree and `out` lies in one piece; parts of rows by way of their
        whole rows.
        """
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        rows = index[0].indices(entry.shape[0]) if index else (0, entry.shape[0] if entry.shape else 1, 1)
        width = dtype.itemsize * math.prod(entry.shape[1:])
        start, size = entry.start + rows[0] * width, (rows[1] - rows[0]) * width
        whole_rows = all(
            part.indices(length) == (0, length, 1) for part, length in zip(index[1:], entry.shape[1:], strict=False)
        )
        if whole_rows and out.dtype == dtype and out.flags.c_contiguous:
            self._fill(out.reshape(-1).view(np.uint8), start)
            return
        buffer = np.empty(size, np.uint8)
        self._fill(buffer, start)
        read = buffer.view(dtype).reshape(rows[1] - rows[0], *entry.shape[1:])
        out[...] = read[(slice(None), *index[1:])].reshape(out.shape)

    def _fill(self, out: np.ndarray, start: int) -> None:
        view = memoryview(out)
        while view:
            if not (count := os.preadv(self._file, [view], start)):
                raise InputError(
                    f"{self.path}: shorter than its header says; it was cut off or changed while it was read"
                )
            view, start = view[count:], start + count

    def _read_header(self) -> dict[str, Entry]:
        size = os.fstat(self._file).st_size
        length = int.from_bytes(os.pread(self._file, 8, 0), "little")
        if size < 8 or not 0 < length <= min(size - 8, _LARGEST_HEADER):
            raise InputError(
                f"{self.path}: not a readable safetensors file (a header of {length} bytes in a file of {size})"
            )
        try:
            header = json.loads(os.pread(self._file, length, 8), object_pairs_hook=_without_duplicates)
            header.pop("__metadata__", None)
            found = {
                name: (value["dtype"], tuple(value["shape"]), *value["data_offsets"]) for name, value in header.items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{self.path}: not a readable safetensors file (its header is damaged: {error})"
            ) from error
        end = 0
        for name, (dtype, shape, start, stop) in sorted(found.items(), key=lambda item: item[1][2:]):
            if dtype not in _SIZES:
                raise self._wrong_type(name, dtype)
            if not all(isinstance(n, int) and n >= 0 for n in shape) or start != end:
                raise InputError(
                    f'{self.path}: not a readable safetensors file (tensor "{name}" has shape {shape} at byte {start})'
                )
            end = start + _SIZES[dtype] * math.prod(shape)
            if stop != end:
                raise InputError(
                    f'{self.path}: tensor "{name}" has {stop - start} bytes; shape {shape} of {dtype} has {end - start}'
                )
        if 8 + length + end != size:
            raise InputError(
                f"{self.path}: {size} bytes; its header speaks of {8 + length + end}: it was cut off, or has grown"
            )
        return {name: Entry(dtype, shape, 8 + length + start) for name, (dtype, shape, start, _) in found.items()}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def write_tensors(path: Path, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...], Callable[[], np.ndarray]]]) -> str:
    """Writes a safetensors file, making one tensor at a time.

    Args:
      path: of the file.
      tensors: by name: type, shape, and what makes the array.

    Returns:
      The SHA-256 of the file.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, _) in tensors.items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # data is aligned to 8 bytes
    digest = hashlib.sha256()
    with open(path, "wb") as file:

        def write(data: bytes | memoryview) -> None:
            file.write(data)
            digest.update(data)

        write(len(encoded).to_bytes(8, "little"))
        write(encoded)
        for name, (dtype, shape, make) in tensors.items():
            array = make()
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name}: made {array.dtype} {array.shape}, announced {dtype} {shape}")
            write(memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
            del array  # before the next is made
    return digest.hexdigest()


def sha256(paths: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of each file, in hexadecimal; several files at a time."""
    paths = list(paths)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(zip(paths, pool.map(_sha256, paths), strict=True))


def _sha256(path: Path) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
