"""Files that appear whole or not at all, and readers that refuse to unpickle."""

import codecs
import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

import numpy as np

from llamo_jax.errors import InputError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, *, directory: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it onto `path` when the block succeeds, deletes it when the block
    raises.

    The temporary name keeps the suffix of `path`, because encoders choose their format by it. With `directory=True` the
    temporary path is an existing empty folder, and a folder already at `path` is replaced as a whole. Where `path` is a
    link, what it points to is replaced, as by `open`.

    Raises:
      InputError: nothing can be written there, or the disk is full before the end.
    """
    target = Path(os.path.realpath(path))
    if not directory and os.path.exists(target) and not os.path.isfile(target):
        what = "a folder" if os.path.isdir(target) else "no regular file"
        raise InputError(f"{path}: is {what}; expected the name of a file to write")
    # Named before it is made, so that a signal between the two leaves nothing behind. Names have at most 255 bytes.
    scratch = target.parent / f".{target.stem[:40]}-{secrets.token_hex(6)}"
    temporary = scratch / target.name
    new_folders = [folder for folder in target.parents if not os.path.exists(folder)]
    try:
        scratch.mkdir(parents=True)
        if directory:
            temporary.mkdir()
        with contextlib.suppress(FileNotFoundError):
            os.lstat(temporary)  # a name that is too long is told before the work
        yield temporary
        _replace(temporary, target, scratch / "replaced" if directory and target.exists() else None)
    except InputError as error:
        if str(temporary) not in str(error):
            raise
        raise InputError(str(error).replace(str(temporary), str(path))) from error
    except Exception as error:
        reason = _why_not_written(error, scratch)
        if reason is None:
            raise
        raise cannot_write(path, reason) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in new_folders:
            with contextlib.suppress(OSError):  # it holds what was written
                folder.rmdir()


DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EROFS} | {getattr(errno, "EDQUOT", errno.ENOSPC)}
"""What the system says of a disk that takes no more."""


def cannot_write(path: str | os.PathLike, reason: object) -> InputError:
    """What to tell where the system does not let `path` be written."""
    return InputError(f"{path}: cannot be written ({reason}); choose another output path, or make room")


def _why_not_written(error: Exception, scratch: Path) -> str | None:
    """The system's reason, where an error is of what is written under `scratch` and not of something else that a block
    does."""
    if isinstance(error, OSError) and error.filename is not None:
        name = str(error.filename)
        ours = name.startswith(str(scratch)) or name in map(str, scratch.parents)
        return error.strerror if ours else None
    # Libraries in other languages raise types of their own, with the system's words in them.
    words = (os.strerror(code) for code in DISK_ERRORS)
    if said := next((word for word in words if word in str(error)), None):
        return said
    # NumPy and Pillow keep the reason to themselves.
    return f"{error}; is the disk full?" if type(error) is OSError and error.errno is None else None


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
    path = _path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        ours = is_ours(path)
    except InputError:
        ours = False
    if not ours:
        raise InputError(f"{path}: exists and is not {what}; choose another output path, or remove it")


def _path(path: str | os.PathLike) -> Path:
    """A path with the methods of `Path`: one of epath's, on another machine, as it is (`remote.path`)."""
    return path if isinstance(path, PurePath) else Path(path)


def cache_folder(name: str) -> Path:
    """Where this machine keeps what can be made or fetched again: `llamo_jax/NAME` in XDG_CACHE_HOME, else in ~/.cache.
    Nothing is lost with it but time, and bundles that link to a file in it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamo_jax" / name


def write_json(path: str | os.PathLike, value: object) -> None:
    """Writes `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_text(path: str | os.PathLike, what: str = "text file") -> str:
    """Reads UTF-8, or UTF-16 that says so by its byte order mark, whatever the locale; the mark is not part of it.

    Raises:
      InputError: the file is missing or is neither.
    """
    try:
        data = _path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or "nothing is there"  # what epath says of other machines
        raise InputError(f"{path}: cannot be read ({reason}); expected a {what}") from error
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        found = f"byte 0x{data[error.start]:02x} in line {line}"
        raise InputError(f"{path}: not UTF-8 ({found}); expected a {what} in UTF-8") from error


def read_json(path: str | os.PathLike) -> object:
    """Reads a JSON file.

    Raises:
      InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(read_text(path, "JSON file"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error


def find_files(folder: str | os.PathLike, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with one of these suffixes (".bvh", in any case) at any depth, in order.

    Folders that are links are entered too, each folder once, and by its own path rather than by a link to it.

    Raises:
      InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error

    found, seen, waiting = [], set(), [str(folder)]
    while waiting:
        links = []
        for place, folders, names in (each for top in waiting for each in os.walk(top, onerror=refuse)):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            links += [link for name in folders if os.path.islink(link := os.path.join(place, name))]
            found += [Path(place, name) for name in names if name.lower().endswith(suffixes)]
        waiting = sorted(links)
    return sorted(found)


def _plain_arrays(archive: np.lib.npyio.NpzFile, without_objects: bool) -> Iterator[tuple[str, np.ndarray]]:
    if (size := sum(entry.file_size for entry in archive.zip.infolist())) > _LARGEST:
        raise InputError(f"holds {size / 1e9:.1f} GB when unpacked; expected at most {_LARGEST / 1e9:.0f} GB")
    for name in archive.files:
        try:
            yield name, archive[name]
        except ValueError as error:
            if not without_objects or "Object arrays" not in str(error):
                raise


def foreign_kind(start: bytes) -> str | None:
    """What a file is that came in place of another, by its first bytes: a Git LFS pointer or a web page; None for
    neither."""
    head = start[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (fetch it with `git lfs pull`)"
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "a web page, not the file itself (the download went wrong)"
    return None


_LARGEST = 8e9
"""Bytes of an archive's arrays: a small file can unpack to more than a machine has."""


def read_arrays(
    path: str | os.PathLike, *, mapped: bool = False, without_objects: bool = False
) -> dict[str, np.ndarray]:
    """Reads every array of an .npz file, or the one of an .npy file under the name "array". Never unpickles.

    Args:
      path: of the file.
      mapped: map an .npy file into memory: what is not used is not read.
      without_objects: leave out arrays of Python objects, which other programs write for text, instead of refusing.

    Raises:
      InputError: the file is missing, damaged, or holds pickled objects.
    """
    try:
        with open(path, "rb") as file:
            kind = foreign_kind(file.read(512))
        if kind:
            raise InputError(f"{path}: {kind}; expected a NumPy .npz or .npy file")
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if mapped else None)
        if isinstance(loaded, np.ndarray) != (Path(path).suffix.lower() == ".npy"):
            raise InputError(
                f"{path}: the suffix is not that of its contents; expected one array as .npy, several as .npz"
            )
        if isinstance(loaded, np.ndarray):
            return {"array": loaded}
        with loaded:
            return dict(_plain_arrays(loaded, without_objects))
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from None
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
        raise InputError(f"{path}: not a readable NumPy file ({error!s:.200})") from error
    except Exception as error:  # zipfile and zlib raise their own types for damaged archives
        raise InputError(f"{path}: damaged NumPy file ({error!s:.200})") from error
