"""A real LLM (stories260K): its logits are transformers', its story is the one that its authors' program tells."""

import dataclasses
from pathlib import Path

import pytest

import llamo_jax
from llamo_jax.convert.from_hf import bundle_from_llm
from llamo_jax.evaluation.language import text_fidelity
from llamo_jax.inference.text import complete_tokens
from llamo_jax.pretrained import Llamo

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


def test_greedy_text_is_the_same_in_jax_pytorch_and_transformers(stories: Llamo, shared: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    from llamo_jax.convert.torch_folder.modeling_llamo import LLaMoForMotion

    folder = shared / "llm" / "stories260K" / "hf"
    stories.save_pretrained(tmp_path / "bundle")
    port = LLaMoForMotion.from_pretrained(tmp_path / "bundle")
    prompt = [stories.tokenizer.bos_id, *stories.tokenizer.encode("Once upon a time")]
    # No end of text: 200 tokens whatever they are.
    ours = complete_tokens(stories.bundle.params, stories.config, prompt, eos_id=-1, max_tokens=200)
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    llm.generation_config.eos_token_id = None
    theirs = llm.generate(torch.tensor([prompt]), max_new_tokens=200, do_sample=False)[0, len(prompt) :].tolist()
    rows, lengths = port._pad_rows([prompt])
    port.config = dataclasses.replace(port.config, eos=-1)
    ported = port._continue(rows, torch.zeros_like(lengths), port._cache(1, len(prompt) + 200), 200)[0]
    assert len(ours) == 200 and ours == theirs == ported


def test_a_text_ends_with_the_token_that_the_llm_was_taught(stories: Llamo) -> None:
    # llama2.c separates stories with <s>; the row of </s> is that of tokens that never occurred.
    assert stories.tokenizer.eos_id == stories.tokenizer.bos_id == 1


def test_logits_are_as_exact_as_those_of_transformers(stories: Llamo, shared: Path) -> None:
    figures = text_fidelity(stories, shared / "llm" / "stories260K" / "hf")
    assert figures["changed_logits"] == 0
    # Both round; no other order of operations comes much closer to float64 than transformers' own float32 does.
    assert figures["rounding_error"] < 1.5 * figures["rounding_error_transformers"] < 6e-6
    assert figures["logit_error"] < 6e-5
