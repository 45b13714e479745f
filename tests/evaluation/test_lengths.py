"""Lengths of motions, measured: chances from the hazard, calibration, and the figures on cases made by hand."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from llamo_jax.config import SamplingConfig
from llamo_jax.evaluation import lengths as module
from llamo_jax.evaluation.figure import Figure
from llamo_jax.evaluation.lengths import Drawn, Lengths, calibrate, drawn_lengths, end_speed, take_hazards
from llamo_jax.evaluation.suite import Held
from llamo_jax.inference import decoding
from llamo_jax.motion import MotionClip, physics
from llamo_jax.pretrained import Llamo
from llamo_jax.prompts import motion_prompt
from tests import bodies

TEXTS = ["a person walks.", "someone runs fast."]


@pytest.fixture(scope="module")
def patient(model: Llamo) -> Llamo:
    """The random model with an exit head whose motions have some latents."""
    head = model.bundle.params["exit_head"]
    params = model.bundle.params | {"exit_head": {"weight": 0.1 * head["weight"], "bias": jnp.full(1, -2.0)}}
    return Llamo(dataclasses.replace(model.bundle, params=params))


def keys_of(seed: int, count: int) -> jax.Array:
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(jnp.arange(count))


def test_one_run_gives_the_lengths_of_both_ways_to_end(patient: Llamo) -> None:
    sampling = SamplingConfig(steps=2)
    found = drawn_lengths(patient, TEXTS * 3, keys_of(3, 6), sampling, most=60)
    drawn, median = (
        patient.generate(TEXTS * 3, seed=3, steps=2, max_seconds=8.0, length=length) for length in ("drawn", "median")
    )
    assert [4 * each.length for each in found] == [len(clip) for clip in drawn]
    assert [4 * each.median for each in found] == [len(clip) for clip in median]
    assert len({each.length for each in found}) > 2
    for each in found:
        assert each.chances.sum() == pytest.approx(1) and (each.chances >= 0).all()
        assert len(each.latents) == len(each.chances)
    made = patient.codec.decode([found[0].latents[: found[0].length]])[0]
    np.testing.assert_allclose(MotionClip.from_features(made).joints, drawn[0].joints, atol=1e-4)


def test_hazards_of_a_shown_motion_are_those_of_the_drawn_one(patient: Llamo) -> None:
    """Read at once, and met one by one while drawing, with guidance."""
    (drawn,) = drawn_lengths(patient, TEXTS[:1], keys_of(0, 1), SamplingConfig(steps=2), most=15)
    prompt = motion_prompt(patient.tokenizer, TEXTS[0])
    params, count = patient.bundle.params, 9
    state = decoding.start(params, patient.config, [[prompt]], room=20)
    shown = decoding.hazards(params, patient.config, state, jnp.asarray(drawn.latents[None]), jnp.array([count]))
    cdf = drawn.chances.cumsum()  # of lengths 1, 2, ...
    expected = 1 - (1 - cdf[1:count]) / (1 - cdf[: count - 1])  # at the slots behind 2 latents and more
    np.testing.assert_allclose(shown[0, 2 : count + 1], expected, atol=1e-5)


def test_hazards_of_takes_stop_at_their_end(patient: Llamo, clip: MotionClip) -> None:
    features = clip.features()
    alone = take_hazards(patient, TEXTS[:1], [features])[0]
    both = take_hazards(patient, TEXTS, [features, features[:22]])
    assert [len(row) for row in both] == [16, 6]  # a slot more than latents
    np.testing.assert_allclose(both[0], alone, atol=1e-5)
    assert ((alone > 0) & (alone < 1)).all()


def test_right_hazards_are_calibrated_and_wrong_ones_are_not() -> None:
    random = np.random.default_rng(0)

    def takes(factor: float) -> list[np.ndarray]:
        """Takes that end by hazards between 1 and 19 %, and are predicted `factor` times that."""
        rows = []
        for _ in range(400):
            hazard = random.uniform(0.01, 0.19, 400)
            end = int((random.random(400) < hazard).argmax())
            rows.append(factor * hazard[: end + 1])
        return rows

    rows = takes(1)
    right, wrong = (calibrate(each, [True] * 400, np.random.default_rng(1)) for each in (rows, takes(2)))
    assert right.error < 2 * right.chance and wrong.error > 4 * wrong.chance
    assert wrong.error == pytest.approx(1, abs=0.15)  # twice as many ends predicted as there are
    assert right.unevenness < 0.08 < 0.2 < wrong.unevenness
    assert len(right.slots) == module.BINS and right.slots.sum() == sum(map(len, rows))
    mass = right.predicted * right.slots
    np.testing.assert_allclose(mass, mass.mean(), rtol=0.05)  # bins of as many predicted ends


def test_calibration_by_hand() -> None:
    found = calibrate([np.array([0.0, 0.5]), np.array([0.0, 0.0, 0.5])], [True, True], np.random.default_rng(0))
    # Slots of no hazard make no difference; one end is predicted at the two others, and both end.
    assert found.observed.max() == 1 and found.error == pytest.approx(0.5)
    assert ((found.ranks > 0) & (found.ranks < 0.5)).all()
    # A take that goes on has slots without an end, and no rank: two ends are predicted, and there is one.
    found = calibrate([np.full(2, 0.5), np.full(2, 0.5)], [False, True], np.random.default_rng(0))
    assert found.slots.sum() == 4 and found.error == pytest.approx(2) and len(found.ranks) == 1


@dataclasses.dataclass
class Example:
    features: np.ndarray
    labels: dict[str, str]
    captions: tuple[str, ...] = ("x",)
    name: str = ""


def example(latents: int, content: str, style: str = "plain", end: float = 0.0) -> Example:
    """Stands, and slides at `end` m/s in the last 8 frames."""
    joints = bodies.standing(4 * latents + 1)
    joints[-8:, :, 2] += np.arange(8)[:, None] * end / 30
    return Example(bodies.clip(joints).features()[: 4 * latents], {"content": content, "style": style})


def drawn_of(chances: dict[int, float], length: int, speed: float = 0.0) -> Drawn:
    longest = max(chances)
    row = np.array([chances.get(n, 0.0) for n in range(1, longest + 1)])
    return Drawn(np.full((max(longest, length), 1), speed), row, length)


class Sliding:
    """A codec that keeps of a motion how fast it ends: decoded, all of it slides as fast."""

    def __init__(self) -> None:
        self.decoded: list[list[int]] = []

    @staticmethod
    def encode(motions: list[np.ndarray]) -> list[np.ndarray]:
        return [np.full((len(each) // 4, 1), end_speed(each)) for each in motions]

    def decode(self, latents: list[np.ndarray]) -> list[np.ndarray]:
        self.decoded.append([len(each) for each in latents])
        return [bodies.clip(bodies.sliding(4 * len(each), (0, 0, each[0, 0]))).features() for each in latents]


def test_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [example(10, "walk", "old"), example(14, "walk"), example(20, "wave", end=1.0), example(90, "walk")]
    held = Held([example(12, "walk", "old", end=2.0), example(22, "wave")])
    drawn = [drawn_of({12: 1.0}, 12, speed=0.5), drawn_of({16: 0.6, 20: 0.4}, 20, speed=0.5)]
    monkeypatch.setattr(module, "drawn_lengths", lambda *_, **__: drawn)
    monkeypatch.setattr(module, "take_hazards", lambda *_: [np.full(13, 0.1), np.full(23, 0.1)])

    measure = Lengths(train, ("content", "style"), batch_size=2, max_latents=60)
    codec = Sliding()
    figures = {figure.name: figure for figure in measure.run(SimpleNamespace(codec=codec), held)}
    assert {figure.group for figure in figures.values()} == {"Lengths, 2 held-out captions"}
    distance = figures["Length distance"]
    # Walks of an old one 12 against 10 and 12; waves 16 and 20 against 20 and 22. Other walks were not asked for.
    assert distance.value == pytest.approx((1 + (0.5 * 4 + 0.1 * 6 + 0.4 * 2)) / 2)
    assert distance.control == pytest.approx((2 + 2) / 2)  # 12 from 10, 22 from 20
    assert "1 of 60 latents or more, which count as 60" in distance.note
    error = figures["Length error"]
    assert error.value == pytest.approx((0 + 6) / 2)  # medians 12 and 16
    assert error.control == pytest.approx((2 + 2) / 2)  # training medians 14 and 20
    assert "bias -3.0; control: the training median of the content; of content and style 2.00" in error.note
    # Walks in training stand still at their end, waves slide by 1 m/s; all that is drawn slides by 0.5.
    ends = figures["Ends in mid-motion"]
    assert (ends.value, ends.control) == (50, 50)
    # Ends of recordings, no more than that; motions as long as was drawn.
    assert codec.decoded == [[10, 14], [16, 16], [12, 16], [12, 20]]
    assert figures["Hazard calibration error"].value == pytest.approx(100 * measure.calibration.error)
    assert [each.value for each in measure.values] == ["walk", "wave"]


@pytest.mark.parametrize(("speed", "share"), [(0.5, 0), (1.5, 100)])
def test_a_slow_end_of_a_fast_action_is_no_middle(monkeypatch: pytest.MonkeyPatch, speed: float, share: float) -> None:
    """Recordings run at 4 m/s and then stand perfectly still: a body that settles at 0.5 m/s has ended, too."""
    joints = bodies.sliding(48, (0, 0, 4.0))
    joints[-8:] = joints[-8]
    run = Example(bodies.clip(joints).features(), {"content": "run"})
    monkeypatch.setattr(module, "drawn_lengths", lambda *_, **__: [drawn_of({12: 1.0}, 12, speed=speed)])
    monkeypatch.setattr(module, "take_hazards", lambda *_: [np.full(13, 0.1)])
    figures = Lengths([run], ("content",)).run(SimpleNamespace(codec=Sliding()), Held([run]))
    ends = next(figure for figure in figures if figure.name == "Ends in mid-motion")
    assert (ends.value, ends.control) == (share, 0)


def test_without_labels_all_recordings_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "drawn_lengths", lambda *_, **__: [drawn_of({8: 1.0}, 8)])
    monkeypatch.setattr(module, "take_hazards", lambda *_: [np.full(13, 0.1)])
    measure = Lengths([example(10, "walk"), example(14, "wave")], batch_size=1)
    figures: dict[str, Figure] = {
        figure.name: figure for figure in measure.run(SimpleNamespace(codec=Sliding()), Held([example(12, "walk")]))
    }
    assert figures["Length error"].value == 4 and figures["Length error"].control == 0
    assert figures["Length distance"].value == pytest.approx(4)
    assert figures["Length distance"].control == pytest.approx(2)  # 12 from 10 and 14
    assert figures["Length error"].note == "bias -4.0; control: the training median"
    # Nothing to compare with: no figures.
    assert list(Lengths([]).run(SimpleNamespace(), Held([example(12, "walk")]))) == []


def test_both_sides_of_a_distance_do_the_same_things_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two held-out walks are old ones, which last longer, and one is none; of a sad walk there is no other."""
    train = [*[example(10, "walk")] * 6, example(30, "walk", "old")]
    takes = [example(30, "walk", "old"), example(30, "walk", "old"), example(10, "walk"), example(50, "walk", "sad")]
    drawn = [drawn_of({30: 1.0}, 30), drawn_of({30: 1.0}, 30), drawn_of({11: 1.0}, 11), drawn_of({50: 1.0}, 50)]
    monkeypatch.setattr(module, "drawn_lengths", lambda *_, **__: drawn)
    monkeypatch.setattr(module, "take_hazards", lambda *_: [np.full(3, 0.1)] * 4)
    measure = Lengths(train, ("content", "style"), batch_size=4)
    figures = {figure.name: figure for figure in measure.run(SimpleNamespace(codec=Sliding()), Held(takes))}
    distance = figures["Length distance"]
    assert (distance.value, distance.control) == (pytest.approx(1 / 4), pytest.approx(0))
    (walk,) = measure.values
    assert stats.wasserstein_distance(np.arange(1, 51), [30, 30, 10, 50], walk.recorded) == pytest.approx(0)
    assert walk.recorded.sum() == pytest.approx(1) and walk.held.tolist() == [30, 30, 10, 50]


