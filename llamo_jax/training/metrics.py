"""Figures of a run: to the terminal, to JSON lines, and to TensorBoard."""

import json
import time
from pathlib import Path
from typing import Self

from tensorboardX import SummaryWriter
from tqdm import tqdm


class MetricsLog:
    """Writes one line of JSON a record ({"stage", "step", "time", figures}) and the same figures as TensorBoard
    scalars."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "metrics.jsonl"
        self._lines = self.path.open("a")
        self._board = SummaryWriter(str(self.folder / "tensorboard"))

    def write(self, stage: str, step: int, figures: dict[str, float]) -> None:
        """One record; `time` is seconds since the epoch."""
        record = {"stage": stage, "step": step, "time": round(time.time(), 3)} | {
            k: float(f"{v:.6g}") for k, v in figures.items()
        }
        self._lines.write(json.dumps(record) + "\n")
        self._lines.flush()
        for name, value in figures.items():
            self._board.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        """Writes out what is buffered."""
        self._lines.close()
        self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress_bar(stage: str, total: int, initial: int = 0) -> tqdm:
    """A bar with rate and remaining time that stays readable in a log file: at most one update a second."""
    return tqdm(
        total=total, initial=initial, desc=stage, unit="step", mininterval=1.0, dynamic_ncols=True, smoothing=0.1
    )
