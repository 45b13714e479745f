"""The skeleton: order, sides, forward kinematics."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import (
    DEFAULT_OFFSETS,
    JOINT_INDEX,
    JOINT_NAMES,
    PARENTS,
    forward_kinematics,
    recover_offsets,
)
from tests.bodies import MIRROR

PROPERTY = settings(deadline=None, max_examples=60)


def test_parents_come_first_and_match_smpl():
    assert PARENTS == (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
    assert all(parent < joint for joint, parent in enumerate(PARENTS))


def test_mirror_exchanges_sides_and_keeps_the_hierarchy():
    assert [MIRROR[joint] for joint in MIRROR] == list(range(22))
    for joint, parent in enumerate(PARENTS[1:], start=1):
        assert PARENTS[MIRROR[joint]] == MIRROR[parent]
        assert (MIRROR[joint] == joint) == (not JOINT_NAMES[joint].startswith(("left", "right")))
    assert np.allclose(DEFAULT_OFFSETS[list(MIRROR)] * [-1, 1, 1], DEFAULT_OFFSETS)


def test_the_rest_pose_faces_z_with_its_left_at_plus_x():
    rest = forward_kinematics(np.broadcast_to(np.eye(3), (22, 3, 3)).copy(), np.zeros(3), DEFAULT_OFFSETS)
    at = {name: rest[index] for name, index in JOINT_INDEX.items()}
    assert at["left_wrist"][0] > 0.6 and at["right_wrist"][0] < -0.6
    assert at["left_foot"][2] > at["left_ankle"][2] + 0.1
    assert at["head"][1] > 0.5 and at["left_ankle"][1] < -0.8


def test_one_bent_knee_moves_only_what_hangs_on_it():
    rotations = np.broadcast_to(np.eye(3), (22, 3, 3)).copy()
    rest = forward_kinematics(rotations, np.zeros(3), DEFAULT_OFFSETS)
    rotations[JOINT_INDEX["left_knee"]] = rot.from_rotvec(np.array([np.pi / 2, 0, 0]))
    bent = forward_kinematics(rotations, np.zeros(3), DEFAULT_OFFSETS)
    moved = [JOINT_NAMES[joint] for joint in range(22) if not np.allclose(bent[joint], rest[joint])]
    assert moved == ["left_ankle", "left_foot"]
    assert bent[JOINT_INDEX["left_ankle"], 2] < -0.3  # a positive turn about X brings the heel backwards


@PROPERTY
@given(st.integers(0, 2**32 - 1))
def test_offsets_come_back_from_any_motion(seed):
    generator = np.random.default_rng(seed)
    rotations = rot.from_rotvec(generator.normal(size=(5, 22, 3)))
    offsets = DEFAULT_OFFSETS + generator.normal(scale=0.05, size=(22, 3))
    offsets[0] = 0
    positions = forward_kinematics(rotations, generator.normal(size=(5, 3)), offsets)
    assert np.allclose(recover_offsets(positions, rotations), offsets, atol=1e-12)
