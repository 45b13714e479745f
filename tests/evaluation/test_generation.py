import dataclasses

import numpy as np
import pytest
import scipy.linalg

from llamo_jax.errors import InputError
from llamo_jax.evaluation.figure import Figure
from llamo_jax.evaluation.generation import Generation, frechet_distance, named_hand, wrong_hand
from llamo_jax.evaluation.suite import Held
from llamo_jax.motion.skeleton import JOINT_INDEX
from tests import bodies


@dataclasses.dataclass
class Example:
    features: np.ndarray
    captions: tuple[str, ...]
    labels: dict[str, str]
    name: str = ""


class Height:
    """A judge without training: a motion is a wave of the hand that is higher, and a walk where the body travels."""

    classes = {"content": ("wave-left-hand", "wave-right-hand", "walk")}  # noqa: RUF012

    def predict(self, features):
        return {"content": [self._content(f) for f in features]}

    def embed(self, features):
        return np.stack([[f[:, 8 + 3 * 20 + 1].max(), f[:, 8 + 3 * 21 + 1].max(), f[:, 1].mean()] for f in features])

    def _content(self, f):
        left, right, speed = self.embed([f])[0]
        return "walk" if speed > 0.01 else "wave-left-hand" if left > right else "wave-right-hand"


class Actor:
    """Does what it is told, but for `confused`: the sentences of which it does the opposite."""

    def __init__(self, frames=40, speed=0.5, confused=()):
        self.frames, self.speed, self.confused, self.calls = frames, speed, confused, []

    def generate(self, text, *, seed, seconds=None, max_seconds=20.0, **settings):
        self.calls.append((len(text), seed, seconds, settings))
        frames = self.frames if seconds is None else round(30 * seconds)
        return [bodies.clip(perform(sentence, frames, self.speed, sentence in self.confused)) for sentence in text]


def perform(sentence, frames, speed, confused=False):
    if "walk" in sentence:
        return bodies.sliding(frames, (0, 0, speed))
    side = "left" if ("left" in sentence) != confused else "right"
    joints = bodies.standing(frames)
    joints[:, JOINT_INDEX[f"{side}_wrist"], 1] += 0.3 + 0.1 * np.sin(np.arange(frames))
    return joints


def examples(frames=48):
    rows = [
        ("wave the left hand", "wave-left-hand"),
        ("wave the right hand", "wave-right-hand"),
        ("walk", "walk"),
        ("left hand up", "wave-left-hand"),
    ]
    return [
        Example(bodies.clip(perform(text, frames, 1.0)).features(), (text,), {"content": label}) for text, label in rows
    ]


def measure(actor, held, recogniser, **options) -> tuple[dict[str, Figure], Generation]:
    generation = Generation(recogniser, **options)
    return {figure.name: figure for figure in generation.run(actor, Held(held))}, generation


def test_an_obedient_model():
    actor = Actor()
    options = {"batch_size": 3, "long_count": 2, "long_seconds": 3.0, "settings": {"guidance": 2.5}}
    figures, generation = measure(actor, examples(), Height(), **options)
    assert {figure.group for figure in figures.values()} == {"Text-to-motion, 4 held-out captions"}
    content = figures["Recognised content of generated"]
    assert content.value == content.control == 100
    wrong = figures["Wrong hand"]
    assert (wrong.unit, wrong.value, wrong.control) == ("of 3", 0, 0)
    walking = figures["Walking speed"]
    assert walking.value == pytest.approx(0.5) and walking.control == pytest.approx(1.0)
    assert figures["Positions against rotations"].value >= 0
    # Batches of one shape, each with its own seed; the long ones ignore the exit head.
    assert actor.calls == [
        (3, 0, None, {"guidance": 2.5}),
        (3, 1, None, {"guidance": 2.5}),
        (2, 0, 3.0, {"guidance": 2.5}),
    ]
    made = generation.generated
    assert [len(clip) for clip in made.long] == [90, 90] and len(made.clips) == 4
    assert [row["content"] for row in made.recognised] == [e.labels["content"] for e in examples()]
    assert Held(examples()).prompts == [e.captions[0] for e in examples()]


