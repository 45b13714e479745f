"""A run as with a real LLM, at its smallest: asked through a chat template, prompts kept, a tower of its own width."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import llamo_jax
from data_pipelines.builders.dataset import build
from data_pipelines.builders.synthetic import Synthetic
from data_pipelines.folder import LatentFolder
from data_pipelines.records import Wording
from experiments.benchmarks.language_worth import LanguageWorth, _judged
from experiments.pretrain import _turns, pretrain
from experiments.recipes import RECIPES, RECORDINGS_SMOLLM2, Recipe, VAERecipe
from experiments.running import Traces
from experiments.train_vae import train_vae
from llamo_jax import prompts
from llamo_jax.config import MotionVAEConfig
from llamo_jax.errors import InputError
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.storage.hub import Source
from llamo_jax.tokenizer import Tokenizer
from llamo_jax.training.loop import RunConfig
from llamo_jax.trees import flatten
from tests.chat_llms import with_template

DATED = "{% for message in messages %}<s>{{ message['role'] + ' ' + message['content'] + ' DAY' }}</s>{% endfor %}"


def _steps(run: RunConfig, steps: int = 2) -> RunConfig:
    return dataclasses.replace(run, steps=steps, time_limit=None)


def _vae(decoder: bool) -> VAERecipe:
    recipe = RECORDINGS_SMOLLM2.vae
    assert recipe.decoder is not None
    run, own = _steps(recipe.run), _steps(recipe.decoder) if decoder else None
    return dataclasses.replace(recipe, model=MotionVAEConfig(width=16), run=run, decoder=own, rows=4)


def _recipe(**changes: object) -> Recipe:
    recipe = dataclasses.replace(
        RECORDINGS_SMOLLM2,
        **{
            f"stage{n}": dataclasses.replace(stage, run=_steps(stage.run))
            for n, stage in enumerate(RECORDINGS_SMOLLM2.stages, 1)
        },
        loader=dataclasses.replace(RECORDINGS_SMOLLM2.loader, text_len=160, prefix_len=170, balance_by=None),
        preset=None,
        motion_width=24,
        flow_width=16,
        prompt_cache=0.01,
    )
    return dataclasses.replace(recipe, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[MotionCodec, LatentFolder]:
    folder = tmp_path_factory.mktemp("vae")
    data = build(Synthetic(num_clips=40), folder / "data")
    return train_vae(data.path, Traces(folder / "run"), _vae(decoder=True))


def test_the_second_stage_of_the_vae_changes_the_decoder_alone(trained, tmp_path: Path) -> None:
    codec, latents = trained
    plain, others = train_vae(latents.path.parents[1] / "data", Traces(tmp_path), _vae(decoder=False))
    found, expected = flatten(codec.params), flatten(plain.params)
    changed = {path for path in found if not np.array_equal(found[path], expected[path])}
    assert changed and all(path.startswith("decoder/") for path in changed)
    for first, second in zip(latents.split("test"), others.split("test"), strict=True):
        np.testing.assert_array_equal(first.latents, second.latents)


def test_a_run_leaves_a_bundle_that_is_asked_as_it_learnt(
    trained, chat_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pretrain(Source(chat_folder), *trained, Traces(tmp_path), _recipe())
    said = capsys.readouterr().out
    assert "GFLOP a step: " in said and "texts of each record are drawn" in said
    model = llamo_jax.load(path)
    assert model.config.motion.width == 24 and model.config.flow_head.width == 16
    assert model.tokenizer.turns == prompts.chat_turns(Tokenizer(chat_folder))
    assert len(model.generate("a person jumps.", seconds=0.5)) == 15
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    figures = [json.loads(line) for line in lines]
    assert all(np.isfinite(each["loss"]) for each in figures) and figures[-1]["prefix_tokens"] > 0
    # Nothing is done twice.
    kept = (tmp_path / "prompts" / "keys.npy").stat()
    pretrain(Source(chat_folder), *trained, Traces(tmp_path), _recipe())
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines
    assert (tmp_path / "prompts" / "keys.npy").stat().st_mtime_ns == kept.st_mtime_ns


def test_a_run_goes_on_with_the_turns_that_it_began_with(trained, llm_folder: Path, tmp_path: Path) -> None:
    """Some templates say the day."""
    folder = with_template(llm_folder, tmp_path / "llm", DATED)
    out, began = Traces(tmp_path / "run"), prompts.chat_turns(Tokenizer(folder))
    pretrain(Source(folder), *trained, out, _recipe(prompt_cache=0.0))
    file = next(file for file in folder.iterdir() if "DAY" in file.read_text(errors="ignore"))
    file.write_text(file.read_text().replace("DAY", "NIGHT"))
    assert prompts.chat_turns(Tokenizer(folder)) != began
    path = pretrain(Source(folder), *trained, out, _recipe(prompt_cache=0.0))
    assert llamo_jax.load(path).tokenizer.turns == began


def test_turns_are_those_of_the_llm_at_hand(llm_folder: Path, chat_folder: Path, tmp_path: Path) -> None:
    """A start with another LLM in the same folder, and a damaged file."""
    dated, other = Tokenizer(with_template(llm_folder, tmp_path / "llm", DATED)), Tokenizer(chat_folder)
    for _ in range(2):
        for weights, tokenizer in ((1, dated), (2, other)):
            assert _turns(tmp_path, tokenizer, weights, 300) == prompts.chat_turns(tokenizer)
    with pytest.raises(InputError, match=r"turns.json: .turns. is .* expected"):
        _turns(tmp_path, dated, 1, 3)
    for damaged in ("[]", '{"1": 5}', "{"):
        (tmp_path / "turns.json").write_text(damaged)
        with pytest.raises(InputError, match=r"turns.json: "):
            _turns(tmp_path, dated, 1, 300)


def test_without_chat_nothing_stands_around(trained, chat_folder: Path, tmp_path: Path) -> None:
    path = pretrain(Source(chat_folder), *trained, Traces(tmp_path), _recipe(chat=False, prompt_cache=0.0))
    assert llamo_jax.load(path).tokenizer.turns == Tokenizer(chat_folder).turns


def test_kept_prompts_ask_for_what_they_can_have_before_the_work(trained, chat_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prompt_cache is for one process"):
        pretrain(Source(chat_folder), *trained, Traces(tmp_path), _recipe(attention="splash"))
    assert not (tmp_path / "prompts").exists() and not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_what_language_is_worth(
    trained, chat_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same steps beside a tower and beside a random one of its shape, with its tokenizer and template."""
    _, latents = trained
    run = latents.path.parent
    unseen = (Wording("somebody strolls along.", {"action": "walk"}, "action"),)
    monkeypatch.setattr(Synthetic, "unseen", staticmethod(lambda: unseen))
    monkeypatch.setitem(RECIPES, "small", _recipe())
    benchmark = LanguageWorth(
        data=run.parent / "data",
        vae=run / "vae",
        latents=run / "latents",
        out=tmp_path / "out",
        llms=(f"given={chat_folder}", f"random=random:{chat_folder}"),
        recipe="small",
        steps=2,
        examples=2,
        recogniser_seconds=0.1,
        seed=5,  # the given tower is of seed 0
        json=tmp_path / "figures.json",
    )
    benchmark.run()
    figures = json.loads((tmp_path / "figures.json").read_text())
    printed = capsys.readouterr().out
    assert set(figures) == {"given", "random"} and "Recognised action of unseen wordings: given " in printed
    for apart, verdict in ((19.9, "missed"), (20.0, "met")):
        told = _judged({"a": {"X of unseen wordings": 50 + apart}, "b": {"X of unseen wordings": 50.0}}, ["b"])
        assert told == [f"X of unseen wordings: a +{apart:.1f} points against b; aim at least 20: {verdict}"]
    given, drawn = (llamo_jax.load(tmp_path / "out" / name / "bundle") for name in figures)
    assert given.config == drawn.config and given.tokenizer.turns == drawn.tokenizer.turns
    texts = (model.bundle.params["text"]["embed"] for model in (given, drawn))
    assert not np.array_equal(*map(np.asarray, texts))
    with pytest.raises(InputError, match="expected NAME=LLM"):
        dataclasses.replace(benchmark, llms=("smollm2",)).run()
