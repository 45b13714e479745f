"""`llamo evaluate`."""

import dataclasses
from pathlib import Path

import tyro

from llamo_jax.commands import Reporting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Reporting):
    """Measure a trained bundle on the test split of a data folder: figures beside their aims.

    The same as `python -m experiments.evaluate`.
    """

    bundle: tyro.conf.Positional[Path]
    """Folder of the model."""
    data: tyro.conf.Positional[Path]
    """Data folder, whose train split the recogniser learns from."""
    report_to: Path | None = None
    """Folder for an HTML report with videos; none by default."""
    examples: int = 300
    """Held-out clips to measure on, at most."""
    videos: int = 12
    """Pairs of generated and real videos in the report."""
    recogniser_seconds: float = 90.0
    """Time limit of the recogniser's training."""
    seed: int = 0
    """Of samples and recogniser."""

    def run(self) -> None:
        from experiments import evaluate  # recipes and data sets: the one command that is above the library

        evaluate.run(self)