def test_without_a_recogniser_everything_else_is_measured():
    plain, generation = measure(Actor(), examples(), None, long_count=1, long_seconds=1.0)
    judged, _ = measure(Actor(), examples(), Height(), long_count=1, long_seconds=1.0)
    assert set(judged) - set(plain) == {"Recognised content of generated", "Frechet distance"}
    assert generation.generated.recognised == [{}] * 4
    assert {name: judged[name] for name in plain} == plain


def test_a_swapped_hand_is_counted():
    actor = Actor(confused=("wave the left hand",))
    figures, _ = measure(actor, examples(), Height(), long_count=1, long_seconds=1.0)
    assert (figures["Wrong hand"].value, figures["Wrong hand"].unit, figures["Wrong hand"].control) == (1, "of 3", 0)
    assert figures["Recognised content of generated"].value == 75


def test_combinations_that_training_never_saw_are_judged_apart():
    held = [dataclasses.replace(e, labels={"action": e.labels["content"]}) for e in examples()]
    held[0].labels["combination"] = held[3].labels["combination"] = "unseen"

    class Actions(Height):
        classes = {"action": Height.classes["content"]}  # noqa: RUF012

        def predict(self, features):
            return {"action": [self._content(f) for f in features]}

    figures, _ = measure(Actor(confused=("wave the left hand",)), held, Actions(), long_count=1, long_seconds=1.0)
    assert figures["Recognised action, unseen combinations"].value == 50


def test_freezes_and_explosions_are_counted_in_the_long_generations():
    class Wild(Actor):
        def generate(self, text, *, seed, seconds=None, **settings):
            clips = super().generate(text, seed=seed, seconds=seconds)
            if seconds:
                burst = bodies.standing(90)
                burst[45:, :, 0] += 2.0
                clips = [
                    bodies.clip(burst),
                    bodies.clip(bodies.sliding(90, (0, 0, 0.2))),
                    bodies.clip(bodies.standing(90)),
                    *clips[3:],
                ]
            return clips

    figures, _ = measure(Wild(), examples(), Height(), long_seconds=3.0)
    assert figures["Exploded"].value == 1 and figures["Exploded"].unit == "of 4 of 3 s"
    assert figures["Frozen"].value == 1  # the second's jump breaks its stillness, the fourth waves


@pytest.mark.parametrize(
    ("labels", "hand"),
    [
        ({"content": "wave-left-hand", "style": "tired"}, "left"),
        ({"content": "raise-up-right-hand"}, "right"),
        ({"content": "raise-up-both-hands"}, None),
        ({"content": "walk-turn-left"}, None),
        ({"action": "wave", "side": "left", "speed": "fast"}, "left"),
        ({"action": "wave", "side": "both"}, None),
        ({"action": "kick", "side": "left"}, None),
        ({}, None),
    ],
)
def test_the_hand_that_labels_name(labels, hand):
    assert named_hand(labels) == hand


def test_wrong_hand_compares_the_highest_points():
    joints = bodies.standing(20)
    joints[5, JOINT_INDEX["left_wrist"], 1] = 1.9
    joints[:, JOINT_INDEX["right_wrist"], 1] = 1.6
    assert not wrong_hand(joints, "left")
    assert wrong_hand(joints, "right")


def test_frechet_distance_is_scipys():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(200, 8)), random.normal(size=(150, 8)) @ random.normal(size=(8, 8)) + 0.5
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    expected = np.sum((first.mean(0) - second.mean(0)) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_shifted_and_of_singular_sets():
    first = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)  # fewer samples than dimensions
    assert frechet_distance(first, first + 2) == pytest.approx(4 * 16, rel=1e-5)
    assert np.isnan(frechet_distance(first[:1], first))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="no examples"):
        Held([])
    with pytest.raises(InputError, match='example 0 \\("x"\\) has no captions'):
        Held([Example(np.zeros((4, 272)), (), {}, name="x")])
