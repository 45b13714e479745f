"""Motion files by the dozen: what a person names on the command line, file by file, and what became of each."""

import glob
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from llamo_jax.errors import InputError, MotionWarning
from llamo_jax.files import find_files
from llamo_jax.motion import MotionClip
from llamo_jax.motion.formats import READABLE
from llamo_jax.motion.read import ReadOptions, settle


class Source(NamedTuple):
    """A motion file, and where it lies under what was named."""

    path: Path
    relative: Path


def find_sources(named: Sequence[Path]) -> list[Source]:
    """All motion files that files, folders and patterns name, in order and each once.

    Raises:
      InputError: there is none under one of them.
    """
    found: dict[Path, Source] = {}
    for path in named:
        if path.is_dir():
            sources = [Source(file, file.relative_to(path)) for file in find_files(path, READABLE)]
        elif not path.exists() and glob.has_magic(str(path)):
            parts = list(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
            files = map(Path, sorted(glob.glob(str(path), recursive=True)))
            sources = [
                Source(file, file.relative_to(Path(*parts))) for file in files if file.suffix.lower() in READABLE
            ]
        else:
            sources = [Source(path, Path(path.name))]
        if not sources:
            raise InputError(f"{path}: no motion file in it; expected {' '.join(READABLE)}")
        for source in sources:
            found.setdefault(source.path, source)
    return list(found.values())


def is_several(named: Sequence[Path]) -> bool:
    """Whether more than one file may be meant."""
    return len(named) > 1 or named[0].is_dir() or (not named[0].exists() and glob.has_magic(str(named[0])))


def options_of(sources: Iterable[Source], options: ReadOptions) -> dict[Path, ReadOptions]:
    """Folder -> how to read its files: two takes of one folder never get two units."""
    folders: dict[Path, list[Path]] = {}
    for source in sources:
        folders.setdefault(source.path.parent, []).append(source.path)
    return {folder: settle(paths, options) if len(paths) > 1 else options for folder, paths in folders.items()}


def load_noted(path: Path, options: ReadOptions) -> tuple[MotionClip, list[str]]:
    """A clip, and what a person should know of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MotionWarning)
        clip = MotionClip.load(path, options)
    return clip, list(notes_of(caught))


def notes_of(caught: Iterable[warnings.WarningMessage]) -> Iterator[str]:
    """The texts of those that are of motions."""
    return (str(each.message) for each in caught if issubclass(each.category, MotionWarning))


def failure(path: Path, error: InputError) -> str:
    """What to tell of an error, with the file that it is of."""
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def told(failures: Sequence[str], done: int) -> None:
    """Lists what failed.

    Raises:
      InputError: something did.
    """
    if failures:
        for failure in failures:
            print(failure)
        raise InputError(f"{len(failures)} of {len(failures) + done} files failed")
