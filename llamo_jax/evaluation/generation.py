"""Text-to-motion, measured: does a generated motion show what was asked and move like a body?"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from llamo_jax.evaluation.figure import Figure
from llamo_jax.evaluation.recogniser import Recogniser
from llamo_jax.evaluation.suite import Held, batches
from llamo_jax.motion import MotionClip, physics
from llamo_jax.motion.representation import MAX_SECONDS

_HAND_WORDS = {"hand", "hands", "arm", "arms", "wave", "waves", "waving", "raise", "raises", "raising"}
_WALK_WORDS = {"walk", "walks", "walking"}


class TextToMotion(Protocol):
    """What generates: `llamo_jax.load(...)`, or anything with the same method."""

    def generate(self, text: Sequence[str], *, seed: int, **settings) -> list[MotionClip]:
        """One clip for each sentence."""


@dataclasses.dataclass(frozen=True, eq=False)
class Generated:
    """What the figures were measured on, in the order of the held-out clips.

    Attributes:
      clips: one for each prompt.
      features: of each.
      long: the clips of the long generations.
      recognised, recognised_real: label name -> class, as the recogniser sees each generated and each real clip.
    """

    clips: list[MotionClip]
    features: list[Float[np.ndarray, "T 272"]]
    long: list[MotionClip]
    recognised: list[dict[str, str]]
    recognised_real: list[dict[str, str]]


@dataclasses.dataclass
class Generation:
    """Generates a motion for one caption of each held-out clip, and compares it with the clip.

    Figures have the same on the real clips as control, where there is one:

    - "Recognised <label> of generated": share whose label the recogniser sees;
    - "Wrong hand": clips whose labels name one hand while the other wrist rises higher;
    - "Walking speed" over clips whose labels say walk;
    - "Frechet distance" of the generated clips from the real ones in the recogniser's embedding. Its control is that of
      two halves of the real clips, the least that as many samples can show (it is biased upwards twice as much);
    - "Frozen" and "Exploded": clips of `long_seconds`, in which the exit head is ignored;
    - physical figures (`physics.summarise`), and the disagreement of position and rotation features.

    Attributes:
      recogniser: trained on real clips of the training split only; None leaves out what it judges, where clips have no
        labels.
      seed: of the samples.
      batch_size: prompts at once.
      max_seconds: where motions end that the exit head does not.
      long_seconds: length of the long generations.
      long_count: how many of those, spread evenly over the clips.
      settings: passed to `model.generate` (guidance, steps, solver, source).
      generated: set by `run`.
    """

    name: ClassVar[str] = "generation"
    recogniser: Recogniser | None
    seed: int = 0
    batch_size: int = 32
    max_seconds: float = MAX_SECONDS
    long_seconds: float = MAX_SECONDS
    long_count: int = 16
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    generated: Generated | None = None

    def run(self, model: TextToMotion, held: Held) -> Iterator[Figure]:
        """Generates, and yields the figures."""
        self.generated = made = self._generate(model, held)
        group = f"Text-to-motion, {len(held)} held-out captions"
        for figure in (
            *self._recognised(made, held),
            *_hands(made.clips, held),
            *_walks(made.clips, held),
            *self._frechet(made.features, held),
            *_long(made.long, self.long_seconds),
            *_bodies(made, held),
        ):
            yield dataclasses.replace(figure, group=group)

    def _generate(self, model: TextToMotion, held: Held) -> Generated:
        spread = np.linspace(0, len(held) - 1, min(self.long_count, len(held))).round().astype(int)
        long_prompts = [held.prompts[index] for index in spread]
        batches = -(-len(held) // self.batch_size) + -(-len(spread) // self.batch_size)
        with tqdm(total=batches, desc="generate", unit="batch", mininterval=1.0) as bar:
            clips = self._clips(model, held.prompts, bar, max_seconds=self.max_seconds)
            long = self._clips(model, long_prompts, bar, seconds=self.long_seconds)
        features = [clip.features() for clip in clips]
        seen = seen_real = [{} for _ in clips]
        if self.recogniser is not None:
            seen, seen_real = (_rows(self.recogniser.predict(rows)) for rows in (features, held.features))
        return Generated(clips, features, long, seen, seen_real)

    def _clips(self, model: TextToMotion, prompts: list[str], bar: tqdm, **length: float) -> list[MotionClip]:
        """Each batch draws from its own seed."""
        clips: list[MotionClip] = []
        for number, texts, count in batches(prompts, self.batch_size):
            clips += model.generate(texts, seed=self.seed + number, **length, **self.settings)[:count]
            bar.update()
        return clips

    def _recognised(self, made: Generated, held: Held) -> Iterator[Figure]:
        for name in () if self.recogniser is None else self.recogniser.classes:
            right, real = (_accuracy(seen, held.labels, name) for seen in (made.recognised, made.recognised_real))
            yield Figure(f"Recognised {name} of generated", 100 * right, "%", control=100 * real)
        # Corpora whose makers held whole combinations of labels back say so in a label.
        unseen = [i for i, labels in enumerate(held.labels) if labels.get("combination") == "unseen"]
        for name in ("action",):
            chosen = [i for i in unseen if name in held.labels[i] and name in made.recognised[i]]
            if chosen:
                right = sum(made.recognised[i][name] == held.labels[i][name] for i in chosen)
                note = f"{len(chosen)} clips of a combination of labels that training never saw"
                yield Figure(f"Recognised {name}, unseen combinations", 100 * right / len(chosen), "%", note=note)

    def _frechet(self, made: list[np.ndarray], held: Held) -> Iterator[Figure]:
        if self.recogniser is None:
            return
        embedded, real = (self.recogniser.embed(features) for features in (made, held.features))
        # Shuffled: held-out and familiar clips take turns in some corpora.
        mixed = np.random.default_rng(self.seed).permutation(len(real))
        halves = frechet_distance(real[mixed[::2]], real[mixed[1::2]])
        note = "control: two halves of the real clips"
        yield Figure("Frechet distance", frechet_distance(embedded, real), control=halves, note=note)


def named_hand(labels: Mapping[str, str]) -> str | None:
    """The hand that labels name: "left", "right", or None.

    Labels name a hand where their values have a word for it (hand, arm, wave, raise) and exactly one of the words left
    and right, as in {"content": "wave-left-hand"} or {"action": "wave", "side": "left"}; not in {"content":
    "walk-turn-left"} or {"side": "both"}.
    """
    words = _words(labels)
    sides = words & {"left", "right"}
    return sides.pop() if words & _HAND_WORDS and len(sides) == 1 and "both" not in words else None


def wrong_hand(joints: Float[np.ndarray, "T 22 3"], named: str) -> bool:
    """Whether the wrist that is not named ("left" or "right") rises higher, at its highest in the clip, than the named
    one."""
    left, right = physics.hand_heights(joints)
    return right > left if named == "left" else left > right


def frechet_distance(first: Float[np.ndarray, "N E"], second: Float[np.ndarray, "M E"]) -> float:
    """Fréchet distance of two sets of embeddings taken as Gaussians: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2), in
    float64.

    The trace of the square root is the sum of the square roots of the eigenvalues of S1^1/2 S2 S1^1/2, which is
    symmetric and positive, so that a singular covariance gives neither complex numbers nor a need for an offset. NaN
    for fewer than two samples in a set.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(first), len(second)) < 2:
        return float("nan")
    covariance, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0)).sum()
    difference = first.mean(0) - second.mean(0)
    return float(difference @ difference + np.trace(covariance) + np.trace(other) - 2 * shared)


