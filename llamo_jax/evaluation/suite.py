"""Evaluators over held-out clips: what a model is measured by, one after the other."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.evaluation.figure import Aim, Figure, Judged
from llamo_jax.motion import MotionClip
from llamo_jax.pretrained import Llamo


class Example(Protocol):
    """A held-out record."""

    name: str
    features: Float[np.ndarray, "T 272"]
    captions: Sequence[str]
    labels: Mapping[str, str]


def batches(texts: Sequence[str], size: int) -> Iterator[tuple[int, list[str], int]]:
    """Number of each batch, its texts, and how many of them are asked for. All have one shape, for which a model is
    compiled: the last is filled up with its first text, unless it is the only one."""
    for number, first in enumerate(range(0, len(texts), size)):
        part = list(texts[first : first + size])
        yield number, part + [part[0]] * (size - len(part) if first else 0), len(part)


class Held:
    """Held-out clips, made once and shared by all evaluators. Nobody may have trained on them.

    Args:
      examples: un-normalised features, with captions and labels.

    Attributes:
      examples: as given.
      features: of each.
      labels: of each.
      captions: of each.

    Raises:
      InputError: there are none, or one has no captions.
    """

    def __init__(self, examples: Sequence[Example]):
        self.examples = list(examples)
        if not self.examples:
            raise InputError("no examples to evaluate on; expected at least one held-out clip with captions")
        for index, example in enumerate(self.examples):
            if not len(example.captions):
                raise InputError(f'example {index} ("{example.name}") has no captions; expected at least one')
        self.features = [np.asarray(example.features) for example in self.examples]
        self.labels = [dict(example.labels) for example in self.examples]
        self.captions = [tuple(example.captions) for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def clips(self) -> list[MotionClip]:
        """The clips themselves."""
        return [
            MotionClip.from_features(features, captions=captions, labels=labels, name=example.name)
            for example, features, captions, labels in zip(
                self.examples, self.features, self.captions, self.labels, strict=True
            )
        ]

    @cached_property
    def prompts(self) -> list[str]:
        """One caption of each: number i modulo how many it has."""
        return [captions[index % len(captions)] for index, captions in enumerate(self.captions)]


class Evaluator(Protocol):
    """Measures one side of a model."""

    name: str

    def run(self, model: Llamo, held: Held) -> Iterator[Figure]:
        """The figures, in the order of the report."""


def evaluate(
    model: Llamo,
    held: Held,
    evaluators: Iterable[Evaluator],
    aims: Mapping[str, Aim],
    *,
    measuring: Callable[[str], object] | None = None,
) -> list[Judged]:
    """The figures of all evaluators, each beside its aim.

    Args:
      model: what is measured.
      held: on what.
      evaluators: in the order of the report.
      aims: figure name -> aim.
      measuring: called with each evaluator's name, for a context manager that times it.
    """
    judged = []
    for evaluator in evaluators:
        if measuring is None:
            figures = list(evaluator.run(model, held))
        else:
            with measuring(evaluator.name):
                figures = list(evaluator.run(model, held))
        judged += [Judged(figure, aims.get(figure.name, Aim())) for figure in figures]
    return judged
