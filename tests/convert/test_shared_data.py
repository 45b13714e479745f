"""A real LLM (stories260K): its logits are transformers', its story is the one that its authors' program tells."""

from pathlib import Path

import pytest

import llamo_jax
from llamo_jax.convert.from_hf import bundle_from_llm
from llamo_jax.evaluation.language import text_fidelity
from llamo_jax.model import Llamo

pytestmark = [pytest.mark.shared_data, pytest.mark.torch]

STORY = (
    ", there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
)


@pytest.fixture(scope="module")
def stories(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Llamo:
    path = tmp_path_factory.mktemp("stories") / "bundle"
    bundle_from_llm(shared / "llm" / "stories260K" / "hf", path)
    return llamo_jax.load(path)


def test_the_greedy_story(stories: Llamo) -> None:
    assert stories.complete("Once upon a time", max_tokens=100).startswith(STORY)


def test_a_text_ends_with_the_token_that_the_llm_was_taught(stories: Llamo) -> None:
    # llama2.c separates stories with <s>; the row of </s> is that of tokens that never occurred.
    assert stories.tokenizer.eos_id == stories.tokenizer.bos_id == 1


def test_logits_are_as_exact_as_those_of_transformers(stories: Llamo, shared: Path) -> None:
    figures = text_fidelity(stories, shared / "llm" / "stories260K" / "hf")
    assert figures["changed_logits"] == 0
    # transformers in float32 is itself 2.5e-5 off its own float64, on logits up to 21: no other rounding comes within 1e-5 of it.
    assert figures["rounding_error"] < figures["rounding_error_transformers"] < 3e-5


@pytest.mark.xfail(strict=True, reason="the aim; missed by rounding on both sides, docs/measurements.md")
def test_logits_are_within_1e_5_of_transformers(stories: Llamo, shared: Path) -> None:
    assert text_fidelity(stories, shared / "llm" / "stories260K" / "hf")["logit_error"] < 1e-5
