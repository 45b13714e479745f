"""Evaluates a bundle on the test split of a data folder: figures beside their aims, and a report.

python -m experiments.evaluate BUNDLE DATA [--report-to DIR] [--json FILE]        the same as `llamo evaluate`
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

import llamo_jax
from data_pipelines.builders import DATASETS
from data_pipelines.builders.dataset import Dataset
from data_pipelines.folder import MotionFolder
from data_pipelines.records import MotionRecord
from experiments.report import AskedRow, CaptionRow, Pair, require_report_or_nothing, write_report
from experiments.suites import aims_of
from llamo_jax.cli.evaluate import Evaluate
from llamo_jax.commands import require_seed
from llamo_jax.config import require
from llamo_jax.convert.to_torch import to_torch
from llamo_jax.errors import InputError
from llamo_jax.evaluation.captioning import Captioning
from llamo_jax.evaluation.figure import Figure, Judged
from llamo_jax.evaluation.generation import Generation
from llamo_jax.evaluation.language import Language
from llamo_jax.evaluation.lengths import Lengths
from llamo_jax.evaluation.recogniser import Recogniser
from llamo_jax.evaluation.reconstruction import Reconstruction
from llamo_jax.evaluation.suite import Held, evaluate
from llamo_jax.evaluation.wordings import Wordings
from llamo_jax.motion.representation import FPS, FRAMES_PER_LATENT
from llamo_jax.pretrained import Llamo

_VERIFY_SECONDS = 600


class Clock:
    """Seconds of each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def total(self) -> float:
        """Seconds since the start, with what belongs to no phase."""
        return time.monotonic() - self._started

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - started


@dataclasses.dataclass
class PyTorchPort:
    """Converts the bundle to PyTorch and runs the check of the folder, `verify.py`, in a process of its own.

    Attributes:
      bundle: whose.
    """

    name: ClassVar[str] = "PyTorch"
    bundle: Path

    def run(self, model: Llamo, held: Held) -> Iterator[Figure]:
        """Yields how many comparisons fail; nothing where PyTorch is not installed."""
        del model, held
        if importlib.util.find_spec("torch") is None:
            print("PyTorch is not installed: the port was not compared with JAX", file=sys.stderr)
            return
        with tempfile.TemporaryDirectory() as folder:
            to_torch(self.bundle, Path(folder) / "torch")
            command = [sys.executable, str(Path(folder) / "torch" / "verify.py")]
            try:
                done = subprocess.run(
                    command,
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=_VERIFY_SECONDS,
                    check=False,
                )
                lines, errors = done.stdout.splitlines(), done.stderr
            except subprocess.TimeoutExpired:
                lines, errors = [], f"took more than {_VERIFY_SECONDS} s"
        failed = [line for line in lines if line.startswith("FAIL")]
        count, note = float(len(failed)), f"of {len(lines) - 1} comparisons by verify.py"
        note += "".join(f"; {' '.join(line.split()[1:])}" for line in failed)
        if not lines or not lines[-1].startswith("the PyTorch model is"):
            # The other figures are not lost with this one.
            count, note = math.nan, f"verify.py did not finish: {' '.join(errors.split())[-300:]}"
        yield Figure("PyTorch parts that differ", count, "", "PyTorch", note=note)


@dataclasses.dataclass
class Evaluation:
    """A model, measured: the figures, and what they were measured on."""

    judged: list[Judged]
    held: Held
    generation: Generation
    captioning: Captioning
    language: Language
    lengths: Lengths
    wordings: Wordings | None = None

    @property
    def figures(self) -> dict[str, float | None]:
        """Name -> value, for JSON, which knows no NaN."""
        figures = {judged.figure.name: judged.figure.value for judged in self.judged}
        return {name: value if math.isfinite(value) else None for name, value in figures.items()}

    def table(self) -> str:
        """One line a figure."""
        marks = {None: "    ", True: "pass", False: "MISS"}
        return "\n".join(
            f"{marks[judged.passed]}  {judged.figure.name:<58} {judged.figure.value:10.4g} {judged.figure.unit:<8} "
            f"{judged.words}".rstrip()
            for judged in self.judged
        )

    def report(self, folder: Path, title: str, facts: dict[str, Any], curves: dict[str, Path], videos: int) -> Path:
        """Writes the report with `videos` pairs, and returns its page."""
        held, made = self.held, self.generation.generated
        pairs = [
            Pair(held.prompts[i], made.clips[i], held.clips[i], held.labels[i], made.recognised[i])
            for i in _spread(len(held), videos)
        ]
        rows = [
            CaptionRow(
                held.examples[i].name,
                self.captioning.captions[i],
                held.captions[i],
                self.captioning.right(held, i),
                held.clips[i],
            )
            for i in _spread(len(held), 24)
        ]
        return write_report(
            folder,
            title,
            facts,
            self.judged,
            curves,
            pairs,
            rows,
            asked=self._asked(),
            lengths=self.lengths,
            chats=self.language.chats,
        )

    def _asked(self) -> list[AskedRow]:
        if self.wordings is None:
            return []
        return [
            AskedRow(wording.text, wording.kind, wording.labels, recognised)
            for wording, recognised in zip(self.wordings.asked, self.wordings.recognised, strict=True)
        ]


