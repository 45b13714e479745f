"""Text-to-motion, measured: does a generated motion show what was asked, end in time and move like a body?"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from llamo_jax.errors import InputError
from llamo_jax.evaluation import physical
from llamo_jax.evaluation.recogniser import Recogniser
from llamo_jax.models.motion_vae import FRAMES_PER_LATENT
from llamo_jax.motion import FPS, MotionClip

_HAND_WORDS = {"hand", "hands", "arm", "arms", "wave", "waves", "waving", "raise", "raises", "raising"}
_WALK_WORDS = {"walk", "walks", "walking"}


class Example(Protocol):
    """A held-out record. One with `complete` false was cut, and its length says nothing."""

    features: Float[np.ndarray, "T 272"]
    captions: Sequence[str]
    labels: Mapping[str, str]


class TextToMotion(Protocol):
    """What generates: `llamo_jax.load(...)`, or anything with the same method."""

    def generate(self, text: Sequence[str], *, seed: int, **settings) -> list[MotionClip]:
        """One clip for each sentence."""


@dataclasses.dataclass(frozen=True, eq=False)
class GenerationResult:
    """Figures, and what they were measured on, in the order of the examples.

    Attributes:
      figures: name -> value (`evaluate_generation` lists them).
      prompts: the sentences.
      generated: a clip for each.
      real: the held-out clips they describe.
      recognised, recognised_real: label name -> class, as the recogniser sees each generated and each real clip.
      long: the clips of the long generations.
    """

    figures: dict[str, float]
    prompts: list[str]
    generated: list[MotionClip]
    real: list[MotionClip]
    recognised: list[dict[str, str]]
    recognised_real: list[dict[str, str]]
    long: list[MotionClip]


def evaluate_generation(
    model: TextToMotion,
    examples: Sequence[Example],
    recogniser: Recogniser | None,
    *,
    seed: int = 0,
    batch_size: int = 32,
    max_seconds: float = 20.0,
    long_seconds: float = 20.0,
    long_count: int = 16,
    progress: bool = True,
    **settings,
) -> GenerationResult:
    """Generates a motion for one caption of each held-out example and compares it with the example.

    Args:
      model: what generates.
      examples: held-out clips, un-normalised, with captions and labels; the caption of example i is number i modulo how many it has.
      recogniser: trained on real clips of the training split only; None leaves out what it judges, where clips have no labels.
      seed: of the samples.
      batch_size: prompts at once.
      max_seconds: where motions end that the exit head does not.
      long_seconds: length of the long generations, in which the exit head is ignored, that are searched for freezes and explosions.
      long_count: how many of those, spread evenly over the examples.
      progress: show a bar.
      settings: passed to `model.generate` (guidance, steps, solver, source).

    Returns:
      Figures, each `<name>` with `<name>_real`, the same on the real clips, as control where there is one:
      - `accuracy_<label>`: share whose label the recogniser sees;
      - `wrong_hand`: count of clips whose labels name one hand while the other wrist rises higher; `hand_clips`, of how many;
      - `walk_speed` in m/s over clips whose labels say walk, `walk_speed_ratio` to the real ones, `walk_clips`, of how many;
      - `exit_error_tokens`: mean absolute difference of length from the example's, in tokens of 4 frames, over complete examples that
        are no longer than `max_seconds`; `exit_error_tokens_constant`: what always guessing their median length would give;
        `exit_bias_tokens`: mean difference, positive where motions are too long;
      - `jerk`, `foot_skating`, `penetration_mm`, `floating`, `bone_drift_mm`, `frozen`, `exploded` (`physical.summarise`), `jerk_ratio`,
        `skating_ratio`, `disagreement_mm` between position and rotation features;
      - `frechet`: distance of the generated clips from the real ones in the recogniser's embedding, and `frechet_halves`: that of two
        halves of the real clips, the least that as many samples can show (it is biased upwards twice as much);
      - `long_frozen`, `long_exploded`: counts in the long generations, `long_clips`, of how many;
      - `clips`: number of examples.

    Raises:
      InputError: no examples, or an example without captions.
    """
    examples = list(examples)
    prompts = [_prompt(example, index) for index, example in enumerate(examples)]
    if not examples:
        raise InputError("no examples to evaluate on; expected at least one held-out clip with captions")
    spread = np.linspace(0, len(examples) - 1, min(long_count, len(examples))).round().astype(int)
    batches = -(-len(examples) // batch_size) + -(-len(spread) // batch_size)
    with tqdm(total=batches, desc="generate", unit="batch", disable=not progress, mininterval=1.0) as bar:
        generated = _generate(model, prompts, seed, batch_size, bar, max_seconds=max_seconds, **settings)
        long = _generate(model, [prompts[i] for i in spread], seed, batch_size, bar, seconds=long_seconds, **settings)
    real = [
        MotionClip.from_features(np.asarray(e.features), captions=tuple(e.captions), labels=dict(e.labels), name=getattr(e, "name", ""))
        for e in examples
    ]
    made, truth = [clip.features() for clip in generated], [np.asarray(example.features) for example in examples]
    labels = [example.labels for example in examples]
    figures: dict[str, float] = {"clips": len(examples)}
    recognised = recognised_real = [{} for _ in examples]
    if recogniser is not None:
        recognised, recognised_real = (_rows(recogniser.predict(features)) for features in (made, truth))
        for name in recogniser.classes:
            figures[f"accuracy_{name}"] = _accuracy(recognised, labels, name)
            figures[f"accuracy_{name}_real"] = _accuracy(recognised_real, labels, name)
        embedded, embedded_real = recogniser.embed(made), recogniser.embed(truth)
        figures["frechet"] = frechet_distance(embedded, embedded_real)
        # Shuffled: held-out and familiar clips take turns in some corpora.
        mixed = np.random.default_rng(seed).permutation(len(embedded_real))
        figures["frechet_halves"] = frechet_distance(embedded_real[mixed[::2]], embedded_real[mixed[1::2]])
    figures |= _hand_figures(generated, real, [named_hand(value) for value in labels])
    figures |= _walk_figures(generated, real, labels)
    figures |= _exit_figures(made, examples, max_seconds)
    figures |= _physical_figures(generated, real)
    figures["disagreement_mm"] = 1000 * physical.weighted_mean(
        [physical.position_rotation_disagreement(f) for f in made], np.array([len(f) for f in made])
    )
    figures |= {
        "long_clips": len(long),
        "long_frozen": sum(physical.freezes(clip.joints, clip.fps) for clip in long),
        "long_exploded": sum(physical.explodes(clip.joints, clip.fps) for clip in long),
    }
    return GenerationResult(figures, prompts, generated, real, recognised, recognised_real, long)


def named_hand(labels: Mapping[str, str]) -> str | None:
    """The hand that labels name: "left", "right", or None.

    Labels name a hand where their values have a word for it (hand, arm, wave, raise) and exactly one of the words left and right, as in
    {"content": "wave-left-hand"} or {"action": "wave", "side": "left"}; not in {"content": "walk-turn-left"} or {"side": "both"}.
    """
    words = _words(labels)
    sides = words & {"left", "right"}
    return sides.pop() if words & _HAND_WORDS and len(sides) == 1 and "both" not in words else None


def wrong_hand(joints: Float[np.ndarray, "T 22 3"], named: str) -> bool:
    """Whether the wrist that is not named ("left" or "right") rises higher, at its highest in the clip, than the named one."""
    left, right = physical.hand_heights(joints)
    return right > left if named == "left" else left > right


def frechet_distance(first: Float[np.ndarray, "N E"], second: Float[np.ndarray, "M E"]) -> float:
    """Fréchet distance of two sets of embeddings taken as Gaussians: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2), in float64.

    The trace of the square root is the sum of the square roots of the eigenvalues of S1^1/2 S2 S1^1/2, which is symmetric and positive, so
    that a singular covariance gives neither complex numbers nor a need for an offset. NaN for fewer than two samples in a set.
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


