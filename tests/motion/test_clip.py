"""MotionClip: checks, cuts, rates, mirrors, files."""

import dataclasses

import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.motion import MotionClip
from llamo_jax.motion import rotations as rot


def test_wrong_shapes_and_numbers_are_refused(walk):
    with pytest.raises(InputError, match=r'motion "walk": joints have shape \(60, 21, 3\); expected \[T, 22, 3\]'):
        dataclasses.replace(walk, joints=walk.joints[:, :21])
    with pytest.raises(InputError, match=r"rotations have shape \(59, 22, 3, 3\)"):
        dataclasses.replace(walk, rotations=walk.rotations[1:])
    with pytest.raises(InputError, match="T at least 1"):
        _ = walk[60:]
    joints = walk.joints.copy()
    joints[7, 3, 1] = np.nan
    with pytest.raises(InputError, match="joints have NaN or infinity in frame 7"):
        dataclasses.replace(walk, joints=joints)
    with pytest.raises(InputError, match="fps is 0"):
        dataclasses.replace(walk, fps=0)


def test_length_cut_and_seconds(walk):
    assert len(walk) == 60 and walk.seconds == 2.0
    cut = walk[10:25]
    assert len(cut) == 15 and np.array_equal(cut.joints, walk.joints[10:25]) and cut.captions == walk.captions


@pytest.mark.parametrize("fps", [120.0, 100.0, 59.94, 25.0, 20.0])
def test_resampling_keeps_the_exact_times(walker, fps):
    clip = walker(frames=round(2 * fps) + 1, fps=fps).resampled(30)
    truth = walker(frames=61, fps=30)
    assert clip.fps == 30 and abs(len(clip) - 61) <= 1
    shared = min(len(clip), 61) - 1
    # The pelvis starts one step in, which differs with the rate.
    moved = clip.joints - clip.joints[:1, :1] + truth.joints[:1, :1]
    assert np.abs(moved[:shared] - truth.joints[:shared]).max() < 0.012
    assert np.degrees(rot.geodesic(clip.rotations[:shared], truth.rotations[:shared])).max() < 1.0


def test_resampling_from_100_to_30_takes_fractional_frames(walker):
    # Every third frame of 100 would be 33.3 frames/s: a walk 11 % too slow. Speed shows it.
    clip = walker(frames=301, fps=100.0).resampled(30)
    speed = np.linalg.norm(np.diff(clip.joints[:, 0, [0, 2]], axis=0), axis=-1) * 30
    assert len(clip) == 91 and np.allclose(speed, 1.2, atol=1e-6)


def test_resampling_to_the_same_rate_changes_nothing(walk):
    assert np.array_equal(walk.resampled(30).joints, walk.joints)
    assert len(walk[:1].resampled(120)) == 1


@pytest.mark.parametrize("source", ["positions", "rotations"])
def test_features_round_trip(walk, source):
    features = walk.features()
    assert features.shape == (60, 272) and features.dtype == np.float32
    clip = MotionClip.from_features(features, source=source, captions=("a walk",))
    assert clip.captions == ("a walk",) and clip.fps == 30
    assert np.abs(MotionClip.from_features(clip.features()).joints - clip.joints).max() < 1e-5
    # The same motion, now at the origin and facing +Z: distances between joints and the turn stay.
    distances = np.linalg.norm(walk.joints[:, :, None] - walk.joints[:, None], axis=-1)
    assert np.allclose(np.linalg.norm(clip.joints[:, :, None] - clip.joints[:, None], axis=-1), distances, atol=1e-5)
    assert np.allclose(clip.joints[0, 0, [0, 2]], 0) and abs(rot.heading(clip.rotations[0, 0])) < 1e-6
    turn = np.unwrap(rot.heading(clip.rotations[:, 0]))[-1]
    assert turn == pytest.approx(
        np.unwrap(rot.heading(walk.rotations[:, 0]))[-1] - rot.heading(walk.rotations[0, 0]), abs=1e-5
    )


def test_bad_features_and_source(walk):
    with pytest.raises(InputError, match=r"features have shape \(60, 263\); expected \[T, 272\]"):
        MotionClip.from_features(walk.features()[:, :263])
    with pytest.raises(InputError, match='source is "joints"'):
        MotionClip.from_features(walk.features(), source="joints")
    features = walk.features()
    features[3, 100] = np.inf
    with pytest.raises(InputError, match="features have NaN or infinity in frame 3"):
        MotionClip.from_features(features)


def test_npz_keeps_everything(walk, tmp_path):
    walk.save(tmp_path / "walk.npz")
    again = MotionClip.load(tmp_path / "walk.npz")
    assert np.array_equal(again.joints, walk.joints) and np.array_equal(again.rotations, walk.rotations)
    assert (again.fps, again.captions, again.name, again.labels) == (walk.fps, walk.captions, walk.name, walk.labels)
    dataclasses.replace(walk, captions=(), labels={}).save(tmp_path / "bare.npz")
    assert MotionClip.load(tmp_path / "bare.npz").captions == ()


def test_npy_holds_the_features(walk, tmp_path):
    walk.save(tmp_path / "walk.npy")
    assert np.array_equal(np.load(tmp_path / "walk.npy"), walk.features())
    assert np.allclose(MotionClip.load(tmp_path / "walk.npy").joints, MotionClip.from_features(walk.features()).joints)


def test_bvh_round_trip(walk, tmp_path):
    walk.save(tmp_path / "walk.bvh")
    again = MotionClip.load(tmp_path / "walk.bvh")
    assert again.name == "walk" and again.fps == pytest.approx(30, abs=1e-4)
    assert np.abs(again.joints - walk.joints).max() < 1e-5
    assert np.degrees(rot.geodesic(again.rotations, walk.rotations)).max() < 0.01


def test_unknown_suffixes_name_the_known_ones(walk, tmp_path):
    with pytest.raises(
        InputError, match=r'suffix ".fbx" is no motion format; expected one of .mp4 .gif .png .bvh .npz .npy'
    ):
        walk.save(tmp_path / "walk.fbx")
    with pytest.raises(InputError, match=r"expected one of .bvh .npz .npy$"):
        MotionClip.load(tmp_path / "walk.mp4")
    assert list(tmp_path.iterdir()) == []


def test_bad_npz_files(walk, tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, joints=walk.joints)
    with pytest.raises(InputError, match=r"bad\.npz: has no fps, rotations; found joints"):
        MotionClip.load(path)
    joints = walk.joints.copy()
    joints[0] = np.nan
    np.savez(path, joints=joints, rotations=walk.rotations, fps=30.0)
    with pytest.raises(InputError, match=r"bad\.npz: .*joints have NaN or infinity in frame 0"):
        MotionClip.load(path)
    np.savez(path, joints=np.array([{}], dtype=object), rotations=walk.rotations, fps=30.0)
    with pytest.raises(InputError, match=r"has no joints; found .* \(pickled Python objects are never loaded"):
        MotionClip.load(path)
    walk.save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"bad\.npz"):
        MotionClip.load(path)
    with pytest.raises(InputError, match=r"none\.npy: cannot be read"):
        MotionClip.load(tmp_path / "none.npy")
