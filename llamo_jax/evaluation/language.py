"""Is the LLM's text ability untouched? Logits of a fixed set of texts, against the LLM's own."""

import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from llamo_jax.convert.huggingface import load_llm
from llamo_jax.model import Llamo, text_logits

TEXTS = (
    "Once upon a time, there was a little girl who loved to play outside in the park.",
    "A person walks forward and then waves the left hand.",
    "The quick brown fox jumps over the lazy dog.",
    "If you heat water to one hundred degrees, it will boil; if you cool it below zero, it will freeze.",
    "Why did the dog run to the big red ball? It wanted to play with Tom and Lily.",
    "1, 2, 3, 4, 5: what comes next?",
)
"""Sentences of plain language; none of them follows a motion."""


def text_fidelity(model: Llamo, llm_folder: str | Path) -> dict[str, float]:
    """Compares a trained model's text logits with those of the LLM that it was made from.

    Args:
      model: `llamo_jax.load(bundle)`.
      llm_folder: the Hugging Face folder of the LLM as it was before any motion training.

    Returns:
      changed_logits: how many text logits are not bitwise those of the LLM as imported, before motion training.
      and, where PyTorch is installed, against transformers on the same folder in float32: logit_error (largest absolute difference),
      logit_error_relative (the largest difference over 1 + the logit's size, the measure of a float32 tolerance) and largest_logit.
    """
    config, text = load_llm(llm_folder)
    rows = [np.array([[model.tokenizer.bos_id, *model.tokenizer.encode(sentence)]]) for sentence in TEXTS]
    ours = [np.asarray(model.text_logits(row)) for row in rows]
    before = [np.asarray(text_logits(text, config, row)) for row in rows]
    figures = {"changed_logits": float(sum((a != b).sum() for a, b in zip(ours, before, strict=True)))}
    if importlib.util.find_spec("torch"):
        theirs = _transformers_logits(llm_folder, rows)
        errors = [(np.abs(a - b), np.abs(b)) for a, b in zip(ours, theirs, strict=True)]
        figures["logit_error"] = float(max(error.max() for error, _ in errors))
        figures["logit_error_relative"] = float(max((error / (1 + size)).max() for error, size in errors))
        figures["largest_logit"] = float(max(size.max() for _, size in errors))
    return figures


def _transformers_logits(folder: str | Path, rows: list[Int[np.ndarray, "1 T"]]) -> list[Float[np.ndarray, "1 T V"]]:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    llm = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    with torch.no_grad():
        return [llm(torch.from_numpy(row)).logits.numpy() for row in rows]
