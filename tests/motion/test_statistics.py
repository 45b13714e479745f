"""Statistics: exact, mergeable, in any order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamo_jax.errors import InputError
from llamo_jax.motion.representation import GROUPS
from llamo_jax.motion.statistics import Moments, Statistics


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.randoms(use_true_random=False), st.integers(0, 1000))
def test_merging_in_any_order_is_exact(lengths, random, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(1e4, 1.0, size=(length, 3)) for length in lengths]
    whole = np.concatenate(parts)
    accumulators = []
    for part in parts:
        accumulators.append(Moments(3))
        accumulators[-1].add(part)
    random.shuffle(accumulators)
    total = Moments(3)
    for accumulator in accumulators:
        total.merge(accumulator)
    assert total.count == len(whole)
    if len(whole):
        np.testing.assert_allclose(total.mean, whole.mean(0), rtol=1e-12)
        np.testing.assert_allclose(total.variance, whole.var(0), rtol=1e-9, atol=1e-9)


def test_one_deviation_a_group():
    values = np.random.default_rng(0).normal(size=(500, 272)) * np.linspace(0.1, 3, 272)
    moments = Moments(272)
    moments.add(values)
    statistics = Statistics.of_features(moments)
    for group in GROUPS:
        expected = np.sqrt(values[:, group].var(0).mean())
        np.testing.assert_allclose(statistics.std[group], expected, rtol=1e-6)
    np.testing.assert_allclose(statistics.mean, values.mean(0), atol=1e-6)


def test_latents_have_a_deviation_a_channel():
    moments = Moments(2)
    moments.add(np.array([[1.0, 10.0], [3.0, 50.0]]))
    statistics = Statistics.of_latents(moments)
    np.testing.assert_allclose(statistics.mean, [2, 30])
    np.testing.assert_allclose(statistics.std, [1, 20])
    np.testing.assert_allclose(statistics.normalise(np.array([[3.0, 10.0]])), [[1, -1]])
    np.testing.assert_allclose(statistics.normalise(np.array([[30.0, 10.0]]), limit=5), [[5, -1]])


def test_round_trip(tmp_path):
    statistics = Statistics(np.arange(3, dtype=np.float32), np.ones(3, np.float32))
    statistics.save(tmp_path / "statistics.npz")
    found = Statistics.load(tmp_path / "statistics.npz")
    np.testing.assert_array_equal(found.mean, statistics.mean)
    np.testing.assert_array_equal(found.std, statistics.std)


def test_bad_files(tmp_path):
    np.savez(tmp_path / "other.npz", mean=np.zeros(3), deviation=np.ones(3))
    with pytest.raises(
        InputError, match=r"other.npz: found arrays mean \(3,\), deviation \(3,\); expected mean \[C\] and std \[C\]"
    ):
        Statistics.load(tmp_path / "other.npz")
    np.savez(tmp_path / "zero.npz", mean=np.zeros(3), std=np.zeros(3))
    with pytest.raises(InputError, match="deviations not positive"):
        Statistics.load(tmp_path / "zero.npz")
