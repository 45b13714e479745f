"""Writing data folders: TFDS ArrayRecord shards, whole or not at all. Needs no TensorFlow."""

import dataclasses
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.folder import SCHEMA_VERSION, quiet_tfds, require_replaceable
from data_pipelines.index import Index
from data_pipelines.records import LatentRecord, MotionRecord, Record
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, write_json
from llamo_jax.motion.statistics import Moments, Statistics


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
        return tfds.features.Tensor(
            shape=(None, self._channels), dtype=np.float32, encoding=tfds.features.Encoding.BYTES
        )

    def _columns(self) -> dict[str, Any]:
        text = tfds.features.Text
        texts = tfds.features.Sequence(text())
        return {"name": text(), "captions": texts, "requests": texts, "labels": text(), "speed": np.float32}

    def _info(self) -> tfds.core.DatasetInfo:
        # Records keep the order in which they come: builders visit their takes in a fixed order.
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self._columns()), disable_shuffling=True
        )

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


def write_folder(
    path: str | Path,
    record_type: type[Record],
    splits: Mapping[str, Iterable[Record]],
    *,
    dataset: Mapping[str, Any],
    licence: str = "not recorded",
    details: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Writes a data folder with its statistics, index and manifest, whole or not at all. One that is there is replaced.

    Args:
      path: the folder.
      record_type: MotionRecord or LatentRecord.
      splits: records of each split, read once, in order. A split without records is left out.
      dataset: what the records were made from, as JSON: "name" and the settings of `builders.dataset.Dataset`.
      licence: of the data, in words; the card of a model that is trained on it names it.
      details: called after the last record; more entries for the manifest (rejections, settings).

    Raises:
      InputError: there is no record for the train split, or something that is no data folder is in the way.
    """
    path = Path(path)
    require_replaceable(path)
    firsts = {name: _peek(records) for name, records in splits.items()}
    present = {name: records for name, (first, records) in firsts.items() if first is not None}
    if "train" not in present:
        why = _why(details())
        raise InputError(f"{dataset['name']}: no usable motion for the train split; {path} was not written{why}")
    channels = firsts["train"][0].array.shape[1]
    names: set[str] = set()
    tallies = {name: _Tally(channels, names) for name in present}
    with atomic_path(path, directory=True) as folder:
        rows = {name: tallies[name].count(records) for name, records in present.items()}
        with quiet_tfds():
            _BUILDERS[record_type.KIND](rows, channels, data_dir=str(folder)).download_and_prepare()
        of = Statistics.of_features if record_type is MotionRecord else Statistics.of_latents
        of(tallies["train"].moments).save(folder / "statistics.npz")
        for name, tally in tallies.items():
            tally.index().save(folder / "index" / name)
        hours = {name: tally.frames / record_type.RATE / 3600 for name, tally in tallies.items()}
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "kind": record_type.KIND,
            "dataset": dict(dataset),
            "licence": licence,
            "command": shlex.join(["python", *sys.argv]) if sys.argv and sys.argv[0] else "python",
            "records": {name: tally.records for name, tally in tallies.items()},
            "hours": {name: round(count, 4) for name, count in hours.items()},
            "lengths": {name: tally.quantiles() for name, tally in tallies.items()},
            "channels": channels,
            **details(),
        }
        write_json(folder / "dataset.json", manifest)


class _Tally:
    """Counts records as they pass, and gathers their statistics and their index."""

    def __init__(self, channels: int, names: set[str]):
        self.moments = Moments(channels)
        self._names = names  # of all splits
        self._lengths: list[int] = []
        self._speeds: list[float] = []
        self._labels: list[Mapping[str, str]] = []

    def count(self, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
        for record in records:
            if record.name in self._names:
                raise InputError(
                    f'two records are called "{record.name}"; expected names that are unique in a data set'
                )
            self._names.add(record.name)
            self._lengths.append(len(record.array))
            self._speeds.append(record.speed)
            self._labels.append(record.labels)
            self.moments.add(record.array)
            row = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
            yield row | {
                "captions": list(record.captions),
                "requests": list(record.requests),
                "labels": json.dumps(record.labels, ensure_ascii=False),
            }

    @property
    def records(self) -> int:
        return len(self._lengths)

    @property
    def frames(self) -> int:
        return sum(self._lengths)

    def quantiles(self) -> dict[str, int]:
        quantiles = np.percentile(self._lengths, [0, 5, 50, 95, 100]).round().astype(int).tolist()
        return dict(zip(("min", "p5", "median", "p95", "max"), quantiles, strict=True))

    def index(self) -> Index:
        return Index.of_columns(self._lengths, self._speeds, self._labels)


def _peek(records: Iterable[Record]) -> tuple[Record | None, Iterable[Record]]:
    iterator = iter(records)
    first = next(iterator, None)
    return first, itertools.chain([first], iterator)


def _why(details: dict[str, Any]) -> str:
    if rejected := details.get("rejected"):
        return f" (rejected: {', '.join(f'{count} {reason}' for reason, count in rejected.items())})"
    return " (nothing was rejected: no recording fell to that split)"