def _hands(clips: list[MotionClip], held: Held) -> Iterator[Figure]:
    hands = [named_hand(labels) for labels in held.labels]
    chosen = [(made, real, hand) for made, real, hand in zip(clips, held.clips, hands, strict=True) if hand]
    if chosen:
        wrong, real = (sum(wrong_hand(row[side].joints, row[2]) for row in chosen) for side in (0, 1))
        yield Figure("Wrong hand", wrong, f"of {len(chosen)}", control=real)


def _walks(clips: list[MotionClip], held: Held) -> Iterator[Figure]:
    chosen = [index for index, labels in enumerate(held.labels) if _words(labels) & _WALK_WORDS]
    if chosen:
        speed, real = (
            float(np.nanmean([physics.travel_speed(each[i].joints, each[i].fps) for i in chosen]))
            for each in (clips, held.clips)
        )
        yield Figure("Walking speed", speed, "m/s", control=real, note=f"{len(chosen)} clips")


def _long(clips: list[MotionClip], seconds: float) -> Iterator[Figure]:
    unit = f"of {len(clips)} of {seconds:g} s"
    yield Figure("Frozen", sum(physics.freezes(clip.joints, clip.fps) for clip in clips), unit)
    yield Figure("Exploded", sum(physics.explodes(clip.joints, clip.fps) for clip in clips), unit)


def _bodies(made: Generated, held: Held) -> Iterator[Figure]:
    ours, real = (physics.summarise([clip.joints for clip in clips]) for clips in (made.clips, held.clips))
    feet = 100 * ours["foot_skating"]
    yield Figure("Jerk", ours["jerk"], "m/s^3", control=real["jerk"])
    yield Figure("Speed of standing feet", feet, "cm/s", control=100 * real["foot_skating"], note="own contacts")
    yield Figure("Depth under the floor", ours["penetration_mm"], "mm", control=real["penetration_mm"])
    yield Figure("Floating", 100 * ours["floating"], "% of frames", control=100 * real["floating"])
    yield Figure("Bone length drift", ours["bone_drift_mm"], "mm", control=real["bone_drift_mm"])
    disagreement = [physics.position_rotation_disagreement(features) for features in made.features]
    mean = physics.weighted_mean(disagreement, np.array([len(features) for features in made.features]))
    yield Figure("Positions against rotations", 1000 * mean, "mm")


def _accuracy(predicted: list[dict[str, str]], labels: list[Mapping[str, str]], name: str) -> float:
    hits = [seen[name] == truth[name] for seen, truth in zip(predicted, labels, strict=True) if name in truth]
    return sum(hits) / len(hits) if hits else float("nan")


def _rows(columns: dict[str, list[str]]) -> list[dict[str, str]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _words(labels: Mapping[str, str]) -> set[str]:
    return {word for value in labels.values() for word in re.findall(r"[a-z]+", value.lower())}
