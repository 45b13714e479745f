"""Paths on other machines: gs://bucket/run, and the other schemes that epath knows (s3, az, hf).

What is read is copied once into a cache on this machine; what is written is made here and then copied there. A folder
appears whole or says of itself that it is not: object stores have no renaming of folders. Paths of this machine are
read and written as by `files`.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Annotated, Any, Self

import tyro

from llamo_jax.errors import InputError
from llamo_jax.files import DISK_ERRORS, atomic_path, cache_folder

UNFINISHED = "_unfinished"
"""Name of the file that a folder holds while it is written."""

_STREAMS = 8  # files that are copied at a time
_MIRROR_SECONDS = 60.0


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path, or what was typed for one, is on another machine."""
    return "://" in os.fspath(path)


def path(text: str | os.PathLike) -> Path:
    """A path of this machine as a `pathlib.Path`, another as an epath path, which has the same methods.

    Raises:
      InputError: nothing can read such addresses.
    """
    if isinstance(text, PurePath):
        return text
    if not is_remote(text):
        return Path(text)
    from etils import epath  # a tenth of a second, and few runs need it

    try:
        return epath.Path(os.fspath(text))
    except KeyError as error:
        scheme = os.fspath(text).partition("://")[0]
        raise InputError(f"{text}: {scheme}:// is not known; expected gs://, or a path of this machine") from error


AnyPath = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda arguments: path(arguments[0]),
        is_instance=lambda value: isinstance(value, PurePath),
        str_from_instance=lambda value: [os.fspath(value)],
    ),
]
"""The type of options that may be on another machine. (A plain `Path` makes gs:/bucket of gs://bucket.)"""


def require_reachable(*paths: str | os.PathLike) -> None:
    """Looks at each path that is on another machine; called before long work.

    Raises:
      InputError: a package is missing, or this machine may not.
    """
    for each in paths:
        if is_remote(each):
            with _told(each, "cannot be reached"):
                path(each).exists()


def local(where: str | os.PathLike) -> Path:
    """A path of this machine with the contents of `where`: itself, or a copy in the cache.

    A file or folder is copied once, and again when names, sizes or times there have changed. The copy is whole or not
    there, whatever stops it, and processes of one machine share it. It keeps the name. The cache (`llamo_jax/remote` in
    XDG_CACHE_HOME, else in ~/.cache) can be emptied whenever nothing runs.

    Raises:
      InputError: nothing is there, it cannot be read, it was not written to its end, or it changes meanwhile.
    """
    if not is_remote(where):
        return where if isinstance(where, Path) else Path(where)
    source = path(where)
    with _told(source, "cannot be read"):
        listing = _listing(source)
    if UNFINISHED in listing:
        raise InputError(f"{source}: was not written to its end; wait for who writes it, or write it again")
    key = hashlib.sha256(json.dumps([os.fspath(source), sorted(listing.items())]).encode()).hexdigest()[:24]
    cache = _cache()
    kept = cache / key / source.name
    if not kept.exists():
        from filelock import FileLock

        with _told(source, "cannot be read"):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{key}.lock"):
                if not kept.exists():
                    _fetch(source, listing, cache / f"{key}.part")
                    os.rename(cache / f"{key}.part", cache / key)
    return kept


def _fetch(source: Path, listing: dict[str, tuple[int, int]], part: Path) -> None:
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed

    def fetch(name: str) -> None:
        target = part / source.name / name if name else part / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source / name if name else source, target)
        if (found := target.stat().st_size) != listing[name][0]:
            raise InputError(f"{source}: {found} bytes of {listing[name][0]} came of {name or 'it'}; try again")

    try:
        _each(fetch, listing)
        if _listing(source) != listing:
            raise InputError(f"{source}: changed while it was copied; wait for who writes it")
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextlib.contextmanager
def published(where: str | os.PathLike, *, directory: bool = False) -> Iterator[Path]:
    """Gives a temporary path of this machine, and puts what was written there at `where` when the block succeeds.

    On this machine it is `files.atomic_path`. Elsewhere a file is replaced at once. A folder is copied file by file and
    holds `UNFINISHED` meanwhile, by which `local` refuses it; what an earlier one had more is removed.

    Raises:
      InputError: nothing can be written there.
    """
    if not is_remote(where):
        with atomic_path(where, directory=directory) as temporary:
            yield temporary
        return
    target = path(where)
    with _told(target, "cannot be written"):  # told before the work
        if not directory and target.is_dir():
            raise InputError(f"{target}: is a folder; expected the name of a file to write")
    with tempfile.TemporaryDirectory(prefix="llamo_jax-") as scratch:
        temporary = Path(scratch) / target.name
        if directory:
            temporary.mkdir()
        try:
            yield temporary
        except InputError as error:
            if str(temporary) not in str(error):
                raise
            raise InputError(str(error).replace(str(temporary), str(target))) from error
        with _told(target, "cannot be written"):
            (_put_folder if directory else _put)(temporary, target)


