"""The 272 features: layout, both inversions, windows, statistics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamo_jax.errors import InputError
from llamo_jax.motion import representation as rep
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, forward_kinematics

PROPERTY = settings(deadline=None, max_examples=60)


def _motion(seed: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    rotations = rot.from_rotvec(np.cumsum(generator.normal(scale=0.1, size=(frames, 22, 3)), 0))
    root = np.cumsum(generator.normal(scale=0.05, size=(frames, 3)), 0) + generator.normal(size=3)
    return forward_kinematics(rotations, root, DEFAULT_OFFSETS), rotations


def _canonical(joints: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """The joints moved as the representation says: first frame over the origin facing +Z, lowest joint on the floor."""
    moved = (joints - joints[0, 0] * [1, 0, 1]) @ rot.yaw(-rot.heading(rotations[0, 0])).T
    return moved - [0, moved[..., 1].min(), 0]


def test_groups_cover_every_feature_once():
    assert [index for group in rep.GROUPS for index in range(rep.FEATURES)[group]] == list(range(272))


@PROPERTY
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_positions_round_trip(seed, frames):
    joints, rotations = _motion(seed, frames)
    decoded = rep.decode_positions(rep.encode(joints, rotations))
    assert np.allclose(decoded, _canonical(joints, rotations), atol=1e-9)


@PROPERTY
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_rotations_round_trip(seed, frames):
    joints, rotations = _motion(seed, frames)
    decoded, root = rep.decode_rotations(rep.encode(joints, rotations))
    expected = rotations.copy()
    expected[:, 0] = rot.yaw(-rot.heading(rotations[0, 0])) @ rotations[:, 0]
    assert np.allclose(decoded, expected, atol=1e-9)
    assert np.allclose(forward_kinematics(decoded, root, DEFAULT_OFFSETS), _canonical(joints, rotations), atol=1e-9)


@PROPERTY
@given(st.integers(0, 2**32 - 1))
def test_features_do_not_depend_on_where_the_motion_starts_or_faces(seed):
    joints, rotations = _motion(seed, 12)
    turn = rot.yaw(np.array(seed % 7 - 3.0))
    turned = rotations.copy()
    turned[:, 0] = turn @ rotations[:, 0]
    assert np.allclose(rep.encode(joints @ turn.T + [3.0, 5.0, -2.0], turned), rep.encode(joints, rotations), atol=1e-9)


def test_layout_of_a_known_motion():
    # Two frames of a T-pose: a step of 0.1 m forward, then 0.1 m forward with a turn of 0.2 to the left.
    rotations = np.broadcast_to(np.eye(3), (3, 22, 3, 3)).copy()
    rotations[2, 0] = rot.yaw(np.array(0.2))
    root = np.array([[0, 0.9, 0], [0, 0.9, 0.1], [0, 0.9, 0.2]])
    features = rep.encode(forward_kinematics(rotations, root, DEFAULT_OFFSETS), rotations)
    assert np.allclose(features[:, rep.ROOT_VELOCITY], [[0, 0], [0, 0.1], [0, 0.1]])
    still, left = (
        [1, 0, 0, 0, 1, 0],
        [np.cos(0.2), 0, -np.sin(0.2), 0, 1, 0],
    )  # the delta UNDOES the turn: yaw(h), h = -heading
    assert np.allclose(features[:, rep.HEADING_DELTA], [still, still, left])
    rest = features[0, rep.POSITIONS].reshape(22, 3)
    assert np.allclose(features[:, rep.POSITIONS].reshape(3, 22, 3), rest)
    assert np.allclose(rest[1] - rest[0], DEFAULT_OFFSETS[1]) and np.isclose(rest[:, 1].min(), 0)
    assert np.allclose(features[:, rep.VELOCITIES], 0)
    assert np.allclose(features[:, rep.ROTATIONS].reshape(3, 22, 6), still)


def test_velocity_is_in_the_heading_of_the_frame_before():
    rotations = np.broadcast_to(np.eye(3), (3, 22, 3, 3)).copy()
    rotations[1:, 0] = rot.yaw(np.array(np.pi / 2))
    root = np.array([[0, 0.9, 0], [0.1, 0.9, 0], [0.2, 0.9, 0]])  # moves along world +X throughout
    velocity = rep.encode(forward_kinematics(rotations, root, DEFAULT_OFFSETS), rotations)[:, rep.ROOT_VELOCITY]
    assert np.allclose(velocity, [[0, 0], [0.1, 0], [0, 0.1]])


def test_dead_channels_are_exactly_constant(walk):
    features = rep.encode(walk.joints, walk.rotations)
    assert (features[:, [3, 5, 7]] == 0).all() and (features[:, 6] == 1).all()
    assert (features[:, [8, 10, 74, 76]] == 0).all()


def test_headings_of_unnormalised_deltas_do_not_shrink_or_drift():
    features = np.zeros((2000, 272))
    features[:, rep.HEADING_DELTA] = (
        rot.to_6d(rot.yaw(np.full(2000, -0.01))) * 1.3
    )  # a generated delta is no exact rotation
    assert np.allclose(rep.headings(features), 0.01 * np.arange(1, 2001), atol=1e-9)


def test_a_window_is_the_encoding_of_that_part_of_the_motion(walk):
    features = rep.encode(walk.joints, walk.rotations)
    cut = slice(20, 45)
    expected = rep.encode(walk.joints[cut], walk.rotations[cut])
    # The floor stays the whole clip's.
    raise_by = walk.joints[cut][..., 1].min() - walk.joints[..., 1].min()
    expected[:, rep.POSITIONS.start + 1 : rep.POSITIONS.stop : 3] += raise_by
    assert np.allclose(rep.canonical_window(features, 20, 45), expected, atol=1e-9)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (0, 61), (7, 3)])
def test_a_window_outside_of_the_clip_is_refused(walk, start, stop):
    features = rep.encode(walk.joints, walk.rotations)
    with pytest.raises(InputError, match=rf"window {start}:{stop} of 60 frames; expected 0 <= start < stop <= 60"):
        rep.canonical_window(features, start, stop)


def test_group_deviations_share_one_value_and_are_never_zero():
    variance = np.zeros(272)
    variance[rep.POSITIONS] = np.arange(66)
    std = rep.group_deviations(variance)
    assert np.allclose(std[rep.POSITIONS], np.sqrt(np.arange(66).mean()))
    assert (std > 0).all() and len(np.unique(std[rep.ROTATIONS])) == 1
