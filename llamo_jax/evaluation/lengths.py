"""How long motions are: the lengths that a model gives a sentence, against those of the recordings.

Takes of one label differ in length, so that a length is measured as a distribution: how far those of generated motions
are from those of recordings, whether the exit head's hazard is what is observed, and whether a motion stops while the
body still moves.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import stats
from tqdm import tqdm

from llamo_jax.config import SamplingConfig
from llamo_jax.errors import InputError
from llamo_jax.evaluation.figure import Figure
from llamo_jax.evaluation.suite import Held, batches
from llamo_jax.inference.buckets import padded_arrays
from llamo_jax.inference.decoding import draw, hazards, schedule, start, thresholds_of
from llamo_jax.motion import physics
from llamo_jax.motion.representation import FRAMES_PER_LATENT, LATENTS_PER_SECOND, MAX_SECONDS, decode_positions
from llamo_jax.pretrained import Llamo
from llamo_jax.prompts import motion_prompt, unconditional_prompt

BINS = 10
"""Of the reliability plot; the hazards of each add up to as many ends."""
NO_MORE = 1e-3
"""A motion that has not ended with this probability is not followed further."""
END_FRAMES = 4
"""The end of a motion, over which its joints' speed is taken."""
END_LATENTS = 16
"""So much of a recording's end goes through the VAE."""
REST = 0.25
"""A body that is slower than this share of its action's mean speed is not in the middle of it."""


class Recorded(Protocol):
    """A recording of the training split."""

    features: Float[np.ndarray, "T 272"]
    labels: Mapping[str, str]


class Take(NamedTuple):
    """What is asked of a recording: its length in latents, its labels, its last `END_LATENTS`, and the mean speed of
    its joints in m/s."""

    latents: int
    labels: Mapping[str, str]
    end: Float[np.ndarray, "T 272"]
    speed: float

    @classmethod
    def of(cls, features: Float[np.ndarray, "T 272"], labels: Mapping[str, str]) -> "Take":
        """Of a recording's features."""
        latents = _latents(features)
        end = features[: latents * FRAMES_PER_LATENT][-END_LATENTS * FRAMES_PER_LATENT :]
        speed = physics.mean_speed(decode_positions(features))
        return cls(latents, labels, end.copy(), speed)  # no view, which would hold the whole recording


class Drawn(NamedTuple):
    """What a model makes of a sentence.

    Attributes:
      latents: normalised, as far as the motion was followed.
      chances: of each length from 1 latent on; their sum is 1.
      length: drawn from the chances, in latents, as `generate(length="drawn")` draws it.
    """

    latents: Float[np.ndarray, "n Z"]
    chances: Float[np.ndarray, " n"]
    length: int

    @property
    def median(self) -> int:
        """The length of `generate(length="median")`."""
        return 1 + int((self.chances.cumsum() > 0.5).argmax())


@dataclasses.dataclass(frozen=True, eq=False)
class LabelLengths:
    """Lengths of one label value.

    Attributes:
      value: of the label.
      held: of the held-out takes, in latents.
      recorded: chances of each length from 1 latent on: those of the held-out takes and of the training split's takes
        with the same labels, where each held-out take has the same weight together with those that are like it.
      generated: the same of the motions for the held-out takes' captions.
      distance: Wasserstein-1 between the two, in latents.
      floor: the same between the held-out takes and the training split's that are like them; NaN where there are none.
    """

    value: str
    held: np.ndarray
    recorded: np.ndarray
    generated: np.ndarray
    distance: float
    floor: float


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The hazard against what is observed, on held-out takes.

    Attributes:
      predicted, observed: mean hazard of each bin of slots, and share of its slots at which the take does end.
      slots: how many each bin has.
      error: sum over the bins of |ends predicted - ends observed|, over all ends.
      chance: what that is on average where the hazards are right, by chance.
      ranks: for each take, the predicted chance of having ended by its end, spread evenly over its last slot: uniform
        in (0, 1) where the predicted distribution of lengths is right.
    """

    predicted: np.ndarray
    observed: np.ndarray
    slots: np.ndarray
    error: float
    chance: float
    ranks: np.ndarray

    @property
    def unevenness(self) -> float:
        """Largest distance of the ranks' distribution from the uniform one (Kolmogorov-Smirnov)."""
        return float(stats.kstest(self.ranks, "uniform").statistic)