def _put_folder(source: Path, target: Path) -> None:
    mark = target / UNFINISHED
    target.mkdir(parents=True, exist_ok=True)
    mark.write_text("")
    names = sorted(file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file())
    stale = set(_listing(target)) - {*names, UNFINISHED}

    def put(name: str) -> None:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(source / name, target / name)

    _each(put, names)
    _each(lambda name: (target / name).unlink(), stale)
    mark.unlink()  # last


def _put(source: Path, target: Path) -> None:
    part = target.parent / f".{target.name}-{secrets.token_hex(6)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _copy(source, part)
        part.replace(target)
    finally:
        with contextlib.suppress(Exception):
            part.unlink(missing_ok=True)


class Mirror:
    """A folder of this machine for logs, which are copied to another one every minute and at the end.

    Files that grow are copied whole, since object stores append nothing. Where a copy fails the next one makes up for
    it; only the last must succeed. On this machine it is the folder itself.

    Args:
      where: the folder.
      earlier: names of files in it that go on; they are fetched first.
      seconds: between copies.

    Attributes:
      folder: to write into.

    Raises:
      InputError: `where` cannot be read; at the end, nothing can be written there.
    """

    def __init__(self, where: str | os.PathLike, *earlier: str, seconds: float = _MIRROR_SECONDS):
        self._remote = path(where) if is_remote(where) else None
        self._copied: dict[str, tuple[int, int]] = {}
        self._busy, self._ended, self._thread = threading.Lock(), threading.Event(), None
        if self._remote is None:
            self.folder = Path(where)
            return
        self.folder = Path(tempfile.mkdtemp(prefix="llamo_jax-"))
        with _told(self._remote, "cannot be read"):
            for name in earlier:
                if (self._remote / name).exists():
                    _copy(self._remote / name, self.folder / name)
        self._thread = threading.Thread(target=self._keep_up, args=(seconds,), daemon=True, name="mirror")
        self._thread.start()

    def flush(self) -> None:
        """Copies what has changed; called when a checkpoint is saved, which the logs must not fall behind.

        Raises:
          InputError: it cannot be written.
        """
        if self._remote is None:
            return
        with self._busy, _told(self._remote, "cannot be written"):
            for file in sorted(self.folder.rglob("*")):
                if not file.is_file():
                    continue
                name, status = file.relative_to(self.folder).as_posix(), file.stat()
                state = (status.st_size, status.st_mtime_ns)
                if self._copied.get(name) != state:
                    _put(file, self._remote / name)
                    self._copied[name] = state  # of before: what was written meanwhile is copied next time

    def try_to_flush(self) -> None:
        """Copies what has changed; where that fails, the next copy makes up for it."""
        try:
            self.flush()
        except InputError as error:
            warnings.warn(f"{error}; it is tried again", stacklevel=2)

    def close(self) -> None:
        """Copies the rest, and removes the folder of this machine.

        Raises:
          InputError: it cannot be written; it stays on this machine then.
        """
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        try:
            self.flush()
        except InputError as error:
            raise InputError(f"{error}; what is missing there is in {self.folder}") from error
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except InputError as error:
            if kind is None:
                raise
            warnings.warn(str(error), stacklevel=2)  # what stopped the run is told in its place

    def _keep_up(self, seconds: float) -> None:
        told = False
        while not self._ended.wait(seconds):
            try:
                self.flush()
                told = False
            except InputError as error:
                if not told:
                    warnings.warn(f"{error}; it is tried again", stacklevel=2)
                told = True


def _cache() -> Path:
    return cache_folder("remote")


def _listing(source: Path) -> dict[str, tuple[int, int]]:
    """Name -> (bytes, time of the last change) of the files in a folder at any depth; of a file, under the name ""."""
    found: dict[str, tuple[int, int]] = {}
    waiting = [("", source)]
    while waiting:
        # A folder of an object store may list itself.
        stats = _each(lambda entry: entry[1].stat(), waiting)
        folders = []
        for (name, place), status in zip(waiting, stats, strict=True):
            if status.is_directory:
                folders.append((name, place))
            else:
                found[name] = (int(status.length), int(status.mtime))
        waiting = [
            (f"{name}/{child.name}" if name else child.name, child)
            for name, place in folders
            for child in sorted(place.iterdir())
            if child.name and child != place
        ]
    if not found:
        raise FileNotFoundError(f"no file in {source}")
    return found


def _each(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(_STREAMS) as pool:
        running = [pool.submit(work, item) for item in items]
        try:
            return [each.result() for each in running]
        except BaseException:
            pool.shutdown(cancel_futures=True)  # one that fails, or Ctrl-C, ends the others
            raise


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 24)


@contextlib.contextmanager
def _told(where: str | os.PathLike, what: str) -> Iterator[None]:
    """One line for what fails: every backend has errors of its own."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{where}: {what} ({error}); install what it names (for gs:// pip install gcsfs)") from error
    except FileNotFoundError as error:
        raise InputError(f"{where}: {what} (nothing is there); expected a file or a folder") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            place = f"{error.filename or _cache()}: {error.strerror}"
            raise InputError(f"{where}: {what} ({place}); make room, or set XDG_CACHE_HOME") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{where}: {what} ({reason:.150}); check the address, and that this machine may use it"
        ) from error
