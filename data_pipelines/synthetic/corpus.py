"""The procedural corpus: which actions, in what variations, in which split."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_pipelines.synthetic.actions import ACTIONS
from data_pipelines.synthetic.body import Body, Track, pose_body
from data_pipelines.synthetic.captions import captions_of, sequence_captions
from data_pipelines.synthetic.gait import Plan
from llamo_jax.errors import InputError
from llamo_jax.motion import FPS, MotionClip

SPEEDS = {"slow": 0.68, "normal": 1.0, "fast": 1.5}
"""Pace of each speed word; bodies differ by 6 % either way."""

_SIDED = ("left", "right")
_HANDED = ("left", "right", "both")
_SPEEDS = tuple(SPEEDS)

# Action -> (sides, speeds, counts, share of the corpus).
VARIATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...], float]] = {
    "walk": (("none", "left", "right"), _SPEEDS, (1,), 1.6),
    "walk_backward": (("none",), _SPEEDS, (1,), 0.7),
    "sidestep": (_SIDED, _SPEEDS, (1,), 1.0),
    "run": (("none",), _SPEEDS, (1,), 0.8),
    "turn": (_SIDED, _SPEEDS, (1,), 1.0),
    "jump": (("none",), ("normal",), (1, 2, 3), 0.8),
    "wave": (_HANDED, _SPEEDS, (1,), 1.5),
    "raise": (_HANDED, _SPEEDS, (1,), 1.5),
    "kick": (_SIDED, ("normal", "fast"), (1, 2), 1.2),
    "squat": (("none",), _SPEEDS, (1, 2), 0.9),
    "bow": (("none",), _SPEEDS, (1, 2), 0.9),
    "sit": (("none",), _SPEEDS, (1,), 0.7),
    "stand": (("none",), ("normal",), (1,), 0.4),
}

HELD_OUT: frozenset[tuple[str, str, str, int]] = frozenset({
    ("kick", "left", "fast", 2), ("kick", "right", "fast", 2), ("squat", "none", "fast", 2), ("bow", "none", "slow", 2),
})  # fmt: skip
"""(action, side, speed, count) that only the test split has. The same speed once and the same count at another speed
are in training. A combination is held out for both sides or for none. If training had double quick kicks of the right
leg alone, "twice, quickly" would come to mean the right leg."""

HELD_OUT_SEQUENCES = frozenset(
    {("walk", "wave"), ("turn", "raise"), ("squat", "kick"), ("bow", "walk"), ("jump", "sit")}
)
"""Pairs of actions that only the test split has; each action is in training in the same place of other pairs."""

SEQUENCE_SHARE = 0.3
_LAST_ONLY = ("sit",)  # nothing follows on a chair


@dataclasses.dataclass(frozen=True)
class Spec:
    """What one clip shows: one action, or two in a row, which have the normal speed and happen once.

    Attributes:
      actions: names in `VARIATIONS`.
      sides: "none", "left", "right" or "both", for each action.
      speed: "slow", "normal" or "fast".
      count: how often.

    Raises:
      InputError: there is no such variation.
    """

    actions: tuple[str, ...]
    sides: tuple[str, ...]
    speed: str = "normal"
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= len(self.actions) == len(self.sides) <= 2:
            raise InputError(f"Spec has actions {self.actions} and sides {self.sides}; expected one or two of both")
        for action, side in zip(self.actions, self.sides, strict=True):
            if action not in VARIATIONS:
                raise InputError(f'Spec has the action "{action}"; expected one of {", ".join(VARIATIONS)}')
            sides, speeds, counts, _ = VARIATIONS[action]
            for what, value, known in (
                ("side", side, sides),
                ("speed", self.speed, speeds),
                ("count", self.count, counts),
            ):
                if value not in known:
                    raise InputError(
                        f'Spec of "{action}" has {what} {value!r}; expected one of {", ".join(map(str, known))}'
                    )
        if len(self.actions) == 2 and (self.speed, self.count) != ("normal", 1):
            raise InputError(
                f'Spec of two actions has speed "{self.speed}" and count {self.count}; expected "normal" and 1'
            )
        if self.actions[0] in _LAST_ONLY and len(self.actions) == 2:
            raise InputError(f'Spec has "{self.actions[0]}" first of two actions; nothing follows on it')

    @property
    def labels(self) -> dict[str, str]:
        """The facts that its captions name.

        {"action", "side", "speed", "count"} of one action; {"sequence": "walk+wave", "sides": "none+left"} of two. A
        pair is no action of its own: pairs are many and rare, and some are in the test split alone.
        """
        if len(self.actions) == 2:
            return {"sequence": "+".join(self.actions), "sides": "+".join(self.sides)}
        return {"action": self.actions[0], "side": self.sides[0], "speed": self.speed, "count": str(self.count)}

    @property
    def held_out(self) -> bool:
        """Whether only the test split may have it."""
        if len(self.actions) == 2:
            return self.actions in HELD_OUT_SEQUENCES
        return (self.actions[0], self.sides[0], self.speed, self.count) in HELD_OUT

    def sentences(self) -> list[str]:
        """Every caption there is for it."""
        if len(self.actions) == 2:
            return sequence_captions(*zip(self.actions, self.sides, strict=True))
        return captions_of(self.actions[0], self.sides[0], self.speed, self.count)


def draw_spec(rng: np.random.Generator, *, held_out: bool) -> Spec:
    """A random spec of the training splits, or one that is held out of them."""
    shares = np.array([share for *_, share in VARIATIONS.values()])
    names = list(VARIATIONS)
    sequence = rng.random() < SEQUENCE_SHARE
    while True:
        actions = tuple(names[i] for i in rng.choice(len(names), 1 + sequence, replace=False, p=shares / shares.sum()))
        if sequence and actions[0] in _LAST_ONLY:
            continue
        sides = tuple(str(rng.choice(VARIATIONS[action][0])) for action in actions)
        _, speeds, counts, _ = VARIATIONS[actions[0]]
        spec = (
            Spec(actions, sides) if sequence else Spec(actions, sides, str(rng.choice(speeds)), int(rng.choice(counts)))
        )
        if spec.held_out == held_out:
            return spec


def synthesize(spec: Spec, rng: np.random.Generator, name: str = "") -> MotionClip:
    """A clip of a random body doing what the spec says, with six of its captions, at 30 frames/s; the floor is at Y =
    0."""
    body = Body.draw(rng)
    pair = len(spec.actions) == 2
    pace = SPEEDS[spec.speed] * rng.uniform(0.94, 1.06) * (1.12 if pair else 1.0)
    size = rng.uniform(0.88, 1.12)
    toes, yaw, tracks = body.stand(np.zeros(2), 0.0), 0.0, []
    for action, side in zip(spec.actions, spec.sides, strict=True):
        tracks.append(ACTIONS[action](Plan(body, toes, yaw, pace, size, rng, short=pair), side, spec.count))
        toes, yaw = tracks[-1].toes[-1].copy(), float(tracks[-1].yaw[-1])
    track = Track.joined([*tracks, tracks[-1].held(round(rng.uniform(0.1, 0.3) * FPS))])
    sentences = spec.sentences()
    chosen = rng.choice(len(sentences), min(6, len(sentences)), replace=False)
    return pose_body(track, body, rng, captions=tuple(sentences[i] for i in chosen), labels=spec.labels, name=name)


def generate_corpus(num_clips: int, seed: int) -> Iterator[tuple[str, MotionClip]]:
    """(split, clip) of each clip: 85 % train, 5 % validation, 10 % test.

    Half of the test clips are combinations that only they have. The label "combination" is "unseen" there and "seen"
    elsewhere; no caption names it. Clip i depends on (seed, i) only, however many are made and wherever.
    """
    for index in range(num_clips):
        rng = np.random.default_rng((seed, index))
        split = {0: "test", 10: "test", 5: "validation"}.get(index % 20, "train")
        held_out = index % 20 == 0
        clip = synthesize(draw_spec(rng, held_out=held_out), rng, name=f"synthetic-{seed}-{index:06d}")
        yield split, dataclasses.replace(clip, labels={**clip.labels, "combination": "unseen" if held_out else "seen"})