@dataclasses.dataclass
class Lengths:
    """Draws a motion for one caption of each held-out clip, follows it until it has almost surely ended, and reads the
    takes themselves with their captions.

    - "Length distance": Wasserstein-1 of generated from recorded lengths of each value of the first label, in latents,
      averaged over the held-out clips; recorded are these and the training split's recordings that have all of their
      labels, so that both sides do the same things as often. Its control is that of the held-out recordings alone from
      those of the training split;
    - "Length error": mean absolute difference of the median length from the take's, in latents. Its control is what the
      median of the training split's recordings of the first label gives;
    - "Hazard calibration error" and "Unevenness of length ranks": `Calibration`. Their controls are what chance gives;
    - "Ends in mid-motion": motions of drawn length whose joints are faster in the last frames than those of 95 % of
      the training split's recordings of the first label, and than `REST` of their mean speed. The control is the same
      of the held-out recordings. All went through the VAE, whose roughness is no motion: "VAE jerk" measures it.

    Lengths beyond what a row of training holds count as that length on both sides, and a take that is longer as one
    that does not end.

    Attributes:
      train: recordings of the training split.
      labels: names of what captions say of recordings; they are compared by the first, without any all together.
      seed: of the samples.
      batch_size: prompts at once.
      max_seconds: where motions end that the exit head does not.
      max_latents: of the recordings that the model was trained on.
      sampling: how to draw.
      values, calibration: set by `run`.
    """

    name: ClassVar[str] = "lengths"
    train: Sequence[Recorded]
    labels: Sequence[str] = ()
    seed: int = 0
    batch_size: int = 32
    max_seconds: float = MAX_SECONDS
    max_latents: int | None = None
    sampling: SamplingConfig = SamplingConfig()
    values: list[LabelLengths] = dataclasses.field(default_factory=list)
    calibration: Calibration | None = None

    def run(self, model: Llamo, held: Held) -> Iterator[Figure]:
        """Draws, and yields the figures."""
        most = min(round(self.max_seconds * LATENTS_PER_SECOND), self.max_latents or 10**9)
        chosen = [i for i in range(len(held)) if _latents(held.features[i])]
        takes = [Take.of(held.features[i], held.labels[i]) for i in chosen]
        train = [Take.of(record.features, record.labels) for record in self.train if _latents(record.features)]
        if not takes or not train:
            return
        prompts = [held.prompts[i] for i in chosen]
        drawn = self._draw(model, prompts, most)
        for figure in (
            *self._distances(drawn, takes, train, most),
            *self._errors(drawn, takes, train, most),
            *self._calibration(model, prompts, [held.features[i] for i in chosen], most),
            *self._ends(model, drawn, takes, train, most),
        ):
            yield dataclasses.replace(figure, group=f"Lengths, {len(chosen)} held-out captions")

    def _draw(self, model: Llamo, prompts: list[str], most: int) -> list[Drawn]:
        drawn: list[Drawn] = []
        parts = list(batches(prompts, self.batch_size))
        for number, texts, count in tqdm(parts, desc="lengths", unit="batch", mininterval=1.0):
            keys = jax.vmap(lambda row, seed=self.seed + number: jax.random.fold_in(jax.random.key(seed), row))(
                jnp.arange(len(texts))
            )
            drawn += drawn_lengths(model, texts, keys, self.sampling, most=most)[:count]
        return drawn

    def _of(self, labels: Mapping[str, str]) -> str:
        return labels.get(self.labels[0], "") if self.labels else "all"

    def _distances(self, drawn: list[Drawn], takes: list[Take], train: list[Take], most: int) -> Iterator[Figure]:
        def key(take: Take) -> tuple[str | None, ...]:
            return tuple(take.labels.get(name) for name in self.labels)

        held, trained = (np.minimum([take.latents for take in side], most) for side in (takes, train))
        longest = max(held.max(), trained.max(), *(len(each.chances) for each in drawn))
        known: dict[tuple, np.ndarray] = {}
        for take, length in zip(train, trained, strict=True):
            known.setdefault(key(take), np.zeros(longest))[length - 1] += 1
        own = np.eye(longest)[held - 1]
        like = np.array([known.get(key(take), np.zeros(longest)) for take in takes])
        recorded, before = (_shares(lengths) for lengths in (own + like, like))
        generated = np.array([np.pad(each.chances, (0, longest - len(each.chances))) for each in drawn])
        values = np.array([self._of(take.labels) for take in takes])
        self.values = []
        for value in sorted(set(values)):
            rows = values == value
            alike = rows & like.any(1)
            self.values.append(
                LabelLengths(
                    str(value),
                    held[rows],
                    recorded[rows].mean(0),
                    generated[rows].mean(0),
                    distance=_wasserstein(generated[rows].mean(0), recorded[rows].mean(0)),
                    floor=_wasserstein(own[alike].mean(0), before[alike].mean(0)) if alike.any() else float("nan"),
                )
            )
        counts = np.array([len(each.held) for each in self.values])
        distance, floor = (
            physics.weighted_mean([getattr(each, name) for each in self.values], counts)
            for name in ("distance", "floor")
        )
        what = f"values of {self.labels[0]}" if self.labels else "value"
        note = f"Wasserstein, {len(self.values)} {what}; control: held-out recordings from the training split's"
        if longer := int((np.concatenate([held, trained]) == most).sum()):
            note += f"; {longer} of {most} latents or more, which count as {most}"
        yield Figure("Length distance", distance, "latents", control=floor, note=note)

    def _errors(self, drawn: list[Drawn], takes: list[Take], train: list[Take], most: int) -> Iterator[Figure]:
        held = np.minimum([take.latents for take in takes], most)
        medians = np.array([each.median for each in drawn])

        def guess(names: tuple[str, ...]) -> float:
            """The error of guessing the training median of these labels; of fewer where no recording has all."""
            lengths: dict[tuple, list[int]] = {}
            for take in train:
                key = tuple(take.labels.get(name) for name in names)
                for depth in range(len(key) + 1):
                    lengths.setdefault(key[:depth], []).append(min(take.latents, most))
            keys = [tuple(take.labels.get(name) for name in names) for take in takes]
            known = [next(key[:n] for n in range(len(key), -1, -1) if key[:n] in lengths) for key in keys]
            return float(np.abs(held - [np.median(lengths[key]) for key in known]).mean())

        names = tuple(self.labels[:2])
        error, control = float(np.abs(medians - held).mean()), guess(names[:1])
        note = f"bias {(medians - held).mean():+.1f}; control: the training median"
        note += f" of the {names[0]}" if names else ""
        note += f"; of {' and '.join(names)} {guess(names):.2f}" if len(names) > 1 else ""
        yield Figure("Length error", error, "latents", control=control, note=note)

    def _calibration(self, model: Llamo, prompts: list[str], takes: list[np.ndarray], most: int) -> Iterator[Figure]:
        found = []
        for first in range(0, len(prompts), self.batch_size):
            part = slice(first, first + self.batch_size)
            found += take_hazards(model, prompts[part], [take[: most * FRAMES_PER_LATENT] for take in takes[part]])
        ended = [_latents(take) <= most for take in takes]
        # Of a longer take its first slots are known, at none of which it ended.
        found = [row if whole else row[:-1] for row, whole in zip(found, ended, strict=True)]
        self.calibration = calibrate(found, ended, np.random.default_rng(self.seed))
        if not any(ended):
            return
        c, control = self.calibration, f"control: by chance, of {len(takes)} takes"
        note = f"ends misplaced among {len(c.slots)} bins of slots; {control}"
        yield Figure("Hazard calibration error", 100 * c.error, "% of ends", control=100 * c.chance, note=note)
        # The mean of Kolmogorov's distribution.
        chance = np.sqrt(np.pi / 2) * np.log(2) / np.sqrt(len(c.ranks))
        note = f"predicted chance of having ended by the take's end, against a uniform one; {control}"
        yield Figure("Unevenness of length ranks", 100 * c.unevenness, "%", control=100 * chance, note=note)

    def _ends(
        self, model: Llamo, drawn: list[Drawn], takes: list[Take], train: list[Take], most: int
    ) -> Iterator[Figure]:
        # What is cut at the most has not ended.
        ended = [(each.latents[: each.length], take) for each, take in zip(drawn, takes, strict=True)
                 if each.length < most]  # fmt: skip
        if not ended:
            return
        speeds: dict[str, list[float]] = {}
        whole: dict[str, list[float]] = {}
        for take, speed in zip(train, self._end_speeds(model, train), strict=True):
            speeds.setdefault(self._of(take.labels), []).append(speed)
            whole.setdefault(self._of(take.labels), []).append(take.speed)
        limits = {value: max(np.percentile(found, 95), REST * np.mean(whole[value])) for value, found in speeds.items()}
        pairs = [(latents, take) for latents, take in ended if self._of(take.labels) in limits]
        real = self._end_speeds(model, [take for _, take in pairs])
        generated = []
        for first in range(0, len(pairs), self.batch_size):
            made = model.codec.decode([latents for latents, _ in pairs[first : first + self.batch_size]])
            generated += map(end_speed, made)
        if pairs:
            limit = np.array([limits[self._of(take.labels)] for _, take in pairs])
            note = f"faster in the last {END_FRAMES} frames than 95 % of the training split's recordings of the label, "
            note += f"and than {REST:g} of their mean speed"
            share, control = (100 * float((np.array(side) > limit).mean()) for side in (generated, real))
            yield Figure("Ends in mid-motion", share, "%", control=control, note=note)

    def _end_speeds(self, model: Llamo, takes: list[Take]) -> list[float]:
        """Of recordings as the VAE gives them back."""
        found: list[float] = []
        for first in range(0, len(takes), self.batch_size):
            ends = [take.end for take in takes[first : first + self.batch_size]]
            found += map(end_speed, model.codec.decode(model.codec.encode(ends)))
        return found


