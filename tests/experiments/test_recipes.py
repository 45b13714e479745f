"""Recipes go to JSON and back, so that a checkpoint knows whether it is of the same run."""

import json

import pytest

from experiments.recipes import RECIPES, Recipe, recipe_named
from llamo_jax.errors import InputError


@pytest.mark.parametrize("name", RECIPES)
def test_back_from_json_is_identical(name: str) -> None:
    recipe = recipe_named(name)
    values = recipe.to_json()
    assert json.loads(json.dumps(values)) == values
    assert Recipe.from_json(values) == recipe


def test_an_unknown_recipe_is_told() -> None:
    with pytest.raises(
        InputError, match='recipe "huge" does not exist; expected one of demo, recordings, bandai_namco'
    ):
        recipe_named("huge")
