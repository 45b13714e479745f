"""A real LLM (stories260K): its logits are transformers', its story is the one that its authors' program tells."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

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


def test_logits_are_those_of_transformers(stories: Llamo, shared: Path) -> None:
    figures = text_fidelity(stories, shared / "llm" / "stories260K" / "hf")
    assert figures["changed_logits"] == 0
    assert figures["logit_error_relative"] < 1e-5


def test_our_rounding_errors_are_no_larger_than_those_of_transformers(stories: Llamo, shared: Path) -> None:
    folder = str(shared / "llm" / "stories260K" / "hf")
    ids = np.random.default_rng(0).integers(3, 512, (4, 100))
    exact, theirs = (
        transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)(torch.from_numpy(ids)).logits.detach().double().numpy()
        for dtype in (torch.float64, torch.float32)
    )
    ours = np.asarray(stories.text_logits(ids), np.float64)
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 2 * np.sqrt(np.mean((theirs - exact) ** 2))