def drawn_lengths(
    model: Llamo,
    texts: Sequence[str],
    keys: Any,
    sampling: SamplingConfig,
    *,
    most: int,
) -> list[Drawn]:
    """Motions of sentences, with the chance of each length.

    The latents are those of `model.generate` from the same keys. They do not depend on where the motion ends, so that
    one run gives the whole distribution of its length.

    Args:
      model: that draws.
      texts: one for each of B motions.
      keys: [B], as in `decoding.Decoding`.
      sampling: how to draw.
      most: latents after which a motion ends that the exit head does not end.

    Raises:
      InputError: the LLM has not as many positions.
    """
    prompts = [motion_prompt(model.tokenizer, text) for text in texts]
    _require_positions(model, max(map(len, prompts)) + most + 1)
    sides = [prompts, [unconditional_prompt(model.tokenizer)] * len(prompts)] if sampling.guided else [prompts]
    params, config = model.bundle.params, model.config
    thresholds = np.asarray(thresholds_of(keys))
    state = start(params, config, sides, room=most, keys=keys)
    times = schedule(params, sampling)
    latents, survival = [], []
    for _ in range(most):
        state, latent, _ = draw(params, config, sampling, times, state)
        latents.append(np.array(latent))
        survival.append(np.array(state.survival))  # copies: the state is donated
        if len(survival) > 1 and survival[-1].max() < NO_MORE:
            break
    rows, left = np.stack(latents, 1), np.stack(survival, 1)
    return [
        Drawn(row, _chances(own), _length(own, threshold))
        for row, own, threshold in zip(rows, left, thresholds, strict=True)
    ]


