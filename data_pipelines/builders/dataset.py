"""A data set as one object: its own command, and all that the project knows of it."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from data_pipelines.builders.takes import Map, Take, convert, processes
from data_pipelines.filters import Filter, Noted, Rejected, Rejections
from data_pipelines.folder import MotionFolder, require_replaceable
from data_pipelines.records import SPLITS, MotionRecord, Wording
from data_pipelines.write import write_folder
from llamo_jax.config import Config

Converted = Iterator[MotionRecord | Rejected | Noted]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(Config):
    """Base of all data sets. The fields of each are the options of its command, and the manifest stores them.

    A subclass is a frozen dataclass with keyword-only fields. It sets `name` and `licence`, and of the other class
    variables what differs; its docstring is the help of its command. It implements `takes`, or, if it does not come as
    files that `MotionClip.load` reads, `records`. The folder that it reads is its option `source`.
    """

    name: ClassVar[str]
    """Of the command, of the corpus in recipes and reports, and in manifests."""
    licence: ClassVar[str]
    labels: ClassVar[tuple[str, ...]] = ()
    """What a recogniser is trained to tell apart."""
    caption_labels: ClassVar[tuple[str, ...]] = ()
    """What captions name, and `facts` reads off them."""
    filters: ClassVar[tuple[Filter, ...]] = ()
    """What records are rejected for, beside what `record_of` does."""
    recipe: ClassVar[str] = "recordings"
    """The recipe that fits it."""

    def takes(self, rejections: Rejections) -> list[Take]:
        """The recordings, in the order in which their records are written.

        Args:
          rejections: takes note of what is left out here.

        Raises:
          InputError: the source is not this data set, or no recording can be used.
        """
        raise NotImplementedError

    @staticmethod
    def facts(caption: str) -> Mapping[str, str | None]:
        """Labels that a caption names, where captions are made from templates."""
        del caption
        return {}

    @staticmethod
    def unseen() -> Sequence[Wording]:
        """Sentences whose words no caption of the training split has, with what they ask for: to evaluate on."""
        return ()

    def records(self, rejections: Rejections, parallel: Map, bar: tqdm) -> Mapping[str, Converted]:
        """Split -> its records and what is rejected, each read once and in the order of `SPLITS`.

        Args:
          rejections: takes note of what is left out before.
          parallel: a `map` over processes that keeps the order of its items.
          bar: shows how many recordings are done.
        """
        takes = self.takes(rejections)
        bar.reset(len(takes))
        make = functools.partial(convert, filters=self.filters)

        def of(split: str) -> Converted:
            for results in parallel(make, [take for take in takes if take.split == split]):
                bar.update()
                yield from results

        return {split: of(split) for split in SPLITS}

    def identity(self) -> dict[str, Any]:
        """What makes this the same data, as JSON: its name and options, with the whole path of its source."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        whole = {name: value.resolve() for name, value in values.items() if isinstance(value, Path)}
        return {"name": self.name} | dataclasses.replace(self, **whole).to_json()


def build(dataset: Dataset, out: str | Path, *, workers: int = 2) -> MotionFolder:
    """Writes the data folder of a data set, whole or not at all; the same whatever the number of workers.

    Raises:
      InputError: no recording can be used, or something is in the way of `out`.
    """
    require_replaceable(out)
    rejections = Rejections()

    def usable(results: Iterable[MotionRecord | Rejected | Noted]) -> Iterator[MotionRecord]:
        for result in results:
            if isinstance(result, Rejected):
                rejections.add(result)
            elif isinstance(result, Noted):
                rejections.note(result)
            else:
                yield result

    with processes(workers) as parallel, tqdm(desc=dataset.name, unit="recording", delay=1) as bar:
        splits = {split: usable(results) for split, results in dataset.records(rejections, parallel, bar).items()}
        write_folder(
            out,
            MotionRecord,
            splits,
            dataset=dataset.identity(),
            licence=dataset.licence,
            details=rejections.to_json,
        )
    return MotionFolder(out)
