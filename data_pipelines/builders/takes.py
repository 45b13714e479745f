"""What builders share: recordings to read, in parallel, and what of them cannot be used."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipelines.latents import MIN_FRAMES
from data_pipelines.sampling import stable_hash
from data_pipelines.shards import SPLITS, MotionRecord, MotionShards, require_free, write_shards
from llamo_jax.errors import InputError
from llamo_jax.motion import MotionClip

_AHEAD = 16  # takes in work or waiting for each worker
_LISTED = 50  # rejected names that the manifest lists for each reason


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of a recording that has captions of its own.

    Attributes:
      name: of the record.
      captions: sentences.
      labels: facts on it.
      start, stop: seconds from the start of the file; None is its end.
    """

    name: str
    captions: tuple[str, ...]
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    start: float = 0.0
    stop: float | None = None


@dataclasses.dataclass(frozen=True)
class Take:
    """A recording and what is known of it.

    Attributes:
      path: a file that MotionClip reads.
      split: "train", "validation" or "test", for all of its spans.
      spans: the records to make of it.
    """

    path: Path
    split: str
    spans: tuple[Span, ...]


@dataclasses.dataclass(frozen=True)
class Rejected:
    """Something that cannot be used, why, and the whole story."""

    name: str
    reason: str
    detail: str = ""


class Rejections:
    """Counts and lists what was left out of a data set."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, rejected: Rejected) -> None:
        """Takes note of one."""
        entry = f"{rejected.name}: {rejected.detail}" if rejected.detail else rejected.name
        self._names.setdefault(rejected.reason, []).append(entry)

    @property
    def counts(self) -> dict[str, int]:
        """How many for each reason, most first."""
        return dict(Counter({reason: len(names) for reason, names in self._names.items()}).most_common())

    def to_json(self) -> dict[str, Any]:
        """Manifest entries: the counts, and the first names of each reason."""
        return {"rejected": self.counts, "rejected_names": {reason: names[:_LISTED] for reason, names in self._names.items()}}


def split_by_hash(names: Iterable[str], validation: float = 0.1, test: float = 0.1) -> dict[str, str]:
    """Splits of recordings: by each one's name alone, so that a data set may grow without moving any.

    Only where none would be for testing, as may be with few, the first in the order of the hashes is; and likewise for training.
    """
    places = {name: stable_hash(name) / 2**64 for name in names}
    splits = {name: "test" if p < test else "validation" if p < test + validation else "train" for name, p in places.items()}
    if len(places) > 1 and "test" not in splits.values():
        splits[min(places, key=places.__getitem__)] = "test"
    if places and "train" not in splits.values():
        splits[max(places, key=places.__getitem__)] = "train"
    return splits


def split_stratified(names: Iterable[str], validation: float = 0.05, test: float = 0.1) -> dict[str, str]:
    """Splits of recordings of one kind, in the order of their hashes. Of two or more, at least one is for testing, and one for training."""
    order = sorted(names, key=stable_hash)
    tests = min(max(round(len(order) * test), 1), len(order) - 1)
    validations = min(round(len(order) * validation), len(order) - 1 - tests)
    return {name: "test" if i < tests else "validation" if i < tests + validations else "train" for i, name in enumerate(order)}


def record_of(clip: MotionClip, span: Span) -> MotionRecord | Rejected:
    """The record of a span of a clip, or why there is none."""
    if not span.captions:
        return Rejected(span.name, "no caption")
    start = round(span.start * clip.fps)
    stop = len(clip) if span.stop is None else min(round(span.stop * clip.fps), len(clip))
    if stop <= start:
        return Rejected(span.name, "outside of the recording", f"{span.start} to {span.stop} s of {clip.seconds:.1f} s")
    features = clip[start:stop].features()
    if len(features) < MIN_FRAMES:
        return Rejected(span.name, f"shorter than {MIN_FRAMES} frames", f"{len(features)} frames")
    if not np.isfinite(features).all():
        return Rejected(span.name, "not finite")
    return MotionRecord(span.name, features, span.captions, span.labels)


Check = Callable[[MotionRecord], Rejected | None]


def convert(take: Take, check: Check | None = None) -> list[MotionRecord | Rejected]:
    """Reads a recording and makes its records; those that `check` finds fault with are rejected. Runs in worker processes."""
    try:
        clip = MotionClip.load(take.path)
    except InputError as error:
        reason = "NaN or infinity" if "NaN or infinity" in str(error) else "unreadable"
        return [Rejected(span.name, reason, str(error)) for span in take.spans]
    results = [record_of(clip, span) for span in take.spans]
    if check is None:
        return results
    return [(isinstance(result, MotionRecord) and check(result)) or result for result in results]


def build(
    out: str | Path,
    takes: list[Take],
    rejections: Rejections,
    *,
    builder: str,
    source: str,
    licence: str = "not recorded",
    workers: int = 2,
    check: Check | None = None,
) -> MotionShards:
    """Writes the motion shards of takes, whole or not at all; the same records whatever the number of workers.

    Args:
      out: data folder to write.
      takes: in the order in which their records are written.
      rejections: what was left out before, and takes note of what is left out here.
      builder: name of the builder, for the manifest.
      source: where the takes come from, in words.
      licence: of the takes, in words.
      workers: processes.
      check: a function of a module (it goes to other processes) that finds fault with a record, or None.

    Raises:
      InputError: no take can be used, or something is in the way of `out`.
    """
    require_free(out)
    with _pool(workers) as imap, tqdm(total=len(takes), desc=builder, unit="take") as bar:

        def records(split: str) -> Iterator[MotionRecord]:
            for results in imap(functools.partial(convert, check=check), [take for take in takes if take.split == split]):
                for result in results:
                    if isinstance(result, Rejected):
                        rejections.add(result)
                    else:
                        yield result
                bar.update()

        write_shards(
            out,
            MotionRecord,
            {split: records(split) for split in SPLITS},
            builder=builder,
            source=source,
            licence=licence,
            details=lambda: {"takes": len(takes), **rejections.to_json()},
        )
    return MotionShards(out)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Callable]:
    if workers <= 1:
        yield map
        return
    # Spawned, not forked: the parent may have started threads (JAX, Grain). Not multiprocessing.Pool, which waits for ever for the
    # result of a process that was killed.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:

        def imap(function: Callable, items: Iterable) -> Iterator:
            # In order, as Executor.map, which however would hold all results that are not asked for yet.
            pending: deque = deque()
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > _AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

        try:
            yield imap
        except concurrent.futures.process.BrokenProcessPool as error:
            raise InputError(
                "a worker process died: it ran out of memory, was killed, or the calling script starts work at import "
                '(put it under `if __name__ == "__main__":`); or use one worker'
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
