"""Where a text ends: at a token that the LLM can say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a person walks.", "a person runs."], 280, folder)
    return folder


def test_ids_come_back_as_text(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    ids = tokenizer.encode("a person walks.")
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(ids)
    assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id]).strip() == "a person walks."


def test_an_end_that_the_llm_never_saw_gives_way_to_the_token_that_starts_texts(folder: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(280, 8))
    assert Tokenizer(folder, rows).eos_id == 2
    rows[[2, 100, 101]] = rows[100] + 1e-4 * rows[:3]  # as those of tokens that never occurred in training
    tokenizer = Tokenizer(folder, rows)
    assert tokenizer.eos_id == tokenizer.bos_id == 1


def test_a_tokenizer_without_a_beginning_takes_the_llms_and_else_the_end(folder: Path, tmp_path: Path) -> None:
    """Qwen's tokenizers have no beginning of text; its config.json names <|endoftext|>."""
    copy = Path(shutil.copytree(folder, tmp_path / "qwen"))
    values = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in values.items() if key != "bos_token"}))
    assert Tokenizer(copy).bos_id == 2
    for bos, expected in ((7, 7), (None, 2), (5000, 2)):
        (copy / "config.json").write_text(json.dumps({"bos_token_id": bos}))
        assert Tokenizer(copy).bos_id == expected
    (copy / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in values.items() if key != "eos_token"}))
    with pytest.raises(InputError, match="no end-of-text token"):
        Tokenizer(copy)


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="the tokenizer cannot be read"):
        Tokenizer(tmp_path)
