"""The LLM's text ability, measured: distances of logits, replies to chats, likelihoods of sentences."""

from pathlib import Path

import numpy as np
import pytest

from llamo_jax.evaluation import language
from llamo_jax.evaluation.language import QUESTIONS, Language, chat_replies, perplexity, text_fidelity
from llamo_jax.pretrained import Llamo

TEMPLATE = "{{ bos_token }}{% for turn in messages %}{{ turn.role }}: {{ turn.content }} {% endfor %}assistant:"


@pytest.fixture
def chatty(model: Llamo, monkeypatch: pytest.MonkeyPatch) -> Llamo:
    monkeypatch.setattr(model.tokenizer._tokenizer, "chat_template", TEMPLATE)
    return model


def test_perplexity_is_that_of_the_tokens(model: Llamo) -> None:
    """Over all tokens of all sentences, padded and in batches as one by one."""
    sentences = ["a person walks.", "someone runs fast and waves the left hand.", "a", "  a person.  "]
    total, count = 0.0, 0
    for sentence in sentences:
        ids = [model.tokenizer.bos_id, *model.tokenizer.encode(sentence.strip())]
        logits = np.asarray(model.text_logits(np.array([ids])), np.float64)[0, :-1]
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        total -= np.log(shares[np.arange(len(ids) - 1), ids[1:]]).sum()
        count += len(ids) - 1
    assert perplexity(model, sentences, batch_size=3) == pytest.approx(np.exp(total / count), rel=1e-5)
    assert np.isnan(perplexity(model, [""]))


def test_replies_are_those_of_the_llm_alone(chatty: Llamo, llm_folder: Path) -> None:
    chats = chat_replies(chatty, llm_folder)
    assert [chat.question for chat in chats] == list(QUESTIONS)
    assert all(chat.before == chat.after for chat in chats) and any(chat.before for chat in chats)
    # As the LLM continues what the template writes.
    written = f"user: {QUESTIONS[0]} assistant:"
    assert chats[0].after == chatty.complete(written, max_tokens=language.REPLY_TOKENS).strip()


def test_a_changed_llm_is_found(chatty: Llamo, llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = chatty.bundle.params["text"]
    monkeypatch.setitem(chatty.bundle.params, "text", text | {"embed": text["embed"][::-1]})
    monkeypatch.setattr(language.importlib.util, "find_spec", lambda name: None)  # not the matter here
    figures = {figure.name: figure for figure in Language(llm_folder).run(chatty, None)}
    assert figures["Text logits changed by motion training"].value > 0
    assert figures["Chat replies changed"].value > 0 and figures["Chat replies changed"].unit == "of 3"


def test_a_damaged_template_costs_one_figure(chatty: Llamo, llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatty.tokenizer._tokenizer, "chat_template", "{{ raise_exception('no') }}")
    monkeypatch.setattr(language.importlib.util, "find_spec", lambda name: None)  # not the matter here
    first, second = Language(llm_folder).run(chatty, None)
    assert first.value == 0 and np.isnan(second.value) and second.note.startswith("not asked: ")


@pytest.mark.torch
def test_distances_from_float64(model: Llamo, llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    found = text_fidelity(model, llm_folder)
    figures = {figure.name: figure for figure in Language(llm_folder).run(model, None)}
    name = "Text logits' distance from float64 over transformers'"
    assert set(figures) == {"Text logits changed by motion training", name}  # no chat template
    assert figures[name].value == pytest.approx(found["rounding_error"] / found["rounding_error_transformers"])
    # Both round once a step: neither is far further from the truth. A wrong order of operations is, by tenfold.
    assert 0 < figures[name].value < 3
    monkeypatch.setattr(language, "DOUBLE_PARAMETERS", 10)
    figures = {figure.name: figure for figure in Language(llm_folder).run(model, None)}
    assert name not in figures and "too large for float64" in figures["Text logits against transformers"].note
    assert figures["Text logits against transformers"].value == found["logit_error"]
