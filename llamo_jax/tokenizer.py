"""Tokenizers of Hugging Face folders, as the model uses them: no special tokens but those it places itself."""

from pathlib import Path
from typing import Any

from llamo_jax.errors import InputError
from llamo_jax.files import read_json


class Tokenizer:
    """The tokenizer of an LLM folder.

    Args:
      folder: of the LLM.
      bos_id: the token that starts every sequence, where it is known. None is the tokenizer's, else the LLM's (Qwen's
        tokenizers have none, its config.json names <|endoftext|>), else the one that ends a text.
      eos_id: the token that ends a text, where it is known. None is the tokenizer's; `huggingface.load_tokenizer` looks
        whether the LLM can say it.

    Raises:
      InputError: no tokenizer, one that cannot be read, or one without an end of text.
    """

    def __init__(self, folder: str | Path, *, bos_id: int | None = None, eos_id: int | None = None):
        from transformers import AutoTokenizer  # seconds to import: only where a tokenizer is used

        if not any((Path(folder) / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise InputError(f"{folder}: no tokenizer.json; expected a Hugging Face folder with its tokenizer")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise InputError(f"{folder}: the tokenizer cannot be read ({error})") from error
        if self._tokenizer.eos_token_id is None:
            expected = "expected an eos_token in tokenizer_config.json"
            raise InputError(f"{folder}: the tokenizer has no end-of-text token; {expected}")
        self.bos_id: int = _beginning(self._tokenizer, Path(folder)) if bos_id is None else bos_id
        self.eos_id: int = self._tokenizer.eos_token_id if eos_id is None else eos_id
        self._cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens. Remembered: training asks for the same sentences again and
        again."""
        if text not in self._cache:
            self._cache[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._cache[text]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def _beginning(tokenizer: Any, folder: Path) -> int:
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    found = config.get("bos_token_id") if isinstance(config, dict) else None
    return found if isinstance(found, int) and 0 <= found < len(tokenizer) else tokenizer.eos_token_id


def train_tokenizer(texts: list[str], vocab_size: int, folder: Path) -> None:
    """Trains a byte-level BPE tokenizer on texts and writes it into an existing folder as a Hugging Face tokenizer.

    Deterministic. Token 0 is <pad>, 1 is <s>, 2 is </s>.
    """
    from tokenizers import Tokenizer as Model
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = Model(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(str(folder))
