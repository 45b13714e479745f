"""What builders share: recordings to read, in parallel, and the records that are made of them."""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from data_pipelines.filters import Filter, Noted, Rejected
from data_pipelines.latents import MIN_FRAMES
from data_pipelines.order import stable_hash
from data_pipelines.records import MotionRecord
from llamo_jax.errors import InputError, MotionWarning
from llamo_jax.motion import FPS, MotionClip
from llamo_jax.motion.physics import mean_speed
from llamo_jax.motion.read import ReadOptions

Map = Callable[[Callable, Iterable], Iterable]

_AHEAD = 16  # takes in work or waiting for each worker


@dataclasses.dataclass(frozen=True)
class CaptionedWindow:
    """A recording, or a window of it, that has captions of its own.

    Attributes:
      name: of the record.
      captions: sentences.
      labels: facts on it.
      start, stop: seconds from the start of the file; None is its end.
      requests: sentences that ask for it.
    """

    name: str
    captions: tuple[str, ...]
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    start: float = 0.0
    stop: float | None = None
    requests: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Take:
    """A recording and what is known of it.

    Attributes:
      path: a file that MotionClip reads.
      split: "train", "validation" or "test", for all of its windows.
      windows: the records to make of it.
      reading: how to read it.
    """

    path: Path
    split: str
    windows: tuple[CaptionedWindow, ...]
    reading: ReadOptions = ReadOptions()


def split_by_hash(names: Iterable[str]) -> dict[str, str]:
    """80 / 10 / 10 % of recordings: by each one's name alone, so that a data set may grow without moving any.

    Only where none would be for testing, as may be with few, the first in the order of the hashes is; and likewise for
    training.
    """
    places = {name: stable_hash(name) / 2**64 for name in names}
    splits = {name: "test" if p < 0.1 else "validation" if p < 0.2 else "train" for name, p in places.items()}
    if len(places) > 1 and "test" not in splits.values():
        splits[min(places, key=places.__getitem__)] = "test"
    if places and "train" not in splits.values():
        splits[max(places, key=places.__getitem__)] = "train"
    return splits


def split_stratified(names: Iterable[str]) -> dict[str, str]:
    """85 / 5 / 10 % of recordings of one kind, in the order of their hashes. Of two or more, at least one is for
    testing, and one for training."""
    order = sorted(names, key=stable_hash)
    tests = min(max(round(len(order) * 0.1), 1), len(order) - 1)
    validations = min(round(len(order) * 0.05), len(order) - 1 - tests)
    return {
        name: "test" if i < tests else "validation" if i < tests + validations else "train"
        for i, name in enumerate(order)
    }


def record_of(clip: MotionClip, window: CaptionedWindow, filters: Iterable[Filter] = ()) -> MotionRecord | Rejected:
    """The record of a window of a clip, or why there is none."""
    if not window.captions:
        return Rejected(window.name, "no caption")
    start = round(window.start * clip.fps)
    stop = len(clip) if window.stop is None else min(round(window.stop * clip.fps), len(clip))
    if stop <= start:
        found = f"{window.start} to {window.stop} s of {clip.seconds:.1f} s"
        return Rejected(window.name, "outside of the recording", found)
    # At the rate of the features, at which speeds are measured too.
    clip = clip[start:stop].resampled(FPS)
    features = clip.features()
    if len(features) < MIN_FRAMES:
        return Rejected(window.name, f"shorter than {MIN_FRAMES} frames", f"{len(features)} frames")
    if not np.isfinite(features).all():
        return Rejected(window.name, "not finite")
    if wrong := clip.faults():
        return Rejected(window.name, f"no person's motion: {wrong[0].kind}", wrong[0].what)
    speed = mean_speed(clip.joints)
    record = MotionRecord(window.name, features, window.captions, window.labels, speed, window.requests)
    return next((fault for finds_fault in filters if (fault := finds_fault(record))), record)


def convert(take: Take, filters: Iterable[Filter] = ()) -> list[MotionRecord | Rejected | Noted]:
    """Reads a recording and makes its records; those that a filter finds fault with are rejected.

    Runs in worker processes.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MotionWarning)
        try:
            clip = MotionClip.load(take.path, take.reading)
        except InputError as error:
            reason = "NaN or infinity" if "NaN or infinity" in str(error) else "unreadable"
            return [Rejected(window.name, reason, str(error)) for window in take.windows]
    notes = [Noted(str(each.message)) for each in caught if issubclass(each.category, MotionWarning)]
    return [*notes, *(record_of(clip, window, filters) for window in take.windows)]


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started here never see Ctrl-C: the one that started them ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Map]:
    """A `map` over so many processes that keeps the order of its items.

    Raises:
      InputError: a process died.
    """
    if workers <= 1:
        yield map
        return
    # Spawned, not forked: the parent may have started threads (JAX, Grain). Not multiprocessing.Pool, which waits for
    # ever for the result of a process that was killed.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:

        def imap(function: Callable, items: Iterable) -> Iterator:
            # In order, as Executor.map, which however would hold all results that are not asked for yet.
            pending: deque = deque()
            for item in items:
                with _without_interrupts():
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
