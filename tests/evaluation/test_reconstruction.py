import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.evaluation.reconstruction import evaluate_reconstruction
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.representation import POSITIONS, ROOT_VELOCITY, encode
from llamo_jax.motion.skeleton import JOINT_INDEX
from tests import bodies


def features(joints: np.ndarray, rotations: np.ndarray | None = None) -> np.ndarray:
    if rotations is None:
        rotations = np.broadcast_to(np.eye(3), (*joints.shape[:2], 3, 3)).copy()
    return encode(joints, rotations)


def test_a_perfect_reconstruction():
    original = features(bodies.sliding(41, (0, 0, 1.0)) + np.random.default_rng(0).normal(0, 1e-4, (41, 22, 3)))
    figures = evaluate_reconstruction([original], [original[:40]])  # 4 * (T // 4) frames come back
    assert figures["frames"] == 40
    for name in ("mpjpe_mm", "mpjre_degrees", "root_error_mm", "acceleration_error_mm"):
        assert figures[name] == pytest.approx(0, abs=1e-6)
    assert figures["jerk_ratio"] == pytest.approx(1)
    assert figures["skating_ratio"] == pytest.approx(1)


def test_one_joint_off_by_22_mm_is_one_mm_and_frames_are_weighed():
    original = features(bodies.standing(40))
    moved = original.copy()
    moved[:, POSITIONS.start + 3 * JOINT_INDEX["head"] + 1] += 0.022
    short = features(bodies.standing(10))
    figures = evaluate_reconstruction([original, short], [moved, short])
    assert figures["mpjpe_mm"] == pytest.approx(1.0 * 40 / 50)
    assert figures["mpjre_degrees"] == pytest.approx(0, abs=1e-6)
    assert figures["acceleration_error_mm"] == pytest.approx(0, abs=1e-6)


def test_root_drift_is_aligned_away_in_mpjpe_and_seen_in_the_root():
    original = features(bodies.standing(31))
    drifting = original.copy()
    drifting[1:, ROOT_VELOCITY.start] += 0.01  # to 0.3 m at the end
    figures = evaluate_reconstruction([original], [drifting])
    assert figures["mpjpe_mm"] == pytest.approx(0, abs=1e-6)
    assert figures["root_error_mm"] == pytest.approx(150)


def test_a_rotation_off_by_44_degrees_is_two_degrees():
    rotations = np.broadcast_to(np.eye(3), (20, 22, 3, 3)).copy()
    original = features(bodies.standing(20), rotations)
    rotations[:, JOINT_INDEX["left_elbow"]] = rot.from_rotvec(np.radians([0, 44.0, 0]))
    figures = evaluate_reconstruction([original], [features(bodies.standing(20), rotations)])
    assert figures["mpjre_degrees"] == pytest.approx(2)
    assert figures["mpjpe_mm"] == pytest.approx(0, abs=1e-6)
    # Only the wrist follows the elbow: it moves by a chord of the forearm.
    forearm = np.linalg.norm(bodies.REST[JOINT_INDEX["left_wrist"]] - bodies.REST[JOINT_INDEX["left_elbow"]])
    assert figures["mpjpe_rotations_mm"] == pytest.approx(1000 * 2 * forearm * np.sin(np.radians(22)) / 22, rel=1e-3)


def test_skating_is_measured_on_the_contacts_of_the_original():
    original, slow = features(bodies.sliding(60, (0, 0, 0.1))), bodies.sliding(60, (0, 0, 0.3))
    slow[..., 1] += (np.arange(60) % 2 * 0.02)[:, None]  # bobs: it has no contacts of its own
    figures = evaluate_reconstruction([original], [features(slow)])
    assert figures["foot_skating_real"] == pytest.approx(0.1)
    assert figures["skating_ratio"] == pytest.approx(3)


def test_jerk_ratio():
    path = np.random.default_rng(0).normal(0, 0.01, (40, 1, 1)) * [1.0, 0, 0]
    original, double = (
        features(bodies.standing(40) + path - path[0]),
        features(bodies.standing(40) + 2 * (path - path[0])),
    )
    assert evaluate_reconstruction([original], [double])["jerk_ratio"] == pytest.approx(2)


def test_acceleration_error_in_mm_a_frame_squared():
    original = features(bodies.standing(30))
    bent = original.copy()
    bent[:, POSITIONS.start + 3 * JOINT_INDEX["head"] + 1] += 0.5 * 0.011 * np.arange(30) ** 2
    assert evaluate_reconstruction([original], [bent])["acceleration_error_mm"] == pytest.approx(11 / 22)


def test_unequal_counts_are_refused():
    with pytest.raises(InputError, match="1 originals and 0 reconstructions"):
        evaluate_reconstruction([features(bodies.standing(4))], [])