def _prompt(example: Example, index: int) -> str:
    if not len(example.captions):
        raise InputError(f'example {index} ("{getattr(example, "name", "")}") has no captions; expected at least one')
    return example.captions[index % len(example.captions)]


def _generate(model: TextToMotion, prompts: list[str], seed: int, batch_size: int, bar: tqdm, **settings) -> list[MotionClip]:
    """Batches of one shape: the last is filled up with its first prompt. Each batch draws from its own seed."""
    clips: list[MotionClip] = []
    for number, start in enumerate(range(0, len(prompts), batch_size)):
        chosen = prompts[start : start + batch_size]
        filler = [chosen[0]] * (batch_size - len(chosen)) if start else []
        clips += model.generate(chosen + filler, seed=seed + number, **settings)[: len(chosen)]
        bar.update()
    return clips


def _hand_figures(generated: list[MotionClip], real: list[MotionClip], hands: list[str | None]) -> dict[str, float]:
    chosen = [(g, r, hand) for g, r, hand in zip(generated, real, hands, strict=True) if hand]
    return {
        "hand_clips": len(chosen),
        "wrong_hand": sum(wrong_hand(g.joints, hand) for g, _, hand in chosen),
        "wrong_hand_real": sum(wrong_hand(r.joints, hand) for _, r, hand in chosen),
    }


