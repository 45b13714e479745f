"""Latent shards: motion shards through the frozen VAE."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from data_pipelines.shards import (
    FRAMES_PER_LATENT,
    SPLITS,
    LatentRecord,
    LatentShards,
    MotionRecord,
    MotionShards,
    require_free,
    write_shards,
)
from data_pipelines.statistics import Statistics
from llamo_jax.errors import InputError
from llamo_jax.motion.representation import FEATURE_LIMIT, FEATURES, canonical_crop

Encode = Callable[[np.ndarray], np.ndarray]

MIN_FRAMES = 16
"""Shorter motions, and shorter ends of long ones, are left out."""

_BUCKET_FRAMES = 64  # lengths are padded to multiples of this, so that few shapes compile
_CHUNK = 512  # windows that are sorted by length together


class Segment(NamedTuple):
    """Frames start to stop of a take; `complete` where the take's end is inside."""

    start: int
    stop: int
    complete: bool


def segments(num_frames: int, max_frames: int, min_frames: int = MIN_FRAMES) -> list[Segment]:
    """Consecutive windows of at most `max_frames`; one that would be shorter than `min_frames` is left out."""
    cuts = [(start, min(start + max_frames, num_frames)) for start in range(0, num_frames, max_frames)]
    return [Segment(start, stop, stop == num_frames) for start, stop in cuts if stop - start >= min_frames]


def write_latents(
    motion_dir: str | Path,
    out_dir: str | Path,
    encode: Encode,
    *,
    max_tokens: int,
    statistics: Statistics | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> LatentShards:
    """Writes the latents of a folder of motions, whole or not at all.

    Takes of more than 4 * `max_tokens` frames become consecutive windows, each canonical from its own first frame and with the captions
    of the whole take. A motion of T frames
    has T // 4 latents. The statistics of the latents over the train split, per channel, are written with them.

    Args:
      motion_dir: folder of motion records.
      out_dir: folder to write.
      encode: normalised features float32 [batch_size, T, 272] -> posterior means [batch_size, T // 4, Z]. It must be causal: rows are
        padded on the right. T is a multiple of 64 (or 4 * max_tokens), so that few shapes compile.
      max_tokens: most latents of a record; 95 fill a row of 96 slots and are 12.7 s, longer than 99 % of the Bandai-Namco takes.
      statistics: of the features, as the VAE was trained with; None takes those of `motion_dir`.
      batch_size: rows of every call.
      progress: show a bar.

    Raises:
      InputError: `motion_dir` is no folder of motion records, or something is in the way of `out_dir`.
    """
    motions = MotionShards(motion_dir)
    require_free(out_dir)
    if max_tokens * FRAMES_PER_LATENT < MIN_FRAMES:
        raise InputError(f"max_tokens is {max_tokens}; expected at least {MIN_FRAMES // FRAMES_PER_LATENT}")
    splits = {name: motions.split(name) for name in SPLITS}
    writer = _Writer(encode, statistics or motions.statistics, max_tokens * FRAMES_PER_LATENT, batch_size)
    with tqdm(total=sum(map(len, splits.values())), desc="latents", unit="motion", disable=not progress) as bar:
        write_shards(
            out_dir,
            LatentRecord,
            {name: writer.records(_ticking(split, bar)) for name, split in splits.items() if len(split)},
            builder=str(motions.manifest["builder"]),
            source=str(motions.manifest["source"]),
            licence=str(motions.manifest.get("licence", "not recorded")),
            details=lambda: {"max_tokens": max_tokens, "motions": motions.manifest["records"], "windows_of_cut_takes": writer.cut},
        )
    return LatentShards(out_dir)


class _Writer:
    def __init__(self, encode: Encode, statistics: Statistics, max_frames: int, batch_size: int):
        self._encode, self._statistics, self._max_frames, self._rows = encode, statistics, max_frames, batch_size
        self.cut = 0

    def records(self, motions: Iterable[MotionRecord]) -> Iterator[LatentRecord]:
        windows = ((motion, segment) for motion in motions for segment in segments(len(motion.features), self._max_frames))
        while chunk := list(itertools.islice(windows, _CHUNK)):
            latents = self._latents([canonical_crop(motion.features, s.start, s.stop) for motion, s in chunk])
            for (motion, segment), mu in zip(chunk, latents, strict=True):
                whole = segment.start == 0 and segment.complete
                self.cut += not whole
                name = motion.name if whole else f"{motion.name}/{segment.start}-{segment.stop}"
                yield LatentRecord(name, mu, motion.captions, motion.labels, segment.complete)

    def _latents(self, windows: list[Float[np.ndarray, "T 272"]]) -> list[Float[np.ndarray, "n Z"]]:
        order = sorted(range(len(windows)), key=lambda index: self._padded(windows[index]))
        latents: list = [None] * len(windows)
        for _, bucket in itertools.groupby(order, key=lambda index: self._padded(windows[index])):
            indices = list(bucket)
            for first in range(0, len(indices), self._rows):
                rows = indices[first : first + self._rows]
                batch = np.zeros((self._rows, self._padded(windows[rows[0]]), FEATURES), np.float32)
                for row, index in zip(batch, rows, strict=False):
                    row[: len(windows[index])] = self._statistics.normalise(windows[index], FEATURE_LIMIT)
                means = np.asarray(self._encode(batch), np.float32)
                for mu, index in zip(means, rows, strict=False):
                    latents[index] = mu[: len(windows[index]) // FRAMES_PER_LATENT].copy()
        return latents

    def _padded(self, window: np.ndarray) -> int:
        return min(-(-len(window) // _BUCKET_FRAMES) * _BUCKET_FRAMES, self._max_frames)


def _ticking(records: Iterable[MotionRecord], bar: tqdm) -> Iterator[MotionRecord]:
    for record in records:
        yield record
        bar.update()
