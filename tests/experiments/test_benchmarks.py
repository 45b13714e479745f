"""Benchmarks run, at their smallest, and report what they measured."""

import json
from pathlib import Path

import pytest

from experiments.benchmarks.llm_import import LLMImport
from llamo_jax.errors import InputError


def test_llm_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LLMImport(
        preset="stories260k", shards=2, rounds=1, tasks=("import",), work=tmp_path, json=tmp_path / "figures.json"
    ).run()
    figures = json.loads((tmp_path / "figures.json").read_text())["import"]
    assert figures["seconds"] > 0 and 0 < figures["largest_shard_GB"] < figures["GB"] and figures["peak_GB"] > 0
    assert "import" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    with pytest.raises(InputError, match='preset "llama-9" does not exist'):
        LLMImport(preset="llama-9").run()
    with pytest.raises(InputError, match="expected among"):
        LLMImport(tasks=("export",)).run()
