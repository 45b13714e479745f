"""Is the LLM's text ability untouched? Logits of a fixed set of texts, against the LLM's own."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from llamo_jax.evaluation.figure import Figure
from llamo_jax.evaluation.suite import Held
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


@dataclasses.dataclass
class Language:
    """Compares text logits with those of the LLM before motion training.

    Attributes:
      llm: the Hugging Face folder of that LLM.
    """

    name: ClassVar[str] = "language"
    llm: Path

    def run(self, model: Llamo, held: Held) -> Iterator[Figure]:
        """Yields the figures; the held-out clips are not looked at."""
        del held
        f, group = text_fidelity(model, self.llm), "Language"
        yield Figure("Text logits changed by motion training", f["changed_logits"], "", group, note="bitwise")
        if "logit_error" in f:
            note = (
                f"largest difference, float32, of logits up to {f['largest_logit']:.0f}. Against transformers in "
                f"float64: "
                f"ours {f['rounding_error']:.2g}, transformers in float32 {f['rounding_error_transformers']:.2g}"
            )
            yield Figure("Text logits against transformers", f["logit_error"], "", group, note=note)


def text_fidelity(model: Llamo, llm_folder: str | Path) -> dict[str, float]:
    """Compares a trained model's text logits with those of the LLM that it was made from.

    Args:
      model: `llamo_jax.load(bundle)`.
      llm_folder: the Hugging Face folder of the LLM as it was before any motion training.

    Returns:
      changed_logits: how many text logits are not bitwise those of the LLM as imported, before motion training.
      and, where PyTorch is installed, against transformers on the same folder: logit_error (largest absolute difference
      in float32), largest_logit, and what rounding alone does: rounding_error of ours and rounding_error_transformers
      of its float32, both against transformers in float64.
    """
    config, text = load_llm(llm_folder, unstacked=True)
    rows = [np.array([[model.tokenizer.bos_id, *model.tokenizer.encode(sentence)]]) for sentence in TEXTS]
    ours = [np.asarray(model.text_logits(row)) for row in rows]
    before = [np.asarray(text_logits(text, config, row)) for row in rows]
    # The weights may be bfloat16; the comparison with transformers is of float32 on both sides.
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), text)
    figures = {"changed_logits": float(sum((a != b).sum() for a, b in zip(ours, before, strict=True)))}
    if importlib.util.find_spec("torch"):
        theirs, exact = _transformers_logits(llm_folder, rows)
        ours = [np.asarray(text_logits(single, config, row)) for row in rows]
        figures["logit_error"] = _largest_difference(ours, theirs)
        figures["rounding_error"] = _largest_difference(ours, exact)
        figures["rounding_error_transformers"] = _largest_difference(theirs, exact)
        figures["largest_logit"] = max(float(np.abs(logits).max()) for logits in exact)
    return figures


def _largest_difference(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


def _transformers_logits(
    folder: str | Path, rows: list[Int[np.ndarray, "1 T"]]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits [1, T, V] of each row in float32 and in float64."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    llm = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, trust_remote_code=False).eval()
    with torch.no_grad():
        single = [llm(torch.from_numpy(row)).logits.numpy() for row in rows]
        llm = llm.double()
        return single, [llm(torch.from_numpy(row)).logits.numpy() for row in rows]
