"""Data folders: records in TFDS ArrayRecord shards, read by random access. Needs no TensorFlow.

FOLDER/dataset.json                 the manifest: schema version, kind, data set, counts, hours, command
FOLDER/statistics.npz               mean and std over the train split
FOLDER/index/<split>/               what is asked of all records before any is read (`index.py`)
FOLDER/<kind>_records/1.0.0/        TFDS: dataset_info.json, features.json, *.array_record-*
"""

import contextlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic

import tensorflow_datasets as tfds

from data_pipelines.index import Index
from data_pipelines.records import SPLITS, LatentRecord, MotionRecord, Record
from llamo_jax import files
from llamo_jax.errors import InputError
from llamo_jax.files import read_json
from llamo_jax.motion.statistics import Statistics

SCHEMA_VERSION = 2
"""2: speeds and an index; the data set's settings in place of a sentence on its source."""


_OF_EVERY_KIND = ("name", "captions", "requests", "labels", "speed")


def require_replaceable(path: str | Path) -> None:
    """Only nothing, an empty folder or a data folder of ours is replaced; called before long work.

    Raises:
      InputError: something else is there.
    """

    def is_ours(path: Path) -> bool:
        # Other tools have files of that name too.
        manifest = read_json(path / "dataset.json")
        return isinstance(manifest, dict) and "schema_version" in manifest

    files.require_replaceable(path, is_ours, "a data folder")


class Split(Sequence[Record], Generic[Record]):
    """The records of one split, by number, and their index. What was read once is kept, up to `CACHE_BYTES`."""

    CACHE_BYTES: ClassVar[int] = 1 << 30

    def __init__(self, record_type: type[Record], source: Sequence[dict[str, Any]], folder: Path, index: Index):
        self._type, self._source, self._folder, self.index = record_type, source, folder, index
        self._kept: dict[int, Record] = {}
        self._room = self.CACHE_BYTES

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, number: int) -> Record:  # type: ignore[override]
        if not -len(self) <= number < len(self):
            raise IndexError(number)  # what ends iteration over a sequence
        number %= len(self)
        if number in self._kept:
            return self._kept[number]
        record = self._read(number)
        if self._room >= record.array.nbytes:
            self._room -= record.array.nbytes
            self._kept[number] = record
        return record

    def _read(self, number: int) -> Record:
        try:
            row = self._source[number]
            values = {name: value for name, value in row.items() if name not in _OF_EVERY_KIND}
            return self._type(
                name=row["name"].decode(),
                captions=tuple(caption.decode() for caption in row["captions"]),
                # Folders of before have none.
                requests=tuple(request.decode() for request in row.get("requests", ())),
                labels=json.loads(row["labels"]),
                speed=float(row["speed"]),
                **values,
            )
        except Exception as error:  # ArrayRecord, protobuf and decoders raise their own types for damaged files
            raise InputError(
                f"{self._folder}: record {number} cannot be read ({_first_line(error)}); build the data folder again"
            ) from error


class _Folder(Generic[Record]):
    record_type: type[Record]

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.manifest = _read_manifest(self.path, self.record_type.KIND)
        self.statistics = Statistics.load(self.path / "statistics.npz")
        self._builder = None

    def split(self, name: str) -> Split[Record]:
        """The records of "train", "validation" or "test".

        Raises:
          InputError: there is no such split, or its files are missing or damaged.
        """
        if name not in SPLITS:
            raise InputError(f'{self.path}: split "{name}" does not exist; expected one of {", ".join(SPLITS)}')
        expected = self.manifest["records"].get(name, 0)
        if expected == 0:
            return Split(self.record_type, [], self.path, Index.of([]))
        index = Index.load(self.path / "index" / name)
        folder = self.path / f"{self.record_type.KIND}_records" / "1.0.0"
        try:
            with quiet_tfds():
                self._builder = self._builder or tfds.builder_from_directory(str(folder))
                source = self._builder.as_data_source(name)
                found = len(source)
                source[0]  # a truncated file is found when it is first read, not when it is opened
        except Exception as error:  # TFDS, ArrayRecord and protobuf raise their own types
            raise InputError(
                f'{folder}: split "{name}" cannot be read ({_first_line(error)}); build the data folder again'
            ) from error
        if found != expected:
            raise InputError(
                f'{folder}: split "{name}" holds {found} records, the manifest says {expected}; build the data '
                f"folder again"
            )
        if len(index) != expected:
            found = f'the index of "{name}" has {len(index)} records'
            raise InputError(f"{self.path}: {found}, the manifest says {expected}; build the data folder again")
        return Split(self.record_type, source, self.path, index)


class MotionFolder(_Folder[MotionRecord]):
    """A folder of motion records, with its `manifest` and the `statistics` of its features.

    Raises:
      InputError: the folder is missing, is no data folder, holds another kind, or is of another schema version.
    """

    record_type = MotionRecord


class LatentFolder(_Folder[LatentRecord]):
    """A folder of latent records, with its `manifest` and the `statistics` of its latents.

    Raises:
      InputError: as `MotionFolder`.
    """

    record_type = LatentRecord


def _read_manifest(path: Path, kind: str) -> dict[str, Any]:
    if not path.is_dir():
        raise InputError(f"{path}: no such data folder; make one with `python -m data_pipelines.build`")
    manifest = read_json(path / "dataset.json")
    if not isinstance(manifest, dict) or "schema_version" not in manifest or "records" not in manifest:
        raise InputError(
            f"{path / 'dataset.json'}: not the manifest of a data folder; make one with `python -m "
            f"data_pipelines.build`"
        )
    if (version := manifest["schema_version"]) != SCHEMA_VERSION:
        raise InputError(
            f"{path}: has schema version {version}, expected {SCHEMA_VERSION}; build the data folder again"
        )
    if manifest.get("kind") != kind:
        raise InputError(f"{path}: holds {manifest.get('kind')} records; expected a folder of {kind} records")
    return manifest


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """TFDS without its banners and logs."""
    # TFDS prints banners on stdout and logs every step; progress is shown by whoever yields the records.
    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
