"""The tasks: how a captioned motion becomes a sample. A new task is an object here, its wordings and its loss.

The wordings are in `llamo_jax/prompts.py`, the losses in `llamo_jax/training/losses.py`, under the same name.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from data_pipelines.packing import Sample, motion_to_text, text_to_motion
from llamo_jax import prompts
from llamo_jax.tokenizer import Tokenizer

PLAIN_SHARE = 0.5
"""How often the first wording of a task is used, which is inference's; in the rest of the draws each is as likely."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A motion and one of its captions, as they were drawn.

    Attributes:
      caption: a sentence.
      latents: normalised.
      complete: the motion's true end follows the last latent.
      condition_dropout: share of samples without their text, where a task has such.
    """

    caption: str
    latents: Float[np.ndarray, "n Z"]
    complete: bool
    condition_dropout: float


@dataclasses.dataclass(frozen=True)
class Task:
    """What is made of a motion and a caption.

    Attributes:
      name: as in recipes and losses.
      sample: (what was drawn, tokenizer, [EOM], random numbers) -> the sample.
      text_lengths: (caption, tokenizer, [EOM]) -> tokens of the text stream, for each wording.
    """

    name: str
    sample: Callable[[Drawn, Tokenizer, int, np.random.Generator], Sample]
    text_lengths: Callable[[str, Tokenizer, int], list[int]]


def wording(rng: np.random.Generator, count: int) -> int:
    """The number of one of `count` wordings."""
    return 0 if rng.random() < PLAIN_SHARE else int(rng.integers(count))


def _generate(drawn: Drawn, tokenizer: Tokenizer, eom_id: int, rng: np.random.Generator) -> Sample:
    del eom_id  # no text follows the motion
    if rng.random() < drawn.condition_dropout:
        prompt = prompts.unconditional_prompt(tokenizer)
    else:
        prompt = prompts.motion_prompt(tokenizer, drawn.caption, wording(rng, len(prompts.TEXT_TO_MOTION)))
    return text_to_motion(prompt, drawn.latents, complete=drawn.complete)


def _generate_lengths(caption: str, tokenizer: Tokenizer, eom_id: int) -> list[int]:
    del eom_id
    return [len(prompts.motion_prompt(tokenizer, caption, number)) for number in range(len(prompts.TEXT_TO_MOTION))]


def _describe(drawn: Drawn, tokenizer: Tokenizer, eom_id: int, rng: np.random.Generator) -> Sample:
    before, after = prompts.caption_prompt(tokenizer, eom_id, wording(rng, len(prompts.MOTION_TO_TEXT)))
    return motion_to_text(before, drawn.latents, after, prompts.caption_target(tokenizer, drawn.caption))


def _describe_lengths(caption: str, tokenizer: Tokenizer, eom_id: int) -> list[int]:
    target = len(prompts.caption_target(tokenizer, caption))
    around = [prompts.caption_prompt(tokenizer, eom_id, number) for number in range(len(prompts.MOTION_TO_TEXT))]
    return [len(before) + len(after) + target for before, after in around]


TASKS = {
    task.name: task
    for task in (
        Task("t2m", sample=_generate, text_lengths=_generate_lengths),
        Task("m2t", sample=_describe, text_lengths=_describe_lengths),
    )
}
