"""Figures of a run: to the terminal, to JSON lines, and to TensorBoard."""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, cannot_write

_FLUSH_SECONDS = 30  # of TensorBoard's file, which is synchronised with the disk then


class MetricsLog:
    """Writes one line of JSON a record ({"stage", "step", "time", figures}) and the same figures as TensorBoard
    scalars.

    Args:
      folder: of the run.
      name: of the run, where it is not that of the folder.
      wandb: project of Weights & Biases that gets them too; None for none.
      settings: of the run, which are shown there.

    Raises:
      InputError: nothing can be written there, or wandb is asked for and not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        wandb: str | None = None,
        settings: dict[str, Any] | None = None,
    ):
        self.folder = Path(folder)
        self.path = self.folder / "metrics.jsonl"
        self._wandb = _wandb_run(wandb, name or str(folder), self.folder, settings) if wandb else None
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
            # JSON has no other numbers: what is not finite is null.
            k: float(f"{v:.6g}") if math.isfinite(v) else None
            for k, v in figures.items()
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
        if self._wandb is not None:
            self._wandb.log({f"{stage}/{name}": value for name, value in figures.items()} | {f"{stage}/step": step})

    def close(self) -> None:
        """Writes out what is buffered, as far as there is room."""
        for file in (self._lines, self._board):
            with contextlib.suppress(OSError):
                file.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _wandb_run(project: str, name: str, folder: Path, settings: dict[str, Any] | None) -> Any:
    """A run of Weights & Biases; the stages of one name are one run."""
    try:
        import wandb
    except ImportError as error:
        raise InputError(f'--wandb {project}: the package is not installed; run "pip install wandb"') from error
    folder.mkdir(parents=True, exist_ok=True)
    number = hashlib.sha256(name.encode()).hexdigest()[:12]
    return wandb.init(project=project, id=number, name=name, dir=str(folder), config=settings, resume="allow")


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step does, for rates.

    Attributes:
      flops: operations of the model in a step, on all devices (`flops.step_flops`); 0 where nobody counted.
      peak: operations a second of one device; None where it is not known.
      devices: that share the work.
    """

    flops: float = 0.0
    peak: float | None = None
    devices: int = 1


class Meter:
    """How long steps take since it was started again, and what they wait for."""

    def __init__(self, work: Work, count: int):
        self._work = work
        self.restart(count)

    def restart(self, count: int) -> None:
        """Forgets all; `count` steps are done."""
        self._count, self._since = count, time.monotonic()
        self._waited: dict[str, float] = {"data": 0.0, "checkpoint": 0.0}

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Time in the block is waiting for `what`; what is compiled is no part of a step at all."""
        started = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - started
            if what == "compile":
                self._since += took
            else:
                self._waited[what] += took

    def rates(self, count: int, figures: dict[str, float]) -> dict[str, float]:
        """Figures of the steps since the start: seconds and waiting of one, and what is done in a second.

        Args:
          count: steps that are done.
          figures: of the last; what is called *_tokens there gets a rate.
        """
        tokens = {name: value for name, value in figures.items() if name.endswith("_tokens")}
        steps, seconds = count - self._count, max(time.monotonic() - self._since, 1e-9)
        figures = {"steps_per_second": steps / seconds, "step_seconds": seconds / steps}
        figures |= {f"{name}_per_second": value * steps / seconds for name, value in tokens.items()}
        figures |= {f"{what}_seconds": waited / steps for what, waited in self._waited.items()}
        if self._work.flops:
            each = self._work.flops * steps / seconds / self._work.devices
            figures["model_tflops_per_second"] = each / 1e12
            if self._work.peak:
                figures["mfu"] = each / self._work.peak
        return figures


LOG_SECONDS = 60.0
"""Between two lines of progress where nobody watches."""


class _Progress(Protocol):
    def update(self, count: int, figures: dict[str, float]) -> None:
        """Shows that so many steps are done, with their loss."""


@contextlib.contextmanager
def progress_line(stage: str, total: int, initial: int = 0, *, shown: bool = True) -> Iterator[_Progress]:
    """Progress on standard error: one line that fits a terminal, or one line a minute where it goes into a file."""
    if not shown:
        yield _Silent()
        return
    if not sys.stderr.isatty():
        lines = _Lines(stage, total, initial)
        yield lines
        lines.end()
        return
    with tqdm(total=total, initial=initial, desc=stage, unit="step", dynamic_ncols=True, smoothing=0.1) as bar:
        yield _Bar(bar)


class _Silent:
    def update(self, count: int, figures: dict[str, float]) -> None:
        pass


class _Bar:
    def __init__(self, bar: tqdm):
        self._bar = bar

    def update(self, count: int, figures: dict[str, float]) -> None:
        self._bar.set_postfix_str(f"loss {figures['loss']:.3g}", refresh=False)
        self._bar.update(count - self._bar.n)


class _Lines:
    def __init__(self, stage: str, total: int, initial: int):
        self._stage, self._total, self._count, self._told = stage, total, initial, initial
        # Before the first step is there, nothing is known of their rate.
        self._first: tuple[int, float] | None = None
        self._loss = float("nan")

    def update(self, count: int, figures: dict[str, float]) -> None:
        self._count, self._loss, now = count, figures["loss"], time.monotonic()
        if self._first is None:
            self._first, self._due = (count, now), now
        if now >= self._due:
            self._tell()
            self._due = now + LOG_SECONDS

    def end(self) -> None:
        if self._count != self._told:
            self._tell()

    def _tell(self) -> None:
        self._told = self._count
        first, since = self._first
        steps, seconds = self._count - first, time.monotonic() - since
        rate = steps / seconds if steps > 0 and seconds else 0.0
        left = datetime.timedelta(seconds=round((self._total - self._count) / rate)) if rate else None
        print(
            f"{self._stage}: step {self._count} of {self._total}, loss {self._loss:.3g}"
            + (f", {rate:.3g} steps/s, {left} left at most" if rate else ""),
            file=sys.stderr,
            flush=True,
        )
