"""Is the LLM's text ability untouched? Logits of a fixed set of texts and chat replies, against the LLM's own; and how
likely it holds other texts."""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llamo_jax.config import LLMConfig
from llamo_jax.errors import InputError
from llamo_jax.evaluation.figure import Figure
from llamo_jax.evaluation.suite import Held
from llamo_jax.inference.buckets import padded_tokens
from llamo_jax.inference.text import complete_tokens
from llamo_jax.models import llamo
from llamo_jax.motion.physics import ratio
from llamo_jax.pretrained import Llamo, text_logits
from llamo_jax.storage.huggingface import load_llm

TEXTS = (
    "Once upon a time, there was a little girl who loved to play outside in the park.",
    "A person walks forward and then waves the left hand.",
    "The quick brown fox jumps over the lazy dog.",
    "If you heat water to one hundred degrees, it will boil; if you cool it below zero, it will freeze.",
    "Why did the dog run to the big red ball? It wanted to play with Tom and Lily.",
    "1, 2, 3, 4, 5: what comes next?",
)
"""Sentences of plain language; none of them follows a motion."""

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue? Answer in one sentence.",
    "Write one sentence about a dog who likes to dance.",
)
"""What an LLM with a chat template is asked."""

REPLY_TOKENS = 40

DOUBLE_PARAMETERS = 1_000_000_000
"""LLMs of more are not compared in float64, where they would take over 8 GB beside their float32 copies."""


class Chat(NamedTuple):
    """A question, and the replies of the LLM before motion training and of the trained model; greedy. `ids` are both as
    tokens."""

    question: str
    before: str
    after: str
    ids: tuple[list[int], ...] = ([], [])


@dataclasses.dataclass
class Language:
    """Compares text logits, and chat replies where there is a chat template, with those of the LLM before motion
    training.

    Attributes:
      llm: the Hugging Face folder of that LLM.
      chats: set by `run`.
    """

    name: ClassVar[str] = "language"
    llm: Path
    chats: list[Chat] = dataclasses.field(default_factory=list)

    def run(self, model: Llamo, held: Held) -> Iterator[Figure]:
        """Yields the figures; the held-out clips are not looked at."""
        del held
        f, group = text_fidelity(model, self.llm), "Language"
        yield Figure("Text logits changed by motion training", f["changed_logits"], "", group, note="bitwise")
        if "logit_error" in f:
            name, scale = "Text logits' distance from float64 over transformers'", f"{f['largest_logit']:.0f}"
            absolute = f"at most {f['logit_error']:.2g} between the two in float32, of logits up to {scale}"
            if "rounding_error" in f:
                ours, theirs = f["rounding_error"], f["rounding_error_transformers"]
                note = (
                    f"root mean squares from transformers in float64: ours in float32 {ours:.2g}, its own {theirs:.2g}"
                )
                yield Figure(name, ratio(ours, theirs), "x", group, note=f"{note}; {absolute}")
            else:
                note = f"the LLM is too large for float64 here; float32 on both sides, logits up to {scale}"
                yield Figure("Text logits against transformers", f["logit_error"], "", group, note=note)
        if model.tokenizer.chats:
            try:
                self.chats = chat_replies(model, self.llm)
            except InputError as error:
                # The other figures are not lost with this one.
                yield Figure("Chat replies changed", math.nan, "", group, note=f"not asked: {error}")
                return
            changed = sum(chat.ids[0] != chat.ids[1] for chat in self.chats)
            note = f"greedy, {REPLY_TOKENS} tokens"
            yield Figure("Chat replies changed", changed, f"of {len(self.chats)}", group, note=note)


