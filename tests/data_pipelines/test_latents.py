"""Latent shards: windows of long takes, few shapes, statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.folder import LatentFolder, MotionFolder
from data_pipelines.latents import MIN_FRAMES, windows, write_latents
from data_pipelines.records import MotionRecord
from data_pipelines.write import write_folder
from llamo_jax.errors import InputError
from llamo_jax.motion.representation import POSITIONS, VELOCITIES, canonical_window


def record(name, frames):
    features = np.random.default_rng(frames).normal(size=(frames, 272)).astype(np.float32)
    return MotionRecord(name, features, (f"caption of {name}",), {"content": "walk"}, requests=(f"Show me {name}!",))


@pytest.fixture
def motions(tmp_path):
    train = [record("short", 21), record("exact", 128), record("long", 300), record("rest", 128 + MIN_FRAMES - 1)]
    write_folder(
        tmp_path / "motions",
        MotionRecord,
        {"train": train, "test": [record("other", 50)]},
        dataset={"name": "test"},
        licence="made here",
    )
    return tmp_path / "motions"


class Encoder:
    """A causal stand-in for the VAE: a latent is the mean of its four frames' first two positions."""

    def __init__(self):
        self.shapes = []

    def __call__(self, features):
        assert features.dtype == np.float32
        self.shapes.append(features.shape)
        return features[:, :, POSITIONS.start : POSITIONS.start + 2].reshape(len(features), -1, 4, 2).mean(2)


@given(st.integers(1, 2000), st.integers(4, 100))
def test_windows_cover_a_take(num_frames, tokens):
    max_frames = 4 * tokens
    found = windows(num_frames, max_frames)
    covered = found[-1].stop if found else 0
    assert num_frames - covered < MIN_FRAMES
    assert [s.start for s in found] == [max_frames * i for i in range(len(found))]
    assert all(MIN_FRAMES <= s.stop - s.start <= max_frames for s in found)
    assert [s.complete for s in found] == [s.stop == num_frames for s in found]
    assert all(s.stop - s.start == max_frames for s in found[:-1])


def test_windows_and_latents(motions, tmp_path):
    encoder = Encoder()
    shards = write_latents(motions, tmp_path / "latents", encoder, max_latents=32, batch_size=2)
    train = {record.name: record for record in shards.split("train")}
    assert list(train) == ["short", "exact", "long/0-128", "long/128-256", "long/256-300", "rest/0-128"]
    assert [r.complete for r in train.values()] == [True, True, False, False, True, False]
    assert [len(r.latents) for r in train.values()] == [5, 32, 32, 32, 11, 32]
    assert train["long/128-256"].requests == ("Show me long!",)
    assert train["long/128-256"].captions == ("caption of long",) and train["long/128-256"].labels == {
        "content": "walk"
    }
    statistics = MotionFolder(motions).statistics
    window = statistics.normalise(canonical_window(record("long", 300).features, 128, 256), 30)
    expected = window[:, POSITIONS.start : POSITIONS.start + 2].reshape(32, 4, 2).mean(1)
    np.testing.assert_allclose(train["long/128-256"].latents, expected, rtol=1e-5, atol=1e-6)
    assert len(shards.split("test")) == 1
    assert shards.manifest["windows_of_cut_takes"] == 4
    assert set(encoder.shapes) == {(2, 64, 272), (2, 128, 272)}


def test_each_window_starts_canonical(motions, tmp_path):
    seen = []

    def encode(features):
        seen.extend(features)
        return np.zeros((len(features), features.shape[1] // 4, 2), np.float32)

    write_latents(motions, tmp_path / "latents", encode, max_latents=32, batch_size=1)
    still = MotionFolder(motions).statistics.normalise(np.zeros(272))[VELOCITIES]
    assert len(seen) == 7
    for window in seen:
        np.testing.assert_array_equal(window[0, VELOCITIES], still)


def test_statistics_of_latents(motions, tmp_path):
    shards = write_latents(motions, tmp_path / "latents", Encoder(), max_latents=32)
    latents = np.concatenate([record.latents for record in shards.split("train")]).astype(np.float64)
    np.testing.assert_allclose(shards.statistics.mean, latents.mean(0), atol=1e-6)
    np.testing.assert_allclose(shards.statistics.std, latents.std(0), rtol=1e-6)
    np.testing.assert_array_equal(LatentFolder(tmp_path / "latents").statistics.std, shards.statistics.std)


def test_bad_input(motions, tmp_path):
    with pytest.raises(InputError, match="max_latents is 2; expected at least 4"):
        write_latents(motions, tmp_path / "latents", Encoder(), max_latents=2)
    with pytest.raises(InputError, match="no such data folder"):
        write_latents(tmp_path / "nowhere", tmp_path / "latents", Encoder(), max_latents=63)

    def broken(features):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write_latents(motions, tmp_path / "latents", broken, max_latents=63)
    assert not (tmp_path / "latents").exists()