def _walk_figures(generated: list[MotionClip], real: list[MotionClip], labels: list[Mapping[str, str]]) -> dict[str, float]:
    chosen = [index for index, value in enumerate(labels) if _words(value) & _WALK_WORDS]
    if not chosen:
        return {"walk_clips": 0}
    speed, real_speed = (
        float(np.nanmean([physical.travel_speed(clips[i].joints, clips[i].fps) for i in chosen])) for clips in (generated, real)
    )
    ratio = physical.ratio(speed, real_speed)
    return {"walk_clips": len(chosen), "walk_speed": speed, "walk_speed_real": real_speed, "walk_speed_ratio": ratio}


def _exit_figures(made: list[np.ndarray], examples: list[Example], max_seconds: float) -> dict[str, float]:
    lengths = [
        (len(features) // FRAMES_PER_LATENT, len(example.features) // FRAMES_PER_LATENT)
        for features, example in zip(made, examples, strict=True)
        if getattr(example, "complete", True) and len(example.features) <= max_seconds * FPS
    ]
    if not lengths:
        return {"exit_clips": 0}
    tokens, wanted = np.array(lengths).T
    return {
        "exit_clips": len(lengths),
        "exit_error_tokens": float(np.abs(tokens - wanted).mean()),
        "exit_error_tokens_constant": float(np.abs(np.median(wanted) - wanted).mean()),
        "exit_bias_tokens": float((tokens - wanted).mean()),
    }


def _physical_figures(generated: list[MotionClip], real: list[MotionClip]) -> dict[str, float]:
    figures = physical.summarise([clip.joints for clip in generated])
    control = physical.summarise([clip.joints for clip in real])
    figures |= {f"{name}_real": value for name, value in control.items()}
    return figures | {
        "jerk_ratio": physical.ratio(figures["jerk"], control["jerk"]),
        "skating_ratio": physical.ratio(figures["foot_skating"], control["foot_skating"]),
    }


def _accuracy(predicted: list[dict[str, str]], labels: list[Mapping[str, str]], name: str) -> float:
    hits = [seen[name] == truth[name] for seen, truth in zip(predicted, labels, strict=True) if name in truth]
    return sum(hits) / len(hits) if hits else float("nan")


def _rows(columns: dict[str, list[str]]) -> list[dict[str, str]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _words(labels: Mapping[str, str]) -> set[str]:
    return {word for value in labels.values() for word in re.findall(r"[a-z]+", value.lower())}
