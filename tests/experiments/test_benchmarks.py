"""Benchmarks run, at their smallest, and report what they measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks import train_step
from experiments.benchmarks.llm_import import LLMImport
from experiments.benchmarks.train_step import TrainStep
from llamo_jax.errors import InputError


def test_llm_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LLMImport(
        preset="stories260k", shards=2, rounds=1, tasks=("import",), work=tmp_path, json=tmp_path / "figures.json"
    ).run()
    figures = json.loads((tmp_path / "figures.json").read_text())["import"]
    assert figures["seconds"] > 0 and 0 < figures["largest_shard_GB"] < figures["GB"] and figures["peak_GB"] > 0
    assert "import" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    pytest.importorskip("gguf")
    of_gguf = {"tasks": ("GGUF",), "gguf_type": "F32"}
    LLMImport(preset="stories260k", rounds=1, work=tmp_path, json=tmp_path / "figures.json", **of_gguf).run()
    figures = json.loads((tmp_path / "figures.json").read_text())["GGUF"]
    assert 1e-3 < figures["GB"] < 1.1e-3  # 260 k numbers of float32
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    with pytest.raises(InputError, match='preset "llama-9" does not exist'):
        LLMImport(preset="llama-9").run()
    with pytest.raises(InputError, match="expected among"):
        LLMImport(tasks=("export",)).run()


@pytest.mark.torch
def test_train_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All ways compute the same before any is timed; a way that does not is told."""
    pytest.importorskip("torch")
    small = {"width": 128, "layers": 1, "rows": 2, "text_len": 12, "motion_len": 10, "rounds": 2}
    TrainStep(**small, json=tmp_path / "figures.json").run()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["ratios"]) == {"both towers", "ragged dot", "PyTorch"} == set(figures["apart"])
    assert max(figures["apart"].values()) < 1e-4 and figures["mfu"] is None and figures["dtype"] == "float32"
    for each in [*figures["ratios"].values(), *figures["seconds"].values()]:
        assert 0 < each["lower"] <= each["median"] <= each["upper"]
    told = capsys.readouterr().out
    assert told.index("PyTorch") < told.index("TFLOP/s") and "MFU unknown" in told


def test_train_step_refuses_what_is_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_motion(towers: Any, *options: Any) -> Any:
        (layers, text), motion = towers
        return train_step.two_streams([(layers, text._replace(x=0.9 * text.x)), motion], *options)

    monkeypatch.setitem(train_step.WAYS, "both towers", without_motion)
    small = {"width": 128, "layers": 1, "rows": 1, "text_len": 6, "motion_len": 4, "rounds": 1}
    with pytest.raises(RuntimeError, match="both towers does not compute what two streams do"):
        TrainStep(**small, ways=("both towers",)).run()
    with pytest.raises(InputError, match=r"--ways \['TensorFlow'\]; expected among"):
        TrainStep(ways=("TensorFlow",)).run()
    with pytest.raises(InputError, match="one sequence needs towers of one shape"):
        TrainStep(preset="qwen3-0.6b").run()
