"""Data folders: records in TFDS ArrayRecord shards, written whole or not at all, read by random access. Needs no TensorFlow.

    FOLDER/dataset.json                 the manifest: schema version, kind, builder, counts, hours, source, command
    FOLDER/statistics.npz               mean and std over the train split
    FOLDER/<kind>_records/1.0.0/        TFDS: dataset_info.json, features.json, *.array_record-*
"""

import contextlib
import dataclasses
import io
import itertools
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from data_pipelines.statistics import Moments, Statistics
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, read_json, write_json
from llamo_jax.motion.representation import FPS

SCHEMA_VERSION = 1
SPLITS = ("train", "validation", "test")
FRAMES_PER_LATENT = 4


@dataclasses.dataclass(frozen=True, eq=False)
class MotionRecord:
    """A captioned motion.

    Attributes:
      name: unique in its data set.
      features: [T, 272] float32, un-normalised, 30 frames/s, canonical.
      captions: sentences that describe it.
      labels: facts on it, as {"content": "walk"}.
    """

    KIND: ClassVar[str] = "motion"
    name: str
    features: Float[np.ndarray, "T 272"]
    captions: tuple[str, ...]
    labels: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def array(self) -> np.ndarray:
        """The features."""
        return self.features

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.features) / FPS


@dataclasses.dataclass(frozen=True, eq=False)
class LatentRecord:
    """A captioned motion, or a window of one, as latents of the VAE.

    Attributes:
      name: unique in its data set.
      latents: [n, Z] float32 posterior means, un-normalised, 7.5 a second.
      captions: sentences that describe the motion.
      labels: facts on it.
      complete: the motion's true end is inside.
    """

    KIND: ClassVar[str] = "latent"
    name: str
    latents: Float[np.ndarray, "n Z"]
    captions: tuple[str, ...]
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    complete: bool = True

    @property
    def array(self) -> np.ndarray:
        """The latents."""
        return self.latents

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.latents) * FRAMES_PER_LATENT / FPS


Record = TypeVar("Record", MotionRecord, LatentRecord)


