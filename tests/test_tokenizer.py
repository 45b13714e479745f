"""Where a text ends: at a token that the LLM can say."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from llamo_jax.config import LLMConfig
from llamo_jax.errors import InputError
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init
from llamo_jax.storage.huggingface import load_tokenizer, save_llm
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


@pytest.mark.parametrize("tied", [True, False])
def test_an_end_that_the_llm_never_saw_gives_way_to_the_token_that_starts_texts(
    folder: Path, tmp_path: Path, tied: bool
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "llm"))
    shape = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "ffn_width": 8, "tie_embeddings": tied}
    config = LLMConfig(vocab_size=280, width=8, **shape)
    text = jax.tree.map(np.array, init(llamo.LLM, config, jax.random.key(0)))

    def eos_id() -> int:
        save_llm(copy, config, text, bos_id=1, eos_id=2)
        return load_tokenizer(copy).eos_id

    assert eos_id() == 2
    rows = text["embed" if tied else "head"]
    rows[[2, 100, 101]] = rows[100] * (1 + 1e-4 * np.arange(3)[:, None])  # tokens that never occurred in training
    assert eos_id() == 1


def test_a_tokenizer_of_another_llm_is_told(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "llm"))
    shape = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "ffn_width": 8}
    config = LLMConfig(vocab_size=100, width=8, **shape)
    save_llm(copy, config, init(llamo.LLM, config, jax.random.key(0)), bos_id=1, eos_id=2)
    with pytest.raises(InputError, match=r"the tokenizer has .* tokens and the LLM 100; they do not belong together"):
        load_tokenizer(copy)


def test_a_tokenizer_without_a_beginning_takes_the_llms_and_else_the_end(folder: Path, tmp_path: Path) -> None:
    """Qwen's tokenizers have no beginning of text; its config.json names <|endoftext|>."""
    copy = Path(shutil.copytree(folder, tmp_path / "qwen"))
    values = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in values.items() if key != "bos_token"})
    )
    assert Tokenizer(copy).bos_id == 2
    for bos, expected in ((7, 7), (None, 2), (5000, 2)):
        (copy / "config.json").write_text(json.dumps({"bos_token_id": bos}))
        assert Tokenizer(copy).bos_id == expected
    (copy / "tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in values.items() if key != "eos_token"})
    )
    with pytest.raises(InputError, match="no end-of-text token"):
        Tokenizer(copy)


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="the tokenizer cannot be read"):
        Tokenizer(tmp_path)
