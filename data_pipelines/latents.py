"""The latents of a data folder, by the frozen VAE."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from data_pipelines.folder import LatentFolder, MotionFolder, require_replaceable
from data_pipelines.records import SPLITS, LatentRecord, MotionRecord
from data_pipelines.write import write_folder
from llamo_jax.errors import InputError
from llamo_jax.motion.physics import mean_speed
from llamo_jax.motion.representation import (
    FEATURE_LIMIT,
    FEATURES,
    FPS,
    FRAMES_PER_LATENT,
    canonical_window,
    decode_positions,
)
from llamo_jax.motion.statistics import Statistics

Encode = Callable[[np.ndarray], np.ndarray]

MIN_FRAMES = 16
"""Shorter motions, and shorter ends of long ones, are left out."""

_BUCKET_FRAMES = 64  # lengths are padded to multiples of this, so that few shapes compile
_CHUNK = 512  # windows that are sorted by length together


class Window(NamedTuple):
    """Frames start to stop of a take; `complete` where the take's end is inside."""

    start: int
    stop: int
    complete: bool


def windows(num_frames: int, max_frames: int) -> list[Window]:
    """Consecutive windows of at most `max_frames`; one that would be shorter than `MIN_FRAMES` is left out."""
    spans = [(start, min(start + max_frames, num_frames)) for start in range(0, num_frames, max_frames)]
    return [Window(start, stop, stop == num_frames) for start, stop in spans if stop - start >= MIN_FRAMES]


def write_latents(
    motion_dir: str | Path,
    out_dir: str | Path,
    encode: Encode,
    *,
    max_latents: int,
    statistics: Statistics | None = None,
    batch_size: int = 32,
) -> LatentFolder:
    """Writes the latents of a folder of motions, whole or not at all.

    Takes of more than 4 * `max_latents` frames become consecutive windows, each canonical from its own first frame and
    with the captions of the whole take. A motion of T frames has T // 4 latents. The statistics of the latents over the
    train split, per channel, are written with them.

    Args:
      motion_dir: folder of motion records.
      out_dir: folder to write.
      encode: normalised features float32 [batch_size, T, 272] -> posterior means [batch_size, T // 4, Z]. It must be
        causal: rows are padded on the right. T is a multiple of 64 (or 4 * max_latents), so that few shapes compile.
      max_latents: most latents of a record; 95 fill a row of 96 slots and are 12.7 s, longer than 99 % of the
        Bandai-Namco takes.
      statistics: of the features, as the VAE was trained with; None takes those of `motion_dir`.
      batch_size: rows of every call.

    Raises:
      InputError: `motion_dir` is no folder of motion records, or something is in the way of `out_dir`.
    """
    motions = MotionFolder(motion_dir)
    require_replaceable(out_dir)
    if max_latents * FRAMES_PER_LATENT < MIN_FRAMES:
        raise InputError(f"max_latents is {max_latents}; expected at least {MIN_FRAMES // FRAMES_PER_LATENT}")
    splits = {name: motions.split(name) for name in SPLITS}
    encoder = _Encoder(encode, statistics or motions.statistics, max_latents * FRAMES_PER_LATENT, batch_size)
    with tqdm(total=sum(map(len, splits.values())), desc="latents", unit="motion") as bar:
        write_folder(
            out_dir,
            LatentRecord,
            {name: encoder.records(_ticking(split, bar)) for name, split in splits.items() if len(split)},
            dataset=motions.manifest["dataset"],
            licence=str(motions.manifest.get("licence", "not recorded")),
            details=lambda: {
                "max_latents": max_latents,
                "motions": motions.manifest["records"],
                "windows_of_cut_takes": encoder.cut,
            },
        )
    return LatentFolder(out_dir)


class _Encoder:
    def __init__(self, encode: Encode, statistics: Statistics, max_frames: int, batch_size: int):
        self._encode, self._statistics, self._max_frames, self._rows = encode, statistics, max_frames, batch_size
        self.cut = 0

    def records(self, motions: Iterable[MotionRecord]) -> Iterator[LatentRecord]:
        pairs = ((motion, window) for motion in motions for window in windows(len(motion.features), self._max_frames))
        while chunk := list(itertools.islice(pairs, _CHUNK)):
            features = [canonical_window(motion.features, window.start, window.stop) for motion, window in chunk]
            latents = self._latents(features)
            for (motion, window), frames, mu in zip(chunk, features, latents, strict=True):
                whole = window.start == 0 and window.complete
                self.cut += not whole
                yield LatentRecord(
                    name=motion.name if whole else f"{motion.name}/{window.start}-{window.stop}",
                    latents=mu,
                    captions=motion.captions,
                    requests=motion.requests,
                    labels=motion.labels,
                    complete=window.complete,
                    speed=motion.speed if whole else mean_speed(decode_positions(frames), FPS),
                )

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