def take_hazards(
    model: Llamo, texts: Sequence[str], takes: Sequence[Float[np.ndarray, "T 272"]]
) -> list[Float[np.ndarray, " slots"]]:
    """The exit head's hazard at each slot of real takes, each read after its sentence: n + 1 slots for n latents."""
    latents, lengths = padded_arrays(model.codec.encode(list(takes)))
    prompts = [motion_prompt(model.tokenizer, text) for text in texts]
    _require_positions(model, max(map(len, prompts)) + latents.shape[1] + 1)
    state = start(model.bundle.params, model.config, [prompts], room=latents.shape[1] + 1)
    found = np.asarray(hazards(model.bundle.params, model.config, state, jnp.asarray(latents), jnp.asarray(lengths)))
    return [row[: length + 1] for row, length in zip(found, lengths, strict=True)]


def calibrate(
    hazards: Sequence[Float[np.ndarray, " slots"]], ended: Sequence[bool], random: np.random.Generator
) -> Calibration:
    """Compares the hazards at the slots of takes with where the takes end.

    Args:
      hazards: of each take.
      ended: whether a take ends at its last slot; if not it goes on, and has no rank.
      random: for the ranks.
    """
    p = np.concatenate([np.asarray(row, np.float64) for row in hazards])
    ends = np.concatenate(
        [whole & (np.arange(len(row)) == len(row) - 1) for row, whole in zip(hazards, ended, strict=True)]
    )
    order = p.argsort(kind="stable")
    mass = p[order].cumsum() - p[order] / 2
    bins = np.minimum((mass / mass[-1] * BINS).astype(int), BINS - 1)
    predicted, observed, variance = (
        np.bincount(bins, values[order], BINS) for values in (p, ends.astype(float), p * (1 - p))
    )
    slots = np.bincount(bins, minlength=BINS)
    kept = slots > 0
    # The mean of |x| of a normal x.
    chance = np.sqrt(2 / np.pi * variance).sum() / max(1, ends.sum())
    error = np.abs(predicted - observed).sum() / max(1, ends.sum())
    ranks = []
    for row in (row for row, whole in zip(hazards, ended, strict=True) if whole):
        survival = np.concatenate([[1.0], np.cumprod(1 - np.asarray(row, np.float64))])
        before, after = 1 - survival[-2:]
        ranks.append(before + random.random() * (after - before))
    return Calibration(
        predicted=predicted[kept] / slots[kept],
        observed=observed[kept] / slots[kept],
        slots=slots[kept],
        error=float(error),
        chance=float(chance),
        ranks=np.array(ranks),
    )