def held_out(folder: MotionFolder, max_latents: int) -> list[MotionRecord]:
    """The test split, without what is longer than a model's rows, which is counted on standard error.

    Raises:
      InputError: nothing is left.
    """
    if "test" not in folder.manifest["records"]:
        raise InputError(f"{folder.path}: no recording fell to the test split; bring more recordings")
    split = folder.split("test")
    records = [r for r in split if len(r.features) // FRAMES_PER_LATENT <= max_latents]
    if longer := len(split) - len(records):
        found = f"{longer} of {len(split)} recordings of the test split are longer than {max_latents} latents"
        print(f"{found}: the model is not measured on them", file=sys.stderr)
    if not records:
        raise InputError(
            f"{folder.path}: no recording to test on of at most {max_latents} latents, "
            f"{max_latents * FRAMES_PER_LATENT / FPS:.1f} s; bring more recordings, or shorter ones"
        )
    return records


def evaluate_model(
    model: Llamo,
    bundle: Path,
    folder: MotionFolder,
    records: list[MotionRecord],
    *,
    llm: Path,
    examples: int,
    recogniser_seconds: float,
    seed: int,
    clock: Clock,
) -> Evaluation:
    """All that is measured of a trained model.

    Args:
      model: the loaded bundle.
      bundle: its folder.
      folder: the data, whose train split the recogniser learns from.
      records: of the test split.
      llm: folder of the LLM before any motion training.
      examples: how many of the records to measure on, at most, spread evenly.
      recogniser_seconds: time limit of the recogniser's training.
      seed: of samples and recogniser.
      clock: takes the seconds of each part.

    Raises:
      InputError: the model knows no motion, or the data is of no data set that is known here.
    """
    model.require_trained()
    kind = dataset_of(folder)
    held = Held([records[index] for index in _spread(len(records), examples)])
    train = folder.split("train")
    # A small set may have one class of a label, of which there is nothing to tell apart.
    labels = tuple(name for name in kind.labels if len(train.index.classes.get(name, ())) > 1)
    recogniser = None
    if labels:
        with clock("recogniser"):
            recogniser = Recogniser.train(train, labels, seed=seed, seconds=recogniser_seconds)
    generation = Generation(recogniser, seed=seed)
    captioning = Captioning(kind.facts, kind.caption_labels, [text for record in train for text in record.captions])
    language = Language(llm)
    lengths = Lengths(train, kind.caption_labels, seed=seed, max_latents=model.longest)
    wordings = None
    if recogniser is not None and (unseen := kind.unseen()):
        wordings = Wordings(recogniser, unseen, generation, seed=seed)
    evaluators = (
        Reconstruction(),
        language,
        captioning,
        generation,
        lengths,
        *([] if wordings is None else [wordings]),
        PyTorchPort(bundle),
    )
    judged = evaluate(model, held, evaluators, aims_of(kind.name), measuring=clock)
    return Evaluation(judged, held, generation, captioning, language, lengths, wordings)


def dataset_of(folder: MotionFolder) -> type[Dataset]:
    """The class of the data set that a folder was built from.

    Raises:
      InputError: this version does not know it.
    """
    name = folder.manifest["dataset"]["name"]
    found = next((kind for kind in DATASETS if kind.name == name), None)
    if found is None:
        known = ", ".join(kind.name for kind in DATASETS)
        raise InputError(f'{folder.path}: of the data set "{name}"; expected one of {known}')
    return found


def machine() -> dict[str, Any]:
    """What a run ran on."""
    packages = ("llamo_jax", "jax", "flax", "optax", "grain", "numpy")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "devices": jax.device_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def model_facts(model: Llamo) -> dict[str, Any]:
    """The shape of a model."""
    config = model.config
    return {
        "text tower": config.text,
        "motion tower": config.motion,
        "flow head": config.flow_head,
        "motion VAE": model.codec.config,
    }


def run(command: Evaluate) -> None:
    """Runs `llamo evaluate`."""
    require_seed(command.seed)
    found = f"--examples {command.examples}, --videos {command.videos}"
    require(min(command.examples, command.videos) >= 1, f"{found}; expected at least 1 of each")
    clock, folder = Clock(), MotionFolder(command.data)
    if command.report_to is not None:
        require_report_or_nothing(command.report_to)
    model = llamo_jax.load(command.bundle)
    done = evaluate_model(
        model,
        command.bundle,
        folder,
        held_out(folder, model.longest),
        llm=model.bundle.llm.folder,
        examples=command.examples,
        recogniser_seconds=command.recogniser_seconds,
        seed=command.seed,
        clock=clock,
    )
    if command.report_to is not None:
        facts = {"Data": folder.manifest["dataset"], "Model": model_facts(model), "Machine": machine()}
        title = f"llamo_jax on {folder.manifest['dataset']['name']}"
        print(f"report -> {done.report(command.report_to, title, facts, {}, command.videos)}")
    command.report(done.table(), {"figures": done.figures, "seconds": clock.seconds})


def _spread(length: int, count: int) -> list[int]:
    return sorted(set(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()))


if __name__ == "__main__":
    Evaluate.main("python -m experiments.evaluate")
