"""Runs that are killed where they stand, in steps, in saves and while data is prepared, go on as if they never were."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.latents import write_latents
from tests.training.worker_survive import STEPS

ROOT = Path(__file__).resolve().parents[2]

KILLS = int(os.environ.get("LLAMO_KILLS", "1"))
"""How often the run is killed; each time costs the start of a process."""


def start(folder: Path, out: Path) -> subprocess.Popen:
    """The run, as it is started again and again; what it compiled is kept."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "tests.training.worker_survive", str(folder), str(out)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=(folder / "log.txt").open("a"))


def lines(out: Path) -> list[dict[str, Any]]:
    """What was logged, without a line that is half there."""
    path = out / "metrics.jsonl"
    text = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in text if line.endswith("}")]


def saved(out: Path) -> set[int]:
    """Steps of the checkpoints that are whole."""
    folder = out / "checkpoints"
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()} if folder.exists() else set()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_run_that_is_killed_again_and_again_is_one_that_never_was(tmp_path: Path) -> None:
    write_latents(tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(tmp_path, whole).wait(timeout=500) == 0
    draw, killed_at = random.Random(0), []
    while len(killed_at) < KILLS:
        before = max(saved(cut), default=0)
        logged = len(lines(cut))
        run = start(tmp_path, cut)
        # It is killed at a random moment of its work, which starts when the first new line is there.
        deadline = time.monotonic() + 120
        while run.poll() is None and time.monotonic() < deadline:
            found = lines(cut)
            if len(found) != logged or (found and found[-1]["step"] > before + 1):
                break
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 8 / max(KILLS, 4)))
        assert run.poll() is None, "it ended before it was killed"
        run.send_signal(signal.SIGKILL)
        run.wait()
        killed_at.append((before, max(saved(cut), default=0)))
    assert start(tmp_path, cut).wait(timeout=500) == 0
    assert all(after >= before for before, after in killed_at)  # nothing that was saved is lost
    with np.load(whole / "params.npz") as expected, np.load(cut / "params.npz") as found:
        for path in expected.files:
            np.testing.assert_array_equal(found[path], expected[path], err_msg=path)
    kept = [[{k: v for k, v in line.items() if k != "time" and "second" not in k} for line in lines(out)]
            for out in (whole, cut)]  # fmt: skip
    assert kept[0] == kept[1] and [line["step"] for line in kept[0]] == list(range(1, STEPS + 1))
    assert not list((cut / "checkpoints").glob("*tmp*"))