class _Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the records that it is given; `tfds.builder_from_directory` reads them back."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. TFDS would look for checksums beside the code, which needs a package it does not install.
    url_infos: ClassVar[dict[str, Any]] = {}

    def __init__(self, splits: Mapping[str, Iterable[dict[str, Any]]], channels: int, **options: Any):
        self._splits = splits
        self._channels = channels
        super().__init__(file_format="array_record", **options)

    def _array(self) -> tfds.features.FeatureConnector:
        # Raw bytes: a list of floats in a tf.Example takes five times as long to write and read.
        return tfds.features.Tensor(shape=(None, self._channels), dtype=np.float32, encoding=tfds.features.Encoding.BYTES)

    def _columns(self) -> dict[str, Any]:
        text = tfds.features.Text
        return {"name": text(), "captions": tfds.features.Sequence(text()), "labels": text()}

    def _info(self) -> tfds.core.DatasetInfo:
        # Records keep the order in which they come: builders visit their takes in a fixed order.
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self._columns()), disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {name: self._generate_examples(records) for name, records in self._splits.items()}

    def _generate_examples(self, records: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(records)


class MotionRecords(_Records, skip_registration=True):
    """TFDS builder of motion records."""

    def _columns(self) -> dict[str, Any]:
        return super()._columns() | {"features": self._array()}


class LatentRecords(_Records, skip_registration=True):
    """TFDS builder of latent records."""

    def _columns(self) -> dict[str, Any]:
        return super()._columns() | {"latents": self._array(), "complete": np.bool_}


_BUILDERS = {MotionRecord.KIND: MotionRecords, LatentRecord.KIND: LatentRecords}


def write_shards(
    path: str | Path,
    record_type: type[Record],
    splits: Mapping[str, Iterable[Record]],
    *,
    builder: str,
    source: str,
    licence: str = "not recorded",
    details: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Writes a data folder with its statistics and manifest, whole or not at all. One that is already there is replaced.

    Args:
      path: the folder.
      record_type: MotionRecord or LatentRecord.
      splits: records of each split, read once, in order. A split without records is left out.
      builder: what made the records.
      source: where they come from, in words.
      licence: of the data, in words; the card of a model that is trained on it names it.
      details: called after the last record; more entries for the manifest (rejections, settings).

    Returns:
      The manifest.

    Raises:
      InputError: there is no record for the train split, or something that is no data folder is in the way.
    """
    path = Path(path)
    require_free(path)
    firsts = {name: _peek(records) for name, records in splits.items()}
    present = {name: records for name, (first, records) in firsts.items() if first is not None}
    if "train" not in present:
        raise InputError(f"{source}: no usable motion for the train split; {path} was not written{_why(details())}")
    channels = firsts["train"][0].array.shape[1]
    tallies = {name: _Tally(channels) for name in present}
    with atomic_path(path, directory=True) as folder:
        rows = {name: tallies[name].count(records) for name, records in present.items()}
        with _quiet_tfds():
            _BUILDERS[record_type.KIND](rows, channels, data_dir=str(folder)).download_and_prepare()
        of = Statistics.of_features if record_type is MotionRecord else Statistics.of_latents
        of(tallies["train"].moments).save(folder / "statistics.npz")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "kind": record_type.KIND,
            "builder": builder,
            "source": source,
            "licence": licence,
            "command": shlex.join(["python", *sys.argv]) if sys.argv and sys.argv[0] else "python",
            "records": {name: tally.records for name, tally in tallies.items()},
            "hours": {name: round(tally.seconds / 3600, 4) for name, tally in tallies.items()},
            "lengths": {name: tally.lengths() for name, tally in tallies.items()},
            "channels": channels,
            **details(),
        }
        write_json(folder / "dataset.json", manifest)
    return manifest


def require_free(path: str | Path) -> None:
    """Raises InputError where something that is not a data folder is in the way of one; called before long work."""
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    # Other tools have files of that name too.
    manifest = read_json(path / "dataset.json") if (path / "dataset.json").is_file() else None
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        raise InputError(f"{path}: exists and is not a data folder (no dataset.json of ours); choose another output folder, or remove it")


class Split(Sequence[Record], Generic[Record]):
    """The records of one split, by number. Each access reads from the disk; `cached` keeps small sets in memory."""

    def __init__(self, record_type: type[Record], source: Sequence[dict[str, Any]], folder: Path):
        self._type, self._source, self._folder = record_type, source, folder

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # what ends iteration over a sequence
        try:
            row = self._source[index % len(self)]
        except Exception as error:  # ArrayRecord and protobuf raise their own types for damaged files
            raise InputError(f"{self._folder}: record {index} cannot be read ({error}); build the data folder again") from error
        values = {name: row[name] for name in row if name not in ("name", "captions", "labels")}
        return self._type(
            name=row["name"].decode(),
            captions=tuple(caption.decode() for caption in row["captions"]),
            labels=json.loads(row["labels"]),
            **values,
        )

    def cached(self, max_bytes: int = 1 << 30) -> Sequence[Record]:
        """The same records in memory, if their arrays take at most `max_bytes`; else this sequence itself."""
        records, total = [], 0
        for record in self:
            total += record.array.nbytes
            if total > max_bytes:
                return self
            records.append(record)
        return records


class _Shards(Generic[Record]):
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
            return Split(self.record_type, [], self.path)
        folder = self.path / f"{self.record_type.KIND}_records" / "1.0.0"
        try:
            with _quiet_tfds():
                self._builder = self._builder or tfds.builder_from_directory(str(folder))
                source = self._builder.as_data_source(name)
                found = len(source)
                source[0]  # a truncated file is found when it is first read, not when it is opened
        except Exception as error:  # TFDS, ArrayRecord and protobuf raise their own types
            raise InputError(f'{folder}: split "{name}" cannot be read ({_first_line(error)}); build the data folder again') from error
        if found != expected:
            raise InputError(f'{folder}: split "{name}" holds {found} records, the manifest says {expected}; build the data folder again')
        return Split(self.record_type, source, self.path)


class MotionShards(_Shards[MotionRecord]):
    """A folder of motion records, with its `manifest` and the `statistics` of its features.

    Raises:
      InputError: the folder is missing, is no data folder, holds another kind, or is of another schema version.
    """

    record_type = MotionRecord


class LatentShards(_Shards[LatentRecord]):
    """A folder of latent records, with its `manifest` and the `statistics` of its latents.

    Raises:
      InputError: as `MotionShards`.
    """

    record_type = LatentRecord


class _Tally:
    """Counts records as they pass, and gathers their statistics."""

    def __init__(self, channels: int):
        self.records, self.seconds, self.moments = 0, 0.0, Moments(channels)
        self._lengths: list[int] = []

    def count(self, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
        for record in records:
            self.records += 1
            self.seconds += record.seconds
            self._lengths.append(len(record.array))
            self.moments.add(record.array)
            row = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
            yield row | {"captions": list(record.captions), "labels": json.dumps(record.labels, ensure_ascii=False)}

    def lengths(self) -> dict[str, int]:
        quantiles = np.percentile(self._lengths, [0, 5, 50, 95, 100]).round().astype(int).tolist()
        return dict(zip(("min", "p5", "median", "p95", "max"), quantiles, strict=True))


def _peek(records: Iterable[Record]) -> tuple[Record | None, Iterable[Record]]:
    iterator = iter(records)
    first = next(iterator, None)
    return first, itertools.chain([first], iterator)


def _why(details: dict[str, Any]) -> str:
    rejected = details.get("rejected", {})
    return f" (rejected: {', '.join(f'{count} {reason}' for reason, count in rejected.items())})" if rejected else ""


def _read_manifest(path: Path, kind: str) -> dict[str, Any]:
    if not path.is_dir():
        raise InputError(f"{path}: no such data folder; make one with `python -m data_pipelines.build`")
    manifest = read_json(path / "dataset.json")
    if not isinstance(manifest, dict) or "schema_version" not in manifest or "records" not in manifest:
        raise InputError(f"{path / 'dataset.json'}: not the manifest of a data folder; make one with `python -m data_pipelines.build`")
    if (version := manifest["schema_version"]) != SCHEMA_VERSION:
        raise InputError(f"{path}: has schema version {version}, expected {SCHEMA_VERSION}; build the data folder again")
    if manifest.get("kind") != kind:
        raise InputError(f"{path}: holds {manifest.get('kind')} records; expected a folder of {kind} records")
    return manifest


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
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


