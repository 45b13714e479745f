"""The procedural corpus."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

from tqdm import tqdm

from data_pipelines.builders.dataset import Converted, Dataset
from data_pipelines.builders.takes import CaptionedWindow, Map, record_of
from data_pipelines.filters import Rejected, Rejections
from data_pipelines.records import SPLITS, MotionRecord
from data_pipelines.synthetic import caption_facts, generate_corpus
from llamo_jax.config import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic(Dataset):
    """The procedural corpus: bodies that walk, run, jump, wave and more, with captions. Needs no data."""

    name: ClassVar[str] = "synthetic"
    licence: ClassVar[str] = "none: motion and captions are computed"
    labels: ClassVar[tuple[str, ...]] = ("action", "side", "speed", "count")
    # A pair of actions is too rare for a recogniser to learn it as a class of its own.
    caption_labels: ClassVar[tuple[str, ...]] = (*labels, "sequence", "sides")
    recipe: ClassVar[str] = "demo"

    num_clips: int = 2000
    """Clips to generate."""
    seed: int = 0
    """The same seed gives the same corpus."""

    def __post_init__(self) -> None:
        require(self.num_clips >= 1, f"num_clips is {self.num_clips}; expected at least 1")
        require(self.seed >= 0, f"seed is {self.seed}; expected 0 or more")

    @staticmethod
    def facts(caption: str) -> Mapping[str, str | None]:
        """Labels that a caption names."""
        return caption_facts(caption)

    def records(self, rejections: Rejections, parallel: Map, bar: tqdm) -> Mapping[str, Converted]:
        """Split -> its records, in one process: each clip takes milliseconds."""
        del rejections, parallel
        # Clips of all splits come mixed, and a folder is written one split after the other: the corpus is held in
        # memory, 0.1 MB a clip.
        records: dict[str, list[MotionRecord | Rejected]] = {split: [] for split in SPLITS}
        bar.reset(self.num_clips)
        for split, clip in generate_corpus(self.num_clips, self.seed):
            bar.update()
            records[split].append(record_of(clip, CaptionedWindow(clip.name, clip.captions, clip.labels)))
        return {split: _drained(records[split]) for split in SPLITS}


def _drained(records: list[MotionRecord | Rejected]) -> Iterator[MotionRecord | Rejected]:
    records.reverse()
    while records:
        yield records.pop()
