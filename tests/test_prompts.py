"""How a model is asked: plainly, or through the chat template of its LLM, token for token as the template has it."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

import llamo_jax
from llamo_jax import prompts
from llamo_jax.errors import InputError
from llamo_jax.storage.bundle import read_bundle, write_bundle
from llamo_jax.storage.hub import Source
from llamo_jax.tokenizer import Tokenizer
from tests.chat_llms import CHATML, with_template

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML
DEAF = "{% for message in messages %}<s>{{ message['role'] }}</s>{% endfor %}"


def test_prompts_are_what_the_template_makes_of_them(chat_folder: Path) -> None:
    tokenizer, theirs = Tokenizer(chat_folder), AutoTokenizer.from_pretrained(chat_folder)
    assert tokenizer.chats
    tokenizer.turns = prompts.chat_turns(tokenizer)
    caption = "a person waves the left hand."
    for number, wording in enumerate(prompts.TEXT_TO_MOTION):
        messages = [
            {"role": "system", "content": prompts.SYSTEM["t2m"]},
            {"role": "user", "content": wording.format(caption)},
        ]
        whole = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = prompts.motion_prompt(tokenizer, caption, number)
        # But for spaces, which this tokenizer puts in front of every piece.
        assert theirs.decode(ids).split() == theirs.decode(theirs.encode(whole, add_special_tokens=False)).split()
    before, after = prompts.caption_prompt(tokenizer, 300, 5)
    asked = prompts.MOTION_TO_TEXT[5][1]
    assert theirs.decode(before).split() == f"<s> system {prompts.SYSTEM['m2t']}</s> <s> user".split()
    assert after[0] == 300
    assert theirs.decode(after[1:]).split() == f"{asked}</s> <s> assistant".split()


def test_a_template_without_a_system_turn_is_told_in_the_users(llm_folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(with_template(llm_folder, tmp_path / "llm", NO_SYSTEM))
    before, _ = prompts.chat_turns(tokenizer)["t2m"]
    assert tokenizer.decode(list(before)).split() == f"user {prompts.SYSTEM['t2m']}".split()


def test_a_template_that_leaves_the_system_turn_out_is_told_in_the_users(llm_folder: Path, tmp_path: Path) -> None:
    silent = CHATML.replace("{% for message in messages %}", "{% for message in messages[-1:] %}")
    tokenizer = Tokenizer(with_template(llm_folder, tmp_path / "llm", silent))
    before, _ = prompts.chat_turns(tokenizer)["t2m"]
    assert prompts.SYSTEM["t2m"] in tokenizer.decode(list(before))


@pytest.mark.parametrize(
    ("template", "message"), [(DEAF, "set chat to false to ask without"), ("{{ nothing. }}", "the chat template")]
)
def test_templates_that_cannot_be_used_are_named(llm_folder: Path, tmp_path: Path, template: str, message: str) -> None:
    tokenizer = Tokenizer(with_template(llm_folder, tmp_path / "llm", template))
    with pytest.raises(InputError, match=message):
        prompts.chat_turns(tokenizer)


def test_without_a_template_nothing_stands_around(llm_folder: Path) -> None:
    tokenizer = Tokenizer(llm_folder)
    assert not tokenizer.chats
    assert prompts.motion_prompt(tokenizer, "walk") == [tokenizer.bos_id, *tokenizer.encode("walk")]
    assert prompts.caption_prompt(tokenizer, 300) == ([tokenizer.bos_id], [300])


def test_a_bundle_keeps_how_it_is_asked(bundle: Path, chat_folder: Path, tmp_path: Path) -> None:
    """The turns, and so motions and captions, are the same after writing, and in PyTorch."""
    torch = pytest.importorskip("torch")
    from llamo_jax.convert.to_torch import to_torch
    from llamo_jax.convert.torch_folder.modeling_llamo import LLaMoForMotion

    tokenizer = Tokenizer(chat_folder)
    turns = prompts.chat_turns(tokenizer)
    plain = read_bundle(bundle)
    chatting = dataclasses.replace(plain, llm=Source(chat_folder), turns=turns)
    write_bundle(tmp_path / "bundle", chatting)
    found = read_bundle(tmp_path / "bundle")
    assert found.turns == turns and plain.turns == Tokenizer(plain.llm.folder).turns
    model = llamo_jax.load(tmp_path / "bundle")
    clip = model.generate("walk", seconds=1)
    assert not np.array_equal(clip.features(), llamo_jax.load(bundle).generate("walk", seconds=1).features())
    to_torch(tmp_path / "bundle", tmp_path / "torch")
    ported = LLaMoForMotion.from_pretrained(tmp_path / "torch")
    assert ported._motion_prompt("walk") == prompts.motion_prompt(model.tokenizer, "walk")
    features = [torch.from_numpy(np.array(clip.features()))]
    said = model.caption(clip, max_tokens=8)
    assert ported.caption(features, max_tokens=8) == [said]
    assert said != llamo_jax.load(bundle).caption(clip, max_tokens=8)  # what stands around is read


@pytest.mark.parametrize("turns", [None, {"t2m": [[1], []]}, {"t2m": [[1], []], "m2t": [[1], [10**6]]}, [1],
     {"t2m": [[], []], "m2t": [[1], []]}])  # fmt: skip
def test_damaged_turns_are_refused(bundle: Path, tmp_path: Path, turns: object) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"turns": turns}))
    with pytest.raises(InputError, match=r'"turns" is .* expected \{"t2m": '):
        read_bundle(copy)
