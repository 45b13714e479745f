"""The main job end to end, at its smallest: every part runs, and what it leaves behind is whole."""

import dataclasses
import json
from pathlib import Path

import pytest

import llamo_jax
from data_pipelines.builders import Synthetic
from data_pipelines.records import Wording
from experiments import recipes
from experiments.demo import Demo
from experiments.recipes import Recipe
from llamo_jax.config import MotionVAEConfig
from llamo_jax.errors import InputError
from llamo_jax.training.loop import RunConfig


def smallest(recipe: Recipe) -> Recipe:
    """The recipe with two steps a stage and a narrow VAE."""

    def two(run: RunConfig) -> RunConfig:
        return dataclasses.replace(run, steps=2)

    return dataclasses.replace(
        recipe,
        vae=dataclasses.replace(recipe.vae, model=MotionVAEConfig(width=16), run=two(recipe.vae.run)),
        **{f"stage{n}": dataclasses.replace(stage, run=two(stage.run)) for n, stage in enumerate(recipe.stages, 1)},
        llm_run=two(recipe.llm_run),
        recogniser_seconds=0.1,
    )


@pytest.mark.slow
def test_the_main_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(recipes.RECIPES, "demo", smallest(recipes.DEMO))
    unseen = (Wording("somebody strolls along.", {"action": "walk"}, "action"),)
    monkeypatch.setattr(Synthetic, "unseen", staticmethod(lambda: unseen))
    demo = Demo(out=tmp_path / "demo", clips=60, examples=2, videos=1, json=tmp_path / "figures.json")
    demo.run()
    printed = capsys.readouterr().out
    assert "MISS" in printed and str(tmp_path / "demo" / "report") in printed
    page = (tmp_path / "demo" / "report" / "index.html").read_text()
    assert "VAE MPJPE" in page and ".mp4" in page and "curves/lengths.svg" in page and "strolls along" in page
    values = json.loads((tmp_path / "figures.json").read_text())
    assert values["figures"]["Text logits changed by motion training"] == 0
    measured = {"Length distance", "Length error", "Perplexity of captions", "Recognised action of unseen wordings"}
    assert measured <= set(values["figures"])
    assert set(values["seconds"]) >= {"data", "LLM", "three stages", "report"}
    stages = [json.loads(line)["stage"] for line in (tmp_path / "demo" / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(stages)) == ["vae", "decoder", "stage0", "stage1", "stage2", "stage3"]
    model = llamo_jax.load(tmp_path / "demo" / "bundle")
    assert len(model.generate("a person jumps.", seconds=0.5)) == 15
    # A run that is there is continued: nothing is trained again.
    lines = len((tmp_path / "demo" / "metrics.jsonl").read_text().splitlines())
    demo.run()
    assert len((tmp_path / "demo" / "metrics.jsonl").read_text().splitlines()) == lines


def test_mistakes_are_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a seed of 0 or more"):
        Demo(out=tmp_path, seed=-1).run()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<h1>Mine</h1>")
    with pytest.raises(InputError, match="exists and is not a report of ours"):
        Demo(out=tmp_path).run()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_recordings_need_their_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--corpus bvh needs --source"):
        Demo(out=tmp_path, corpus="bvh").run()


def test_each_corpus_has_its_own_options(tmp_path: Path) -> None:
    """`captions` is a way of wording for recordings with labels, and a file elsewhere."""
    of = {name: Demo(source=tmp_path, corpus=name)._dataset() for name in ("bandai_namco", "bvh", "cmu")}
    assert of["bandai_namco"].captions == "templates" and of["bvh"].captions is None and of["cmu"].captions is None
    assert Demo(source=tmp_path, corpus="bandai_namco", captions="english")._dataset().captions == "english"
    assert Demo(clips=7, seed=3)._dataset() == Synthetic(num_clips=7, seed=3)
    with pytest.raises(InputError, match="--captions english: bvh has captions of its own"):
        Demo(source=tmp_path, corpus="bvh", captions="english").run()
