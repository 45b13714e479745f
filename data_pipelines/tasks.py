"""The tasks: how a captioned motion becomes a sample. A new task is an object here, its wordings and its loss.

The wordings are in `llamo_jax/prompts.py`, the losses in `llamo_jax/training/losses.py`, under the same name.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from data_pipelines.order import stable_hash
from data_pipelines.packing import Sample, motion_to_text, text_to_motion
from llamo_jax import prompts
from llamo_jax.tokenizer import Tokenizer

PLAIN_SHARE = 0.5
"""How often the first wording of a task is used, which is inference's; in the rest of the draws each is as likely."""


class Said(NamedTuple):
    """A sentence that goes with a motion. A request is said as it is: no instruction is put around it."""

    text: str
    request: bool = False


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A motion and one of its sentences, as they were drawn.

    Attributes:
      said: the sentence.
      latents: normalised.
      complete: the motion's true end follows the last latent.
      condition_dropout: share of samples without their text, where a task has such.
      one_wording: each sentence is always said in the same wording, as `Task.prefixes` has it.
    """

    said: Said
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
    """What is made of a motion and a sentence.

    Attributes:
      name: as in recipes and losses.
      text_follows: text comes after the motion.
      texts: record -> the sentences that are drawn for this task.
      sample: (what was drawn, tokenizer, [EOM], random numbers) -> the sample.
      text_lengths: (sentence, tokenizer, [EOM]) -> tokens of text before and after the motion, for each wording.
      prefixes: (sentence, tokenizer) -> all token ids that may come before the motion, where each sentence has one
        wording.
    """

    name: str
    text_follows: bool
    texts: Callable[[Texts], list[Said]]
    sample: Callable[[Drawn, Tokenizer, int, np.random.Generator], Sample]
    text_lengths: Callable[[Said, Tokenizer, int], list[tuple[int, int]]]
    prefixes: Callable[[Said, Tokenizer], list[list[int]]]


def wording(rng: np.random.Generator, count: int) -> int:
    """The number of one of `count` wordings."""
    return 0 if rng.random() < PLAIN_SHARE else int(rng.integers(count))


def _captions(record: Texts) -> list[Said]:
    return [Said(text) for text in record.captions]


def _captions_and_requests(record: Texts) -> list[Said]:
    # By turns: where only the first of them are drawn, both kinds are.
    requests = [Said(text, request=True) for text in record.requests]
    pairs = itertools.zip_longest(_captions(record), requests)
    return [said for pair in pairs for said in pair if said is not None]


def _wordings(said: Said) -> int:
    return 1 if said.request else len(prompts.TEXT_TO_MOTION)


def _generate(drawn: Drawn, tokenizer: Tokenizer, eom_id: int, rng: np.random.Generator) -> Sample:
    del eom_id  # no text follows the motion
    if rng.random() < drawn.condition_dropout:
        prompt = prompts.unconditional_prompt(tokenizer)
    elif drawn.one_wording:
        prompt = _own_prompt(drawn.said, tokenizer)
    else:
        prompt = prompts.motion_prompt(tokenizer, drawn.said.text, wording(rng, _wordings(drawn.said)))
    return text_to_motion(prompt, drawn.latents, complete=drawn.complete)


def _own_prompt(said: Said, tokenizer: Tokenizer) -> list[int]:
    own = np.random.default_rng(stable_hash(said.text))
    return prompts.motion_prompt(tokenizer, said.text, wording(own, _wordings(said)))


def _generate_lengths(said: Said, tokenizer: Tokenizer, eom_id: int) -> list[tuple[int, int]]:
    del eom_id
    return [(len(prompts.motion_prompt(tokenizer, said.text, number)), 0) for number in range(_wordings(said))]


def _generate_prefixes(said: Said, tokenizer: Tokenizer) -> list[list[int]]:
    return [prompts.unconditional_prompt(tokenizer), _own_prompt(said, tokenizer)]


def _describe(drawn: Drawn, tokenizer: Tokenizer, eom_id: int, rng: np.random.Generator) -> Sample:
    before, after = prompts.caption_prompt(tokenizer, eom_id, wording(rng, len(prompts.MOTION_TO_TEXT)))
    return motion_to_text(before, drawn.latents, after, prompts.caption_target(tokenizer, drawn.said.text))


def _describe_lengths(said: Said, tokenizer: Tokenizer, eom_id: int) -> list[tuple[int, int]]:
    target = len(prompts.caption_target(tokenizer, said.text))
    around = [prompts.caption_prompt(tokenizer, eom_id, number) for number in range(len(prompts.MOTION_TO_TEXT))]
    return [(len(before), len(after) + target) for before, after in around]


def _describe_prefixes(said: Said, tokenizer: Tokenizer) -> list[list[int]]:
    del said  # it comes after the motion
    return [prompts.caption_prompt(tokenizer, 0, number)[0] for number in range(len(prompts.MOTION_TO_TEXT))]


TASKS = {
    task.name: task
    for task in (
        Task(
            "t2m",
            text_follows=False,
            texts=_captions_and_requests,
            sample=_generate,
            text_lengths=_generate_lengths,
            prefixes=_generate_prefixes,
        ),
        Task(
            "m2t",
            text_follows=True,
            texts=_captions,
            sample=_describe,
            text_lengths=_describe_lengths,
            prefixes=_describe_prefixes,
        ),
    )
}
