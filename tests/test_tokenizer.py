"""Where a text ends: at a token that the LLM can say."""

import io
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer

from llamo_jax.config import LLMConfig
from llamo_jax.errors import InputError
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init
from llamo_jax.storage.huggingface import load_llm, load_tokenizer, save_llm
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


def write_llm(folder: Path, rows: int) -> Path:
    """A small LLM in a folder; returns the folder."""
    shape = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "ffn_width": 8}
    config = LLMConfig(vocab_size=rows, width=8, **shape)
    save_llm(folder, config, init(llamo.LLM, config, jax.random.key(0)), bos_id=1, eos_id=2)
    return folder


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
    copy = write_llm(Path(shutil.copytree(folder, tmp_path / "llm")), 100)
    with pytest.raises(InputError, match=r"the tokenizer has .* tokens and the LLM 100; they do not belong together"):
        load_tokenizer(copy)


def test_tokens_that_were_added_to_the_tokenizer_alone_are_not_the_llms(folder: Path, tmp_path: Path) -> None:
    """transformers loads such a folder, and such a token is past the end of the embeddings."""
    copy = Path(shutil.copytree(folder, tmp_path / "llm"))
    words = AutoTokenizer.from_pretrained(copy)
    words.add_special_tokens({"eos_token": "<|end|>", "extra_special_tokens": ["<|start|>"]})
    words.save_pretrained(copy)
    rows = len(Tokenizer(folder))
    tokenizer = load_tokenizer(write_llm(copy, rows))
    assert len(tokenizer) == rows + 2 and tokenizer.bos_id == tokenizer.eos_id == 1  # the LLM cannot say <|end|>
    assert tokenizer.encode("a person walks.") == Tokenizer(folder).encode("a person walks.")
    with pytest.raises(InputError, match=rf'"<\|start\|>" is token \d+, and the LLM has {rows}; expected a text'):
        tokenizer.encode("a person <|start|> walks.")


@pytest.mark.parametrize("known", [False, True])
def test_nothing_of_a_model_folder_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Code of a tokenizer, a config and a model beside a whole model; transformers has the tokenizer's class or not."""
    copy, ran = write_llm(Path(shutil.copytree(folder, tmp_path / "llm")), 280), tmp_path / "ran"
    maps = {
        "config.json": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
        "tokenizer_config.json": {"AutoTokenizer": ["own.Own", None]},
    }
    for name, auto_map in maps.items():
        values = json.loads((copy / name).read_text()) | {"auto_map": auto_map}
        if name == "tokenizer_config.json" and not known:
            values["tokenizer_class"] = "Own"
        (copy / name).write_text(json.dumps(values))
    (copy / "own.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast\n"
        "class Own(PreTrainedTokenizerFast): pass\n"
    )
    asked = []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append(True) or "y")
    if known:
        assert load_tokenizer(copy).encode("a person walks.")
    else:
        with pytest.raises(InputError, match=r"the tokenizer is code of its own \(auto_map .*nothing of a model"):
            load_tokenizer(copy)
    load_llm(copy)
    assert not ran.exists() and not asked


def test_a_sentencepiece_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a person walks.", "a person runs."] * 20), model_writer=(model := io.BytesIO()),
        model_type="bpe", vocab_size=40, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    values = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    pieces = SentencePieceProcessor(model_proto=model.getvalue())
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.encode("a person walks.") == pieces.encode("a person walks.")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (pieces.bos_id(), pieces.eos_id())
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue()[:-7])
    with pytest.raises(InputError, match=r"tokenizer\.model: not a SentencePiece model .*may be damaged"):
        Tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(InputError, match="needs the package sentencepiece; run `pip install sentencepiece`"):
        Tokenizer(tmp_path)


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
