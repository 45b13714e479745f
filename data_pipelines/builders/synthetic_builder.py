"""The procedural corpus as motion shards."""

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from data_pipelines.builders.takes import Rejected, Rejections, Span, record_of
from data_pipelines.shards import SPLITS, MotionRecord, MotionShards, require_free, write_shards
from data_pipelines.synthetic import generate_corpus
from llamo_jax.errors import InputError


def build_synthetic(out: str | Path, *, num_clips: int = 2000, seed: int = 0) -> MotionShards:
    """Builds the motion shards of `num_clips` generated clips.

    Raises:
      InputError: `num_clips` is less than 1, `seed` less than 0, or something is in the way of `out`.
    """
    if num_clips < 1:
        raise InputError(f"num_clips is {num_clips}; expected at least 1")
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    require_free(out)
    rejections = Rejections()
    # Splits come mixed and shards are written one split after the other: the corpus is held in memory, 0.1 MB a clip.
    records: dict[str, list[MotionRecord]] = {split: [] for split in SPLITS}
    for split, clip in tqdm(generate_corpus(num_clips, seed), total=num_clips, desc="synthetic", unit="clip"):
        result = record_of(clip, Span(clip.name, clip.captions, clip.labels))
        if isinstance(result, Rejected):
            rejections.add(result)
        else:
            records[split].append(result)
    write_shards(
        out,
        MotionRecord,
        {split: _drained(records[split]) for split in SPLITS},
        builder="synthetic",
        source=f"procedural corpus, {num_clips} clips, seed {seed}",
        licence="none: motion and captions are computed",
        details=rejections.to_json,
    )
    return MotionShards(out)


def _drained(records: list[MotionRecord]) -> Iterator[MotionRecord]:
    records.reverse()
    while records:
        yield records.pop()
