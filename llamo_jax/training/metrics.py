"""Figures of a run: to the terminal, to JSON lines, and to TensorBoard."""

import contextlib
import json
import time
from pathlib import Path
from typing import Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from llamo_jax.files import atomic_path, cannot_write

_FLUSH_SECONDS = 30  # of TensorBoard's file, which is synchronised with the disk then


class MetricsLog:
    """Writes one line of JSON a record ({"stage", "step", "time", figures}) and the same figures as TensorBoard
    scalars."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / "metrics.jsonl"
        try:
            (self.folder / "tensorboard").mkdir(parents=True, exist_ok=True)
            self._lines = self.path.open("a", encoding="utf-8")
            # Not its SummaryWriter, whose thread dies of a full disk, and whose queue then holds training up for ever.
            self._board = EventsWriter(str(self.folder / "tensorboard" / "events"))
            self._flushed = time.monotonic()
        except OSError as error:
            raise cannot_write(self.folder, error.strerror) from error

    def rewind(self, stage: str, step: int) -> None:
        """Drops the records of a stage beyond a step, from which it goes on: a run that was killed left them, and
        perhaps half a line. (TensorBoard has no way to forget them.)"""

        def stays(line: str) -> bool:
            try:
                record = json.loads(line)
            except ValueError:
                return False
            return record["stage"] != stage or record["step"] <= step

        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if stays(line)]
        if kept == lines:
            return
        self._lines.close()  # not every system replaces an open file
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
        self._lines = self.path.open("a", encoding="utf-8")

    def write(self, stage: str, step: int, figures: dict[str, float]) -> None:
        """One record; `time` is seconds since the epoch.

        Raises:
          InputError: the disk is full.
        """
        now = time.time()
        record = {"stage": stage, "step": step, "time": round(now, 3)} | {
            k: float(f"{v:.6g}") for k, v in figures.items()
        }
        values = [Summary.Value(tag=f"{stage}/{name}", simple_value=value) for name, value in figures.items()]
        try:
            self._lines.write(json.dumps(record) + "\n")
            self._lines.flush()
            self._board.write_event(Event(wall_time=now, step=step, summary=Summary(value=values)))
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._board.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            raise cannot_write(self.folder, error.strerror) from error

    def close(self) -> None:
        """Writes out what is buffered, as far as there is room."""
        for file in (self._lines, self._board):
            with contextlib.suppress(OSError):
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress_bar(stage: str, total: int, initial: int = 0) -> tqdm:
    """A bar with rate and remaining time that stays readable in a log file: at most one update a second."""
    return tqdm(
        total=total, initial=initial, desc=stage, unit="step", mininterval=1.0, dynamic_ncols=True, smoothing=0.1
    )
