"""Safetensors files: what the library writes is read, what is written the library reads, and damaged files are told."""

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.flax import load_file as load_flax
from safetensors.numpy import load_file, save_file

from llamo_jax.errors import InputError
from llamo_jax.storage.tensor_files import TensorFile, sha256, write_tensors

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(["f4", "f8", "f2"]).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES, elements={"allow_nan": True})),
    min_size=1,
)


def read_all(path: Path) -> dict[str, np.ndarray]:
    with TensorFile(path) as file:
        found = {}
        for name, entry in file.entries.items():
            dtype = {"F32": "f4", "F64": "f8", "F16": "f2", "BF16": ml_dtypes.bfloat16}[entry.dtype]
            found[name] = np.empty(entry.shape, dtype)
            file.read(name, found[name])
        return found


def write_all(path: Path, tensors: dict[str, np.ndarray]) -> str:
    return write_tensors(
        path, {name: (array.dtype, array.shape, lambda array=array: array) for name, array in tensors.items()}
    )


@settings(max_examples=50, deadline=None)
@given(tensors=TENSORS)
def test_the_library_reads_what_is_written_and_the_other_way_round(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict
) -> None:
    folder = tmp_path_factory.mktemp("files")
    digest = write_all(folder / "ours", tensors)
    save_file(tensors, folder / "theirs")
    assert (
        digest
        == hashlib.sha256((folder / "ours").read_bytes()).hexdigest()
        == sha256([folder / "ours"])[folder / "ours"]
    )
    for found in (load_file(folder / "ours"), read_all(folder / "theirs"), read_all(folder / "ours")):
        assert found.keys() == tensors.keys()
        for name, array in tensors.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_bfloat16_and_conversion(tmp_path: Path) -> None:
    array = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4).astype(ml_dtypes.bfloat16)
    write_all(tmp_path / "file", {"a": array})
    np.testing.assert_array_equal(np.asarray(load_flax(tmp_path / "file")["a"]), array)
    with TensorFile(tmp_path / "file") as file:
        file.read("a", single := np.empty((3, 4), np.float32))
    np.testing.assert_array_equal(single, array.astype(np.float32))


@pytest.mark.parametrize(
    "index", [(slice(1, 3),), (slice(0, 4), slice(1, 3), slice(None)), (slice(None), slice(None), slice(2, 5)), ()]
)
def test_parts_are_read(tmp_path: Path, index: tuple) -> None:
    array = np.arange(4 * 3 * 5, dtype=np.float32).reshape(4, 3, 5)
    write_all(tmp_path / "file", {"before": np.ones(7, np.float32), "a": array})
    with TensorFile(tmp_path / "file") as file:
        out = np.empty(array[index].shape, np.float32)
        file.read("a", out, index)
        np.testing.assert_array_equal(out, array[index])
        apart = np.zeros((*out.shape, 2), np.float32)[..., 0]
        file.read("a", apart, index)
    np.testing.assert_array_equal(apart, array[index])


def _header(entries: object, data: bytes = b"\0" * 16) -> bytes:
    encoded = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


FOUR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header of 0 bytes in a file of 0"),
        (b"\xff" * 40, "not a readable safetensors file"),
        (_header(b"{no json"), "its header is damaged"),
        (_header([1]), "its header is damaged"),
        (_header({"a": {"dtype": "F32"}}), "its header is damaged"),
        (
            _header(b'{"a":' + json.dumps(FOUR).encode() + b',"a":' + json.dumps(FOUR).encode() + b"}"),
            "a name occurs twice",
        ),
        (_header({"a": FOUR | {"dtype": "I8"}}), 'tensor "a" is of type I8; expected F64, F32, F16, BF16'),
        (_header({"a": FOUR | {"shape": [-4]}}), r'tensor "a" has shape \(-4,\)'),
        (_header({"a": FOUR | {"shape": [5]}}), 'tensor "a" has 16 bytes; shape'),
        (_header({"a": FOUR | {"data_offsets": [4, 20]}}), "at byte 4"),
        (_header({"a": FOUR, "b": FOUR}), "at byte 0"),
        (_header({"a": FOUR}, b"\0" * 12), "it was cut off, or has grown"),
        (_header({"a": FOUR}, b"\0" * 20), "it was cut off, or has grown"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message):
        TensorFile(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be read"):
        TensorFile(tmp_path / "absent")


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    write_all(tmp_path / "file", {"a": np.ones(100, np.float32)})
    with TensorFile(tmp_path / "file") as file:
        (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-8])
        with pytest.raises(InputError, match="shorter than its header says"):
            file.read("a", np.empty(100, np.float32))