def text_fidelity(model: Llamo, llm_folder: str | Path) -> dict[str, float]:
    """Compares a trained model's text logits with those of the LLM that it was made from.

    Args:
      model: `llamo_jax.load(bundle)`.
      llm_folder: the Hugging Face folder of the LLM as it was before any motion training.

    Returns:
      changed_logits: how many text logits are not bitwise those of the LLM as imported, before motion training.
      and, where PyTorch is installed, against transformers on the same folder: logit_error (largest absolute difference
      in float32), largest_logit, and, for LLMs of at most `DOUBLE_PARAMETERS`, what rounding alone does: rounding_error
      of ours and rounding_error_transformers of its float32, both root mean squares of differences from transformers in
      float64. (The largest difference is one token's luck: it changes by a third with the number of threads.)
    """
    config, text = load_llm(llm_folder, unstacked=True)
    rows = [np.array([[model.tokenizer.bos_id, *model.tokenizer.encode(sentence)]]) for sentence in TEXTS]
    ours = [np.asarray(model.text_logits(row)) for row in rows]
    before = [np.asarray(text_logits(text, config, row)) for row in rows]
    # The weights may be bfloat16; the comparison with transformers is of float32 on both sides.
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), text)
    figures = {"changed_logits": float(sum((a != b).sum() for a, b in zip(ours, before, strict=True)))}
    if importlib.util.find_spec("torch"):
        ours = [np.asarray(text_logits(single, config, row)) for row in rows]
        double = sum(leaf.size for leaf in jax.tree.leaves(text)) <= DOUBLE_PARAMETERS
        del single, text
        theirs, exact = _transformers_logits(llm_folder, rows, double=double)
        figures["logit_error"] = _largest_difference(ours, theirs)
        if exact:
            figures["rounding_error"] = _distance(ours, exact)
            figures["rounding_error_transformers"] = _distance(theirs, exact)
        figures["largest_logit"] = max(float(np.abs(logits).max()) for logits in theirs)
    return figures


def chat_replies(model: Llamo, llm_folder: str | Path) -> list[Chat]:
    """Replies to `QUESTIONS` of the LLM alone, as it was, and of a trained model.

    Args:
      model: `llamo_jax.load(bundle)`, whose tokenizer has a chat template.
      llm_folder: the Hugging Face folder of the LLM as it was before any motion training.
    """
    config, text = load_llm(llm_folder, dtype=model.bundle.params["text"]["embed"].dtype, unstacked=True)
    # Reading text takes nothing of the motion side but the vector of [EOM], which no chat has.
    alone = {"text": text, "motion": {"eom": jnp.zeros_like(text["embed"][0])}}
    chats = []
    for question in QUESTIONS:
        asked = model.tokenizer.encode(model.tokenizer.chat([{"role": "user", "content": question}]))
        if (needed := len(asked) + REPLY_TOKENS) > config.max_positions:
            raise InputError(f"a chat of {needed} tokens; the LLM has {config.max_positions} positions")
        replies = [
            complete_tokens(params, config, asked, eos_id=model.tokenizer.eos_id, max_tokens=REPLY_TOKENS)
            for params, config in (
                (alone, dataclasses.replace(model.config, text=config)),
                (model.bundle.params, model.config),
            )
        ]
        chats.append(Chat(question, *(model.tokenizer.decode(ids).strip() for ids in replies), ids=tuple(replies)))
    return chats


def perplexity(model: Llamo, sentences: Sequence[str], *, batch_size: int = 8) -> float:
    """exp of the mean negative log likelihood of the tokens of sentences, under the LLM alone, each after [BOS]; NaN
    for no tokens."""
    rows = [[model.tokenizer.bos_id, *model.tokenizer.encode(sentence.strip())] for sentence in sentences]
    total, count = 0.0, sum(len(row) - 1 for row in rows)
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        # Padding behind changes nothing before it; rows of nothing fill the last batch.
        tokens, lengths = padded_tokens([*part, *[part[0][:1]] * (batch_size - len(part))])
        total += float(_nll(model.bundle.params["text"], model.config.text, tokens, lengths))
    return math.exp(total / count) if count else math.nan


@functools.partial(jax.jit, static_argnums=1)
def _nll(
    text: dict[str, Any], config: LLMConfig, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
) -> Float[Array, ""]:
    likelihood = jax.nn.log_softmax(llamo.text_logits(text, config, tokens)[:, :-1])
    said = jnp.take_along_axis(likelihood, tokens[:, 1:, None], -1)[..., 0]
    return -jnp.where(jnp.arange(1, tokens.shape[1]) < lengths[:, None], said, 0).sum()


def _distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """The root mean square of all differences."""
    squares = [np.square(np.asarray(a, np.float64) - b) for a, b in zip(first, second, strict=True)]
    return float(np.concatenate([each.ravel() for each in squares]).mean() ** 0.5)


def _largest_difference(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


def _transformers_logits(
    folder: str | Path, rows: list[Int[np.ndarray, "1 T"]], *, double: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits [1, T, V] of each row in float32 and, where asked, in float64."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    llm = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, trust_remote_code=False).eval()
    with torch.no_grad():
        single = [llm(torch.from_numpy(row)).logits.numpy() for row in rows]
        if not double:
            return single, []
        llm = llm.double()
        return single, [llm(torch.from_numpy(row)).logits.numpy() for row in rows]
