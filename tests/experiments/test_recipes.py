"""Recipes go to JSON and back, so that a checkpoint knows whether it is of the same run."""

import json
from pathlib import Path

import pytest

from data_pipelines.builders import BandaiNamco
from experiments.recipes import RECIPES, Recipe, recipe_named
from llamo_jax.config import Config, SamplingConfig
from llamo_jax.errors import InputError


@pytest.mark.parametrize("name", RECIPES)
def test_back_from_json_is_identical(name: str) -> None:
    recipe = recipe_named(name)
    values = recipe.to_json()
    assert json.loads(json.dumps(values)) == values
    assert Recipe.from_json(values) == recipe


@pytest.mark.parametrize("config", [SamplingConfig(solver="heun"), BandaiNamco(source=Path("takes"), min_takes=3)])
def test_settings_and_data_sets_come_back_from_json(config: Config) -> None:
    values = config.to_json()
    assert json.loads(json.dumps(values)) == values
    assert type(config).from_json(values) == config


def test_a_solver_that_does_not_exist_is_told() -> None:
    with pytest.raises(InputError, match=r"SamplingConfig.solver: found 'rk45', expected one of euler"):
        SamplingConfig.from_json({"solver": "rk45"})


def test_an_unknown_recipe_is_told() -> None:
    with pytest.raises(
        InputError, match=r'recipe "paper-3c" does not exist; .* bandai_namco, .*; did you mean "paper-3b"'
    ):
        recipe_named("paper-3c")