def _require_positions(model: Llamo, needed: int) -> None:
    if needed > (positions := model.config.text.max_positions):
        raise InputError(f"a sentence and its motion need {needed} positions; the LLM has {positions}: shorten either")


def end_speed(features: Float[np.ndarray, "T 272"]) -> float:
    """Mean speed of the joints in the last `END_FRAMES` frames, in m/s."""
    return physics.mean_speed(decode_positions(features[-END_FRAMES - 1 :]))


def _chances(survival: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Of lengths 1 to n, where element i is the probability that the motion goes on beyond i latents, i from 0."""
    ended = 1 - survival.astype(np.float64)
    ended = np.append(ended[1:], 1.0)  # a motion has at least one latent, and ends where it is not followed further
    return np.diff(ended, prepend=0.0)


def _shares(counts: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k n"]:
    """Rows that add up to 1; of a row without counts zeros."""
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1)


def _wasserstein(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Wasserstein-1 between chances of the lengths 1 to n."""
    return float(np.abs((a - b).cumsum()).sum())


def _length(survival: Float[np.ndarray, " n"], threshold: float) -> int:
    ended = 1 - survival[1:] > threshold
    return 1 + int(ended.argmax()) if ended.any() else len(survival)


def _latents(features: np.ndarray) -> int:
    return len(features) // FRAMES_PER_LATENT
