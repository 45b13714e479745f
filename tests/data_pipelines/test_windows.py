"""Windows for the VAE: where they come from, what is in them, exact resume."""

import json

import numpy as np
import pytest

from data_pipelines.records import MotionRecord
from data_pipelines.windows import WindowBatches
from llamo_jax.errors import InputError
from llamo_jax.motion.representation import HEADING_DELTA, POSITIONS, ROOT_VELOCITY, VELOCITIES


def record(number, frames, **labels):
    """A record whose features are its number plus a hundredth for every frame."""
    features = np.repeat(number + np.arange(frames)[:, None] / 100, 272, 1).astype(np.float32)
    return MotionRecord(f"clip{number}", features, ("a person walks.",), labels)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def test_a_window_is_canonical():
    (batch,) = take(iter(WindowBatches([record(1, 200)], rows=8, frames=16)), 1)
    assert batch["features"].shape == (8, 16, 272) and batch["features"].dtype == np.float32
    assert batch["mask"].dtype == np.float32 and (batch["mask"] == 1).all()
    starts = set()
    for window in batch["features"]:
        np.testing.assert_allclose(np.diff(window[:, POSITIONS.start]), 0.01, atol=1e-5)  # consecutive frames
        assert (window[0, ROOT_VELOCITY] == 0).all() and (window[0, VELOCITIES] == 0).all()
        assert window[0, HEADING_DELTA].tolist() == [1, 0, 0, 0, 1, 0]
        assert (window[1, VELOCITIES] != 0).all()
        starts.add(round(float(window[0, POSITIONS.start] - 1) * 100))
    assert len(starts) > 3 and min(starts) >= 0 and max(starts) <= 200 - 16


def test_short_motions_are_padded():
    (batch,) = take(iter(WindowBatches([record(1, 5)], rows=2, frames=8)), 1)
    np.testing.assert_array_equal(batch["mask"], [[1, 1, 1, 1, 1, 0, 0, 0]] * 2)
    assert (batch["features"][:, 5:] == 0).all() and (batch["features"][:, 4, POSITIONS] != 0).all()


def test_resumes_exactly():
    records = [record(number, 30 + number) for number in range(10)]
    iterator = iter(WindowBatches(records, rows=4, frames=16, seed=3))
    take(iterator, 5)  # amid the second epoch
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 5)
    resumed = iter(WindowBatches(records, rows=4, frames=16, seed=3))
    resumed.set_state(state)
    for first, second in zip(expected, take(resumed, 5), strict=True):
        np.testing.assert_array_equal(first["features"], second["features"])


def test_every_record_once_an_epoch():
    records = [record(number, 16) for number in range(12)]
    batches = take(iter(WindowBatches(records, rows=2, frames=16)), 6)
    assert sorted(round(float(row[0, POSITIONS.start])) for batch in batches for row in batch["features"]) == list(
        range(12)
    )


def test_bad_input():
    with pytest.raises(InputError, match="there are no motions to draw windows from"):
        WindowBatches([], rows=1)
