"""What a run tells of itself while it goes."""

import json
import os
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from llamo_jax.errors import InputError
from llamo_jax.training import metrics
from llamo_jax.training.metrics import Meter, MetricsLog, Work, progress_line


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until it is set."""
    now = [1000.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    return now


def test_rates_are_of_the_steps_since_the_last(clock: list[float]) -> None:
    meter = Meter(Work(flops=4e12, peak=1e12, devices=2), 10)
    with meter.waiting("compile"):
        clock[0] += 100
    clock[0] += 6
    with meter.waiting("data"):
        clock[0] += 2
    found = meter.rates(14, {"loss": 1.0, "text_tokens": 300.0})
    assert found == {
        "steps_per_second": 0.5, "step_seconds": 2.0, "data_seconds": 0.5, "checkpoint_seconds": 0.0,
        "text_tokens_per_second": 150.0, "model_tflops_per_second": 1.0, "mfu": 1.0,
    }  # fmt: skip
    meter.restart(14)
    clock[0] += 1
    assert meter.rates(15, {})["data_seconds"] == 0


def test_a_log_file_gets_a_line_a_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_line("stage2", 1000) as line:
        for count in range(1, 301):
            clock[0] += 1
            line.update(count, {"loss": 1 / count})
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "stage2: step 1 of 1000, loss 1",
        "stage2: step 61 of 1000, loss 0.0164, 1 steps/s, 0:15:39 left at most",
    ]
    assert len(lines) == 6 and lines[-1].startswith("stage2: step 300 of 1000")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_gets_one_line_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with open(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with progress_line("stage2", 1000) as line:
            for count in range(1, 50):
                line.update(count, {"loss": 1 / count, "gradient_norm": 5.0})
        terminal.flush()
        written = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "\n" not in written.rstrip("\r\n") and "loss" in written
    assert max(len(part) for part in written.split("\r")) <= 60


def test_figures_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write("stage1", 1, {"loss": float("nan"), "flow": 2.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None


def test_weights_and_biases_gets_the_same_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, Any]] = []
    run = types.SimpleNamespace(
        log=lambda figures: calls.append(("log", figures)), finish=lambda: calls.append(("finish", None))
    )
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **options: calls.append(("init", options)) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for _ in range(2):
        with MetricsLog(tmp_path, wandb="motion", settings={"seed": 0}) as log:
            log.write("stage1", 3, {"loss": 2.0})
    (_, first), logged, (end, _), (_, second), *_ = calls
    assert first["project"] == "motion" and first["config"] == {"seed": 0} and end == "finish"
    assert logged == ("log", {"stage1/loss": 2.0, "stage1/step": 3})
    assert first["id"] == second["id"]  # the stages of one folder are one run
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="--wandb motion: the package is not installed"):
        MetricsLog(tmp_path, wandb="motion")
