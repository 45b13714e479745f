"""Files that appear whole or not at all, and readers that refuse to unpickle."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llamo_jax.errors import InputError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, *, directory: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it onto `path` when the block succeeds, deletes it when the block
    raises.

    The temporary name keeps the suffix of `path`, because encoders choose their format by it. With `directory=True` the
    temporary path is an existing empty folder, and a folder already at `path` is replaced as a whole.

    Raises:
      InputError: nothing can be written there.
    """
    path = Path(path)
    if path.is_dir() and not directory:
        raise InputError(f"{path}: is a folder; expected the name of a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another output path") from error
    temporary = scratch / path.name
    try:
        if directory:
            temporary.mkdir()
        yield temporary
        _replace(temporary, path, scratch / "replaced" if directory and path.exists() else None)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(source: Path, target: Path, aside: Path | None) -> None:
    """Renames `source` onto `target`; a folder that is there goes aside first, and comes back if the rename fails."""
    if aside is None:
        os.replace(source, target)
        return
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except OSError:
        os.rename(aside, target)
        raise


def require_replaceable(path: str | os.PathLike, is_ours: Callable[[Path], bool], what: str) -> None:
    """Only nothing, an empty folder or an earlier result of ours is replaced; called before long work.

    Args:
      path: of the output folder.
      is_ours: whether the folder at a path is what we write there. An InputError of it is a no.
      what: the name of that, with its article.

    Raises:
      InputError: something else is there.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        ours = is_ours(path)
    except InputError:
        ours = False
    if not ours:
        raise InputError(f"{path}: exists and is not {what}; choose another output path, or remove it")


def write_json(path: str | os.PathLike, value: object) -> None:
    """Writes `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> object:
    """Reads a JSON file.

    Raises:
      InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a JSON file") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise InputError(f"{path}: not valid JSON ({error})") from error


def read_arrays(path: str | os.PathLike, *, mapped: bool = False) -> dict[str, np.ndarray]:
    """Reads every array of an .npz file, or the one of an .npy file under the name "array". Never unpickles.

    Args:
      path: of the file.
      mapped: map an .npy file into memory: what is not used is not read.

    Raises:
      InputError: the file is missing, damaged, or holds pickled objects.
    """
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if mapped else None)
        if isinstance(loaded, np.ndarray) != (Path(path).suffix == ".npy"):
            raise InputError(
                f"{path}: the suffix is not that of its contents; expected one array as .npy, several as .npz"
            )
        if isinstance(loaded, np.ndarray):
            return {"array": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); expected a NumPy .npz or .npy file"
        ) from error
    except ValueError as error:
        if "Object arrays" in str(error) or "pickle" in str(error).lower():
            raise InputError(
                f"{path}: damaged, or holds pickled Python objects, which are never loaded (they can run code); save "
                f"plain arrays instead"
            ) from error
        raise InputError(f"{path}: not a readable NumPy file ({error})") from error
    except Exception as error:  # zipfile and zlib raise their own types for damaged archives
        raise InputError(f"{path}: damaged NumPy file ({error})") from error