def test_what_is_cut_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A take beyond the longest row goes on there, and a motion that is cut there is no end."""
    asked = []
    monkeypatch.setattr(module, "drawn_lengths", lambda *_, most: [drawn_of({most: 1.0}, most)])
    monkeypatch.setattr(module, "take_hazards", lambda *given: asked.append(given) or [np.full(6, 0.1)])
    measure = Lengths([example(10, "walk")], batch_size=1, max_latents=5)
    figures = {figure.name: figure.value for figure in measure.run(SimpleNamespace(), Held([example(12, "walk")]))}
    assert figures["Length distance"] == 0 and "Ends in mid-motion" not in figures
    assert len(asked[0][2][0]) == 20  # frames of the take that are read
    assert measure.calibration.slots.sum() == 5 and measure.calibration.observed.max() == 0


def test_the_speed_at_the_end_is_that_of_the_whole_motion(clip: MotionClip) -> None:
    assert end_speed(clip.features()) == pytest.approx(physics.mean_speed(clip.joints[-5:]), rel=1e-3)
    joints = bodies.standing(60)
    joints[-3:] += 0.1 * np.arange(3)[:, None, None]
    features = bodies.clip(joints).features()
    assert end_speed(features[:50]) == pytest.approx(0, abs=1e-3) and end_speed(features) > 1
