"""GGUF files (llama.cpp's format), read a tensor at a time: the facts in front, and quantised weights as numbers.

The package `gguf` knows the types of weights and how each is dequantised. Its reader maps the whole file, believes
every length in it and makes an array of each token, so the header is read here: it is "GGUF", a version, the number of
tensors and of facts; facts as name, type and value; tensors as name, shape, type and place; and, aligned, the data in
the same order (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import contextlib
import math
import os
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

import ml_dtypes
import numpy as np

from llamo_jax.errors import InputError
from llamo_jax.files import foreign_kind

_NUMBERS = dict(enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", "", "", "<u8", "<i8", "<f8")))
_TEXT, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MAX_AXES = 4
_LARGEST_HEADER = 1 << 30
_PIECE = 1 << 22  # bytes that are dequantised at a time, beside the tensor

HALVES = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
"""The 16-bit types: weights that need no dequantising."""


class GGUFTensor(NamedTuple):
    """What a file's header says of one tensor.

    Attributes:
      type: as llama.cpp calls it ("Q4_K").
      shape: in PyTorch's order, [out, in] for a matrix.
      start: bytes from the start of the file.
      row: bytes of a row, whose numbers are those of the last axis.
    """

    type: str
    shape: tuple[int, ...]
    start: int
    row: int


class GGUFFile:
    """A GGUF file, open for reading.

    Attributes:
      path: of the file.
      facts: name -> number, text, list of texts or array of numbers.
      tensors: by name, in the order of the file.
    """

    def __init__(self, path: Path):
        """Opens the file and checks its header.

        Raises:
          InputError: no such file, not a whole and consistent GGUF file, weights of a type that cannot be dequantised,
            or no package `gguf`.
        """
        self.path = path
        self._package = _package(path)
        try:
            self._file = open(path, "rb")  # noqa: SIM115 (open for as long as the object)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); expected a GGUF file") from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.facts: dict[str, Any] = {}
            self.tensors: dict[str, GGUFTensor] = {}
            self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; nothing can be read afterwards."""
        self._file.close()

    def read(self, name: str, dtype: np.dtype | type = np.float32) -> np.ndarray:
        """A tensor as numbers of a type. Beside it, only some megabytes are held.

        Raises:
          InputError: the file became shorter, or a number is not finite.
        """
        tensor, dtype = self.tensors[name], np.dtype(dtype)
        rows, kind = math.prod(tensor.shape[:-1]), self._package.GGMLQuantizationType[tensor.type]
        out = np.empty((rows, tensor.shape[-1]), dtype)
        step = max(1, _PIECE // (4 * tensor.shape[-1]))
        for start in range(0, rows, step):
            stored = np.empty((min(step, rows - start), tensor.row), np.uint8)
            self._fill(stored, tensor.start + start * tensor.row)
            as_it_is = HALVES.get(tensor.type) == dtype
            with np.errstate(all="ignore"):  # what is not finite is told below
                numbers = stored.view(dtype) if as_it_is else self._package.quants.dequantize(stored, kind)
            if not np.isfinite(numbers).all():
                raise InputError(f'{self.path}: tensor "{name}" has numbers that are not finite; the file is damaged')
            out[start : start + len(stored)] = numbers
        return out.reshape(tensor.shape)

    def _fill(self, out: np.ndarray, start: int) -> None:
        view = memoryview(out.reshape(-1))
        while view:
            if not (count := os.preadv(self._file.fileno(), [view], start)):
                raise self._cut_off()
            view, start = view[count:], start + count

    def _cut_off(self) -> InputError:
        return InputError(f"{self.path}: shorter than its header says; it was cut off, or the download went wrong")

    def _damaged(self, why: str) -> InputError:
        return InputError(f"{self.path}: not a readable GGUF file ({why})")

    def _take(self, count: int) -> bytes:
        if self._file.tell() + count > _LARGEST_HEADER:
            raise self._damaged(f"its header claims more than {_LARGEST_HEADER >> 20} MiB")
        if self._file.tell() + count > self._size:
            raise self._cut_off()
        return self._file.read(count)

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _text(self) -> str:
        data = self._take(self._number(8))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._damaged(f"a text at byte {self._file.tell() - len(data)} is not UTF-8") from error

    def _name(self) -> str:
        """Of a fact or a tensor: messages say it."""
        if not (name := self._text()).isprintable():
            raise self._damaged(f"a name of characters that cannot be printed, {name!r:.60}")
        return name

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY:
            kind, count = self._number(4), self._number(8)
            if kind == _TEXT:
                if 8 * count > self._size:
                    raise self._cut_off()
                return [self._text() for _ in range(count)]
            dtype = self._dtype(kind)
            return np.frombuffer(self._take(count * dtype.itemsize), dtype)
        dtype = self._dtype(kind)
        return np.frombuffer(self._take(dtype.itemsize), dtype)[0].item()

    def _dtype(self, kind: int) -> np.dtype:
        if not _NUMBERS.get(kind):
            raise self._damaged(f"a fact of the unknown type {kind} at byte {self._file.tell()}")
        return np.dtype(_NUMBERS[kind])

    def _read_header(self) -> None:
        start = os.pread(self._file.fileno(), 512, 0)
        if not start.startswith(b"GGUF"):
            raise InputError(f"{self.path}: {foreign_kind(start) or 'does not begin as one'}; expected a GGUF file")
        self._take(4)
        version = self._number(4)
        if version not in _VERSIONS:
            big = " (big-endian)" if version and not version & 0xFFFF else ""
            raise self._damaged(f"version {version}{big}; expected {' or '.join(map(str, _VERSIONS))}, little-endian")
        tensors, facts = self._number(8), self._number(8)
        for _ in range(facts):
            name = self._name()
            if name in self.facts:
                raise self._damaged(f'the fact "{name}" occurs twice')
            self.facts[name] = self._value(self._number(4))
        listed = [self._listed() for _ in range(tensors)]
        self._place(listed)

    def _listed(self) -> tuple[str, tuple[int, ...], str, int]:
        """Name, shape, type and place of a tensor."""
        name, axes = self._name(), self._number(4)
        if not 1 <= axes <= _MAX_AXES:
            raise self._damaged(f'tensor "{name}" has {axes} axes')
        shape = tuple(self._number(8) for _ in range(axes))[::-1]
        if 0 in shape:
            raise self._damaged(f'tensor "{name}" has shape {shape}')
        number, offset = self._number(4), self._number(8)
        try:
            kind = self._package.GGMLQuantizationType(number).name
        except ValueError:
            kind = f"number {number}"
        if not self._is_read(kind):
            known = ", ".join(each.name for each in self._package.GGMLQuantizationType if self._is_read(each.name))
            raise InputError(f'{self.path}: tensor "{name}" is of type {kind}; the package gguf reads {known}')
        return name, shape, kind, offset

    def _is_read(self, kind: str) -> bool:
        if kind not in self._package.GGMLQuantizationType.__members__:
            return False
        kind = self._package.GGMLQuantizationType[kind]
        _, size = self._package.GGML_QUANT_SIZES[kind]
        with contextlib.suppress(NotImplementedError), np.errstate(all="ignore"):
            self._package.quants.dequantize(np.zeros((1, size), np.uint8), kind)
            return True
        return False

    def _place(self, listed: list[tuple[str, tuple[int, ...], str, int]]) -> None:
        """Where the tensors lie. As llama.cpp has it, each follows the one before, aligned, and nothing follows the
        last: what lies elsewhere was changed."""
        alignment = self.facts.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"general.alignment is {alignment!r:.40}; expected a power of two")
        start = -(-self._file.tell() // alignment) * alignment
        end = 0
        for name, shape, kind, offset in listed:
            block, size = self._package.GGML_QUANT_SIZES[self._package.GGMLQuantizationType[kind]]
            if name in self.tensors:
                raise self._damaged(f'tensor "{name}" occurs twice')
            if shape[-1] % block:
                raise self._damaged(f'tensor "{name}" has rows of {shape[-1]}; {kind} has blocks of {block}')
            if offset != (end := -(-end // alignment) * alignment):
                raise self._damaged(f'tensor "{name}" lies at byte {offset} of the data; expected {end}')
            row = shape[-1] // block * size
            self.tensors[name] = GGUFTensor(kind, shape, start + offset, row)
            end += math.prod(shape[:-1]) * row
        if start + end > self._size:
            raise self._cut_off()
        if start + -(-end // alignment) * alignment < self._size:
            raise self._damaged(f"{self._size} bytes; its header speaks of {start + end}")


def _package(path: Path) -> ModuleType:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise InputError(f"{path}: needs the package gguf; run `pip install llamo_jax[gguf]`") from error
    return gguf
