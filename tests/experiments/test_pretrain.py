"""Recipes on the command line: every number is an option, and what does not fit is told before the work."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.pretrain import Pretrain
from experiments.recipes import RECIPES, VAE_RECIPES, Recipe, identity, told, with_recipe
from experiments.running import Traces
from experiments.train_vae import TrainVAE
from llamo_jax import commands
from llamo_jax.errors import InputError
from llamo_jax.sharding import mesh_shape

GIVEN = ["--llm", "LLM", "--vae", "VAE", "--latents", "gs://bucket/latents", "--out", "run"]


def read(*arguments: str) -> Pretrain:
    command = with_recipe(Pretrain, RECIPES, "pretrain", [*arguments, *GIVEN])
    assert isinstance(command, Pretrain)
    return command


def test_every_number_of_a_recipe_is_an_option() -> None:
    command = read(
        "paper-3b", "--mesh", "1,64,1", "--stage2.run.steps", "1000", "--stage2.rows.m2t", "128",
        "--stage2.run.optim.modules.flow-head.learning-rate", "3e-4", "--loader.text-len", "64",
        "--loss.exit-weight", "2",
    )  # fmt: skip
    recipe, named = command.recipe, RECIPES["paper-3b"]
    assert recipe.mesh == "1,64,1" and recipe.stage2.run.steps == 1000 and recipe.loader.text_len == 64
    assert recipe.stage2.rows == {"t2m": 256, "m2t": 128} and recipe.loss.exit_weight == 2
    assert recipe.stage2.run.optim.modules["flow_head"].learning_rate == 3e-4
    assert (recipe.stage1, recipe.stage3, recipe.vae) == (named.stage1, named.stage3, named.vae)
    assert str(command.latents) == "gs://bucket/latents"
    assert read().recipe == RECIPES["recordings"]
    windows = with_recipe(
        TrainVAE, VAE_RECIPES, "train_vae", ["paper-vae", "--data", "D", "--out", "O", "--run.steps", "9"]
    )
    assert (windows.recipe.rows, windows.recipe.run.steps) == (256, 9)


def test_commands_may_share_a_folder(tmp_path: Path) -> None:
    """As the README has it: the VAE's recipe is no drift of the model's."""
    vae = with_recipe(TrainVAE, VAE_RECIPES, "train_vae", ["--data", "D", "--out", str(tmp_path)]).traces()
    with vae.record("vae", {}):
        pass
    assert [path.name for path in tmp_path.glob("*.json")] == ["recipe_vae.json"]
    with_recipe(Pretrain, RECIPES, "pretrain", [*GIVEN[:-1], str(tmp_path)]).traces()
    with pytest.raises(InputError, match=r"recipe_vae.json: holds .* \(recipe.rows: 32 -> 16\)"):
        with_recipe(TrainVAE, VAE_RECIPES, "p", ["--data", "D", "--out", str(tmp_path), "--rows", "16"]).traces()


def test_a_wrong_name_or_number_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        commands.main(lambda: read("paper-3c"))
    assert left.value.code == 2 and 'did you mean "paper-3b"?' in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        commands.main(lambda: read("paper-3b", "--stage2.run.step", "5"))
    assert left.value.code == 2 and "--stage2.run.steps" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        commands.main(lambda: read("paper-3b", "--stage2.run.steps", "-5"))
    assert left.value.code == 2 and "RunConfig.steps is -5; expected more than 0" in capsys.readouterr().err


def test_a_run_with_another_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    recipe = RECIPES["demo"]
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": identity(recipe), "seed": 0}))
    changed = dataclasses.replace(
        recipe,
        loss=dataclasses.replace(recipe.loss, exit_weight=0.5),
        stage2=dataclasses.replace(recipe.stage2, rows={"t2m": 8, "m2t": 4}),
    )
    with pytest.raises(
        InputError,
        match=r"recipe.json: holds a run with other settings \(recipe.loss.exit_weight: 1.0 -> 0.5; "
        r"recipe.stage2.rows.m2t: 3 -> 4\); resume it with its own settings",
    ):
        Traces(tmp_path, recipe={"recipe": identity(changed), "seed": 0}).require_recipe()
    # Where and how it runs may change.
    often = dataclasses.replace(recipe.stage2, accumulate=2, run=dataclasses.replace(recipe.stage2.run, log_every=1))
    elsewhere = dataclasses.replace(recipe, mesh="2,4,1", remat="full", attention="xla", stage2=often)
    Traces(tmp_path, recipe={"recipe": identity(elsewhere), "seed": 0}).require_recipe()


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("paper")])
def test_the_paper_is_in_its_recipes(name: str) -> None:
    """LLaMo, Training: steps, tasks, rates, looks of the flow head, noise of the history, and what trains."""
    recipe: Recipe = RECIPES[name]
    assert [stage.run.steps for stage in recipe.stages] == [100_000, 200_000, 50_000]
    shares = [stage.rows["t2m"] / sum(stage.rows.values()) for stage in recipe.stages]
    assert shares == [0.5, 0.8, 1.0] and recipe.stage3.min_speed == 0.05
    assert recipe.loss.timesteps_per_latent == 4 and recipe.loss.history_noise == 0.01
    assert recipe.stage1.run.optim.learning_rate == 1e-4 and recipe.stage1.run.optim.final_fraction == 1
    last = recipe.stage3.run.optim
    assert (last.shape, last.learning_rate * last.final_fraction) == ("cosine", pytest.approx(1e-5))
    assert set(recipe.stage1.run.trainable) >= {"motion/adapter", "flow_head/"} and recipe.precision == "bfloat16"
    parts = mesh_shape(recipe.mesh)
    for stage in recipe.stages:
        assert min(stage.rows.values()) >= 64  # one pod slice has some rows of each task on every chip
        assert all(rows % (parts[0] * parts[1]) == 0 == rows % recipe.loader.shards for rows in stage.rows.values())
    assert "stage2: run (steps 200000" not in told(recipe) and "steps 200000" in told(recipe)


@pytest.mark.parametrize("name", ["demo", "recordings"])
def test_latents_are_as_long_as_a_row_holds(name: str) -> None:
    assert RECIPES[name].vae.max_latents == RECIPES[name].loader.max_latents
