"""Tokenizers of Hugging Face folders, as the model uses them: no special tokens but those it places itself."""

import math
from pathlib import Path
from typing import Any

from llamo_jax.errors import InputError
from llamo_jax.files import read_json

Turns = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Task -> token ids before and after what a person says."""


class Tokenizer:
    """The tokenizer of an LLM folder.

    Args:
      folder: of the LLM. Nothing in it is run.
      rows: of the LLM's embeddings, where it is known. Tokens beyond them were added to the tokenizer alone: the LLM
        does not know them.
      bos_id: the token that starts every sequence, where it is known. None is the tokenizer's, else the LLM's (Qwen's
        tokenizers have none, its config.json names <|endoftext|>), else the one that ends a text.
      eos_id: the token that ends a text, where it is known. None is the tokenizer's; `huggingface.load_tokenizer` looks
        whether the LLM can say it.
      turns: what stands around what a person says, where it is known. None is the token that starts a sequence, and
        nothing behind; `prompts.chat_turns` has those of the chat template.

    Raises:
      InputError: no tokenizer, one that cannot be read, one that is code, that of another LLM, or one without an end of
        text.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        rows: int | None = None,
        bos_id: int | None = None,
        eos_id: int | None = None,
        turns: Turns | None = None,
    ):
        self._folder, self._rows = Path(folder), math.inf if rows is None else rows
        self._tokenizer = _read(self._folder)
        if self._tokenizer.eos_token_id is None:
            expected = "expected an eos_token in tokenizer_config.json"
            raise InputError(f"{folder}: the tokenizer has no end-of-text token; {expected}")
        self.bos_id: int = _beginning(self._tokenizer, self._folder, self._rows) if bos_id is None else bos_id
        self.eos_id: int = self._tokenizer.eos_token_id if eos_id is None else eos_id
        if max(self._tokenizer.vocab_size, self.bos_id + 1) > self._rows:
            found = f"the tokenizer has {len(self)} tokens and the LLM {rows}"
            raise InputError(f"{folder}: {found}; they do not belong together")
        self.turns: Turns = dict.fromkeys(("t2m", "m2t"), ((self.bos_id,), ())) if turns is None else turns
        self._cache: dict[str, list[int]] = {}

    @property
    def chats(self) -> bool:
        """Whether there is a chat template."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Messages {"role", "content"} as the LLM's chat template writes them, up to where the LLM is to answer.

        Templates are Jinja in a sandbox, which runs no code of the model's.

        Raises:
          InputError: the template refuses them, or is damaged.
        """
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # Jinja's and the template's own
            raise InputError(f"{self._folder}: the chat template failed ({_line(error)})") from error

    def __len__(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens. Remembered: training asks for the same sentences again and
        again.

        Raises:
          InputError: the text has a token that was added to the tokenizer alone.
        """
        if text not in self._cache:
            ids = self._tokenizer.encode(text, add_special_tokens=False)
            if beyond := [token for token in ids if token >= self._rows]:
                name = self._tokenizer.convert_ids_to_tokens(beyond[0])
                found = f'"{name}" is token {beyond[0]}, and the LLM has {self._rows}'
                raise InputError(f"{self._folder}: {found}; expected a text without it")
            self._cache[text] = ids
        return self._cache[text]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def _read(folder: Path) -> Any:
    if (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists():
        _require_sentencepiece(folder / "tokenizer.model")
    elif not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        raise InputError(f"{folder}: no tokenizer.json; expected a Hugging Face folder with its tokenizer")
    from transformers import AutoTokenizer  # seconds to import: only where a tokenizer is used

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception
        if "trust_remote_code" in str(error) and (code := _own_code(folder)):
            raise InputError(
                f"{folder}: the tokenizer is code of its own ({code}), and nothing of a model folder is run; expected "
                f"one that transformers has"
            ) from error
        raise InputError(f"{folder}: the tokenizer cannot be read ({_line(error)})") from error


def _require_sentencepiece(path: Path) -> None:
    """Looks at a tokenizer.model itself: transformers takes one that is damaged for another format."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise InputError(f"{path}: needs the package sentencepiece; run `pip install sentencepiece`") from error
    try:
        SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: not a SentencePiece model ({_line(error)}); the download may be damaged") from error


def _own_code(folder: Path) -> str | None:
    """What a tokenizer_config.json names as the code of its tokenizer."""
    values = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    found = values.get("auto_map") if isinstance(values, dict) else None
    return f"auto_map in tokenizer_config.json: {found!r:.80}" if found else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _beginning(tokenizer: Any, folder: Path, rows: float) -> int:
    if (own := tokenizer.bos_token_id) is not None and own < rows:
        return own
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    found = config.get("bos_token_id") if isinstance(config, dict) else None
    return found if type(found) is int and 0 <= found < min(len(tokenizer), rows) else tokenizer.eos_token_id


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
