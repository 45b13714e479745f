"""Sentences in words that no training caption has: does the LLM's language carry over to motion?"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from tqdm import tqdm

from llamo_jax.evaluation.figure import Figure
from llamo_jax.evaluation.generation import Generation, TextToMotion
from llamo_jax.evaluation.recogniser import Recogniser
from llamo_jax.evaluation.suite import Held, batches
from llamo_jax.motion import MotionClip
from llamo_jax.motion.representation import MAX_SECONDS


class Wording(Protocol):
    """A sentence, and what it asks for.

    Attributes:
      text: the sentence.
      labels: label name -> class.
      kind: the label whose words are new, or "both" for all of them.
    """

    text: str
    labels: Mapping[str, str]
    kind: str


@dataclasses.dataclass
class Wordings:
    """Generates a motion for each sentence, and asks the recogniser what came.

    "Recognised <label> of unseen wordings" is the share of the sentences whose words for that label are new in which it
    is seen. Its control is the same of generated motions of the held-out clips' own captions, whose wordings training
    had.

    Attributes:
      recogniser: trained on real clips of the training split only.
      wordings: the sentences; those that ask for a class that the training split lacks are left out.
      control: the evaluator that generated motions of the held-out captions before; None leaves the control out.
      seed: of the samples.
      batch_size: prompts at once.
      max_seconds: where motions end that the exit head does not.
      settings: passed to `model.generate`.
      asked: the sentences that are left; set by `run`.
      clips, recognised: of each of those; set by `run`.
    """

    name: ClassVar[str] = "wordings"
    recogniser: Recogniser
    wordings: Sequence[Wording]
    control: Generation | None = None
    seed: int = 0
    batch_size: int = 32
    max_seconds: float = MAX_SECONDS
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    asked: list[Wording] = dataclasses.field(default_factory=list)
    clips: list[MotionClip] = dataclasses.field(default_factory=list)
    recognised: list[dict[str, str]] = dataclasses.field(default_factory=list)

    def run(self, model: TextToMotion, held: Held) -> Iterator[Figure]:
        """Generates, and yields the figures."""
        classes = self.recogniser.classes
        self.asked = [
            wording
            for wording in self.wordings
            if all(value in classes[name] for name, value in wording.labels.items() if name in classes)
        ]
        texts = [wording.text for wording in self.asked]
        self.clips, self.recognised = [], []
        if not texts:
            return
        for number, part, count in tqdm(list(batches(texts, self.batch_size)), desc="wordings", unit="batch"):
            made = model.generate(part, seed=self.seed + number, max_seconds=self.max_seconds, **self.settings)
            self.clips += made[:count]
        columns = self.recogniser.predict([clip.features() for clip in self.clips])
        self.recognised = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        for name in classes:
            right = [
                seen[name] == wording.labels[name]
                for seen, wording in zip(self.recognised, self.asked, strict=True)
                if wording.kind in (name, "both") and name in wording.labels
            ]
            if right:
                share, control = 100 * sum(right) / len(right), self._control(held, name)
                note = f"{len(right)} sentences" + (
                    "" if control is None else "; control: held-out captions, in words of training"
                )
                yield Figure(
                    f"Recognised {name} of unseen wordings", share, "%", "Unseen wordings", control=control, note=note
                )

    def _control(self, held: Held, name: str) -> float | None:
        if self.control is None or self.control.generated is None:
            return None
        seen = self.control.generated.recognised
        right = [row[name] == truth[name] for row, truth in zip(seen, held.labels, strict=True) if name in truth]
        return 100 * sum(right) / len(right) if right else None
