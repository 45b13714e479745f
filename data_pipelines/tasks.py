"""The tasks: how a captioned motion becomes a sample. A new task is an object here, its wordings and its loss.

The wordings are in `llamo_jax/prompts.py`, the losses in `llamo_jax/training/losses.py`, under the same name.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float

from data_pipelines.order import stable_hash
from data_pipelines.packing import Sample, motion_to_text, text_to_motion
from llamo_jax import prompts
from llamo_jax.tokenizer import Tokenizer

PLAIN_SHARE = 0.5
"""How often the first wording of a task is used, which is inference's; in the rest of the draws each is as likely."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A motion and one of its texts, as they were drawn.

    Attributes:
      text: a sentence.
      latents: normalised.
      complete: the motion's true end follows the last latent.
      condition_dropout: share of samples without their text, where a task has such.
      one_wording: each text is always said in the same wording, as `Task.prefixes` has it.
    """

    text: str
    latents: Float[np.ndarray, "n Z"]
    complete: bool
    condition_dropout: float
    one_wording: bool = False


class Texts(Protocol):
    """What a task asks of a record."""

    captions: Sequence[str]
    requests: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is made of a motion and a text.

    Attributes:
      name: as in recipes and losses.
      text_follows: text comes after the motion.
      texts: record -> the texts that are drawn for this task.
      sample: (what was drawn, tokenizer, [EOM], random numbers) -> the sample.
      text_lengths: (text, tokenizer, [EOM]) -> tokens of the text stream, for each wording.
      prefixes: (text, tokenizer) -> all token ids that may come before the motion, where each text has one wording.
    """

    name: str
    text_follows: bool
    texts: Callable[[Texts], list[str]]
    sample: Callable[[Drawn, Tokenizer, int, np.random.Generator], Sample]
    text_lengths: Callable[[str, Tokenizer, int], list[int]]
    prefixes: Callable[[str, Tokenizer], list[list[int]]]


def wording(rng: np.random.Generator, count: int) -> int:
    """The number of one of `count` wordings."""
    return 0 if rng.random() < PLAIN_SHARE else int(rng.integers(count))


def _texts(record: Texts) -> list[str]:
    return [text for text in record.captions if text.strip()]


def _all_texts(record: Texts) -> list[str]:
    # By turns: where only the first of them are drawn, both kinds are.
    by_turns = itertools.chain.from_iterable(itertools.zip_longest(record.captions, record.requests))
    return [text for text in by_turns if text and text.strip()]


def _generate(drawn: Drawn, tokenizer: Tokenizer, eom_id: int, rng: np.random.Generator) -> Sample:
    del eom_id  # no text follows the motion
    if rng.random() < drawn.condition_dropout:
        prompt = prompts.unconditional_prompt(tokenizer)
    elif drawn.one_wording:
        prompt = _own_prompt(drawn.text, tokenizer)
    else:
        prompt = prompts.motion_prompt(tokenizer, drawn.text, wording(rng, len(prompts.TEXT_TO_MOTION)))
    return text_to_motion(prompt, drawn.latents, complete=drawn.complete)


def _own_prompt(text: str, tokenizer: Tokenizer) -> list[int]:
    own = np.random.default_rng(stable_hash(text))
    return prompts.motion_prompt(tokenizer, text, wording(own, len(prompts.TEXT_TO_MOTION)))


def _generate_lengths(text: str, tokenizer: Tokenizer, eom_id: int) -> list[int]:
    del eom_id
    return [len(prompts.motion_prompt(tokenizer, text, number)) for number in range(len(prompts.TEXT_TO_MOTION))]


def _generate_prefixes(text: str, tokenizer: Tokenizer) -> list[list[int]]:
    return [prompts.unconditional_prompt(tokenizer), _own_prompt(text, tokenizer)]


def _describe(drawn: Drawn, tokenizer: Tokenizer, eom_id: int, rng: np.random.Generator) -> Sample:
    before, after = prompts.caption_prompt(tokenizer, eom_id, wording(rng, len(prompts.MOTION_TO_TEXT)))
    return motion_to_text(before, drawn.latents, after, prompts.caption_target(tokenizer, drawn.text))


def _describe_lengths(text: str, tokenizer: Tokenizer, eom_id: int) -> list[int]:
    target = len(prompts.caption_target(tokenizer, text))
    around = [prompts.caption_prompt(tokenizer, eom_id, number) for number in range(len(prompts.MOTION_TO_TEXT))]
    return [len(before) + len(after) + target for before, after in around]


def _describe_prefixes(text: str, tokenizer: Tokenizer) -> list[list[int]]:
    del text  # it comes after the motion
    return [prompts.caption_prompt(tokenizer, 0, number)[0] for number in range(len(prompts.MOTION_TO_TEXT))]


TASKS = {
    task.name: task
    for task in (
        Task("t2m", False, _all_texts, _generate, _generate_lengths, _generate_prefixes),
        Task("m2t", True, _texts, _describe, _describe_lengths, _describe_prefixes),
    )
}
