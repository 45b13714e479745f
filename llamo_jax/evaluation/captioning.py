"""Do captions name what is in the motion, and are they sentences that a person would write?"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from llamo_jax.errors import InputError
from llamo_jax.evaluation.figure import Figure
from llamo_jax.evaluation.language import perplexity
from llamo_jax.evaluation.suite import Held
from llamo_jax.motion.physics import ratio
from llamo_jax.pretrained import Llamo


@dataclasses.dataclass
class Captioning:
    """Captions every held-out clip. Where captions are made from labels, it looks whether they name the right ones.

    - "Perplexity of captions": of the generated captions under the LLM alone, as a factor on that of as many of the
      training split, or of the held-out clips' where none are known;
    - "Invented words": different words in generated captions that no recorded caption has, in training or held out.

    Attributes:
      facts: the labels that a caption names.
      label_names: which labels captions speak of; with none, captions are made and not judged by them.
      known: captions of the training split, whose words are no inventions.
      batch_size: clips at once.
      captions: set by `run`.
    """

    name: ClassVar[str] = "captions"
    facts: Callable[[str], Mapping[str, str | None]]
    label_names: tuple[str, ...]
    known: Sequence[str] = ()
    batch_size: int = 32
    captions: list[str] = dataclasses.field(default_factory=list)

    def run(self, model: Llamo, held: Held) -> Iterator[Figure]:
        """Captions, and yields the figures."""
        starts = range(0, len(held), self.batch_size)
        self.captions = [text for i in starts for text in model.caption(held.clips[i : i + self.batch_size])]
        group = f"Motion-to-text, {len(held)} held-out clips"
        if self.label_names:
            found = caption_accuracy(self.captions, held.labels, self.facts, held.captions, self.label_names)
            for name, value in found.items():
                yield Figure(f"Captions: {name.replace('_', ' ')}", 100 * value, "%", group)
        training = self.known or held.prompts
        sample = training[:: max(1, len(training) // len(held))]
        ours, recorded = perplexity(model, self.captions), perplexity(model, sample)
        note = f"under the LLM alone: {ours:.1f} generated, {recorded:.1f} of {len(sample)} of training"
        yield Figure("Perplexity of captions", ratio(ours, recorded), "x", group, note=note)
        invented = invented_words(self.captions, [*self.known, *(text for texts in held.captions for text in texts)])
        examples = ", ".join(list(invented)[:12])
        yield Figure("Invented words", len(invented), "", group, note=examples or f"in {len(held)} captions")

    def right(self, held: Held, index: int) -> bool | None:
        """Whether a caption names the right labels; None where there is nothing to judge."""
        truth = {name: value for name, value in held.labels[index].items() if name in self.label_names}
        named = self.facts(self.captions[index])
        return all(named.get(name) == value for name, value in truth.items()) if truth else None


def caption_accuracy(
    captions: Sequence[str],
    labels: Sequence[Mapping[str, str]],
    classify: Callable[[str], Mapping[str, str]],
    references: Sequence[Sequence[str]] | None = None,
    label_names: Collection[str] | None = None,
) -> dict[str, float]:
    """How often captions name the labels of their motion.

    Args:
      captions: one a motion.
      labels: label name -> class of each motion. A label that a motion lacks is not scored there.
      classify: which labels a caption names, as the data set's builder inverts the templates that its captions were
        made from. A label it leaves out is not named, and counts as wrong.
      references: the true captions of each motion; None leaves out `exact_match`.
      label_names: which labels to score; None is all. Leave out those that no caption speaks of, such as which
        recording it was.

    Returns:
      `<label>` for each label name (share of captions that name the right class), `all_labels` (share that name all of
      them, of the motions that have any), and `exact_match` (share that equal a reference but for case, punctuation and
      spaces).

    Raises:
      InputError: the sequences have different lengths or are empty.
    """
    lengths = {"captions": len(captions), "labels": len(labels)} | (
        {} if references is None else {"references": len(references)}
    )
    if len(set(lengths.values())) > 1 or not captions:
        raise InputError(f"caption_accuracy got {lengths}; expected as many of each, and at least one")
    named = [classify(caption) for caption in captions]
    if label_names is not None:
        labels = [{name: value for name, value in truth.items() if name in label_names} for truth in labels]
    right: dict[str, list[bool]] = {}
    for found, truth in zip(named, labels, strict=True):
        for name, value in truth.items():
            right.setdefault(name, []).append(found.get(name) == value)
    figures = {name: sum(values) / len(values) for name, values in sorted(right.items())}
    figures["all_labels"] = _share(
        all(found.get(name) == value for name, value in truth.items())
        for found, truth in zip(named, labels, strict=True)
        if truth
    )
    if references is not None:
        figures["exact_match"] = _share(
            _plain(caption) in {_plain(reference) for reference in group}
            for caption, group in zip(captions, references, strict=True)
        )
    return figures


def invented_words(captions: Iterable[str], recorded: Iterable[str]) -> list[str]:
    """Words of captions that no recorded caption has, each once, in the order in which they come; case does not
    count."""
    known = {word for text in recorded for word in _words(text)}
    return [word for word in dict.fromkeys(w for text in captions for w in _words(text)) if word not in known]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower())


def _share(hits: Iterable[bool]) -> float:
    hits = list(hits)
    return sum(hits) / len(hits) if hits else float("nan")


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
