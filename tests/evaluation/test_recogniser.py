import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.evaluation import recogniser as module
from llamo_jax.evaluation.recogniser import Recogniser
from llamo_jax.motion.skeleton import JOINT_INDEX
from tests import bodies

HANDS, TEMPOS = ("left", "right"), {"slow": 0.5, "fast": 1.5}


def waving(random: np.random.Generator, hand: str, tempo: str, **labels: str):
    """A clip of one waving hand, with its labels."""
    frames = int(random.integers(40, 90))
    joints = bodies.standing(frames)
    swing = 0.3 * np.sin(2 * np.pi * TEMPOS[tempo] * np.arange(frames) / bodies.FPS + random.uniform(0, 6))
    joints[:, JOINT_INDEX[f"{hand}_wrist"], 1] += 0.5 + swing
    joints += random.normal(0, 0.003, joints.shape)
    clip = bodies.clip(joints, labels={"hand": hand, "tempo": tempo} | labels)
    return Record(clip.features(), clip.labels)


class Record:
    def __init__(self, features, labels):
        self.features, self.labels = features, labels


@pytest.fixture(scope="module")
def clips():
    random = np.random.default_rng(0)
    return [waving(random, hand, tempo) for _ in range(24) for hand in HANDS for tempo in TEMPOS]


@pytest.fixture(scope="module")
def trained(clips):
    # A record without a label must neither fail nor train that label.
    partial = [Record(clips[0].features, {"hand": clips[0].labels["hand"]})]
    return Recogniser.train(clips[16:] + partial, ["hand", "tempo"], steps=60)


def accuracy(trained, features, labels):
    """Label name -> share of the clips whose class is recognised."""
    predicted = trained.predict(features)
    return {
        name: np.mean(
            [seen == truth[name] for seen, truth in zip(predicted[name], labels, strict=True) if name in truth]
        )
        for name in predicted
    }


def test_learns_what_can_be_told_apart(trained, clips):
    held_out = clips[:16]
    assert trained.classes == {"hand": ("left", "right"), "tempo": ("fast", "slow")}
    found = accuracy(trained, [r.features for r in held_out], [r.labels for r in held_out])
    assert found["hand"] == 1.0
    assert found["tempo"] >= 0.9
    swapped = [{"hand": "right" if r.labels["hand"] == "left" else "left"} for r in held_out]
    figures = accuracy(trained, [r.features for r in held_out], swapped)
    assert figures["hand"] == 0.0
    assert np.isnan(figures["tempo"])


def test_does_not_learn_what_is_not_there(clips):
    random = np.random.default_rng(1)
    coins = [Record(r.features, {"coin": str(random.integers(2))}) for r in clips]
    trained = Recogniser.train(coins[32:], ["coin"], steps=25)
    assert 0.2 < accuracy(trained, [r.features for r in coins[:32]], [r.labels for r in coins[:32]])["coin"] < 0.8


def test_neither_padding_nor_company_changes_a_clip(trained, clips):
    clip = clips[0].features[:41]  # one frame in its last step
    inputs = (module._inputs(clip) - trained._mean) / trained._std
    alone = module._apply(trained._params, module._pad([inputs], 64))
    for length in (128, 512):
        padded = module._apply(trained._params, module._pad([inputs], length))
        for name in trained.classes:
            np.testing.assert_allclose(padded[0][name], alone[0][name], atol=1e-5)
        np.testing.assert_allclose(padded[1], alone[1], atol=1e-5)
    others = [np.concatenate([clips[1].features] * 4), clip, clips[2].features[:1]]
    np.testing.assert_allclose(trained.embed(others)[1], trained.embed([clip])[0], atol=1e-5)


def test_sees_positions_and_not_rotations_or_velocity_features(trained, clips):
    changed = clips[0].features.copy()
    changed[:, 74:] = 7.0
    np.testing.assert_array_equal(trained.embed([changed]), trained.embed([clips[0].features]))


def test_the_same_seed_gives_the_same_recogniser(clips):
    first, second, other = (
        Recogniser.train(clips[:8], ["hand"], seed=seed, steps=3).embed([clips[9].features]) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)


def test_stops_in_time(clips):
    trained = Recogniser.train(clips, ["hand"], steps=10**6, seconds=0.5)
    assert set(trained.predict([clips[0].features])["hand"]) <= set(HANDS)


def test_bad_input_is_named(clips):
    with pytest.raises(InputError, match=r'label "mood" has 0 classes.*have labels: hand, tempo'):
        Recogniser.train(clips[:4], ["mood"])
    with pytest.raises(InputError, match="no records to train on"):
        Recogniser.train([], ["hand"])
    with pytest.raises(InputError, match=r"shape \(5, 263\); expected \[T, 272\]"):
        Recogniser.train([Record(np.zeros((5, 263)), {"hand": hand}) for hand in HANDS], ["hand"])
