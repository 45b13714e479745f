"""Real motion: the golden clip of the 272 representation, and recordings of two motion capture collections."""

import tarfile

import numpy as np
import pytest

from llamo_jax.motion import MotionClip
from llamo_jax.motion import representation as rep
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.bvh import read_bvh
from llamo_jax.motion.joints import find_joints
from llamo_jax.motion.retarget import to_smpl22
from llamo_jax.motion.skeleton import JOINT_INDEX, forward_kinematics, recover_offsets

pytestmark = pytest.mark.shared_data


def _members(archive, wanted, folder):
    """Extracts the .bvh files of these names; stops at the last one, since the archive can only be read from its
    start."""
    wanted, paths = set(wanted), {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.rpartition("/")[2].removesuffix(".bvh")
            if name in wanted and member.name.endswith(".bvh"):
                paths[name] = folder / f"{name}.bvh"
                paths[name].write_bytes(tar.extractfile(member).read())
                if len(paths) == len(wanted):
                    break
    assert set(paths) == wanted
    return paths


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "data" / "motion_272_golden"
    features = np.load(folder / "features_272.npy")
    joints = np.load(folder / "joints.npy")[:, :22]
    vectors = np.load(folder / "smpl_85_face_z.npy")[:, :66].reshape(-1, 22, 3)
    return features, joints, rot.from_rotvec(vectors)


def test_golden_features(golden):
    features, joints, rotations = golden
    assert np.abs(rep.encode(joints, rotations) - features).max() < 1e-5


def test_golden_positions(golden):
    features, joints, _ = golden
    joints = joints - joints[0, 0] * [1, 0, 1] - [0, joints[..., 1].min(), 0]
    assert np.abs(rep.decode_positions(features) - joints).max() < 1e-5


def test_golden_rotations(golden):
    features, joints, _ = golden
    joints = joints - joints[0, 0] * [1, 0, 1] - [0, joints[..., 1].min(), 0]
    rotations, root = rep.decode_rotations(features)
    offsets = recover_offsets(joints, rotations)
    assert np.abs(forward_kinematics(rotations, root, offsets) - joints).max() < 1e-4
    assert np.allclose(offsets[JOINT_INDEX["left_elbow"]], [0.2698, -0.0765, -0.0467], atol=1e-4)


BANDAI = (
    "dataset-1_bow_normal_001", "dataset-1_kick_normal_001", "dataset-1_walk_normal_001", "dataset-1_run_normal_001",
    "dataset-2_wave-left-hand_normal_001", "dataset-2_walk-turn-left_normal_001",
)  # fmt: skip


@pytest.fixture(scope="module")
def bandai(shared, tmp_path_factory):
    return _members(shared / "data" / "bandai_namco.tar.xz", BANDAI, tmp_path_factory.mktemp("bandai"))


CMU = {
    "02_04": "31 joints",
    "07_01": "31 joints",
    "09_01": "43 joints",
    "131_01": "31 joints, other offsets",
    "16_01": "ASF names, 30 Hz",
}


@pytest.fixture(scope="module")
def cmu(shared, tmp_path_factory):
    return _members(shared / "data" / "cmu_mocap.tar.xz", CMU, tmp_path_factory.mktemp("cmu"))


def _agrees_with_its_source(path, worst):
    """Mapped joints stay where the file has them, and flexion is flexion."""
    bvh = read_bvh(path)
    motion = to_smpl22(bvh, path)
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    positions = bvh.world()[0][-len(joints) :]
    found = find_joints(bvh, path).joints
    leg = found["left_knee"], found["left_hip"]
    smpl_leg = np.linalg.norm(motion.offsets[JOINT_INDEX["left_knee"]])
    scale = smpl_leg / np.linalg.norm(positions[0, leg[0]] - positions[0, leg[1]])
    for name, index in found.items():
        assert np.abs(joints[:, JOINT_INDEX[name]] - positions[:, index] * scale).max() < worst, name
    for side in ("left", "right"):
        knee = rot.to_rotvec(motion.rotations[:, JOINT_INDEX[f"{side}_knee"]])
        assert np.median(knee[:, 0]) > 0 and np.abs(knee[:, 0]).max() > np.abs(knee[:, 1:]).max()
    assert motion.offsets[JOINT_INDEX["left_wrist"], 0] > 0.15 > -0.15 > motion.offsets[JOINT_INDEX["right_wrist"], 0]
    assert motion.offsets[JOINT_INDEX["left_ankle"], 1] < -0.35
    return motion


@pytest.mark.parametrize("name", BANDAI)
def test_bandai_namco(bandai, name):
    _agrees_with_its_source(bandai[name], 0.005)
    for decoded in _decoded(bandai[name]):
        assert abs(rot.heading(decoded.rotations[0, 0])) < 1e-5
        # The floor is the lowest joint, a toe, which lies 4 cm above the data set's own ground: hips at 0.90 m, head at
        # 1.40 m.
        hips, head = np.median(decoded.joints[:, 0, 1]), np.median(decoded.joints[:, JOINT_INDEX["head"], 1])
        assert 0.75 < hips < 0.92 and 1.1 < head < 1.42


@pytest.mark.parametrize("name", BANDAI)
def test_bandai_namco_through_the_features(bandai, name):
    """Retargeted, encoded and decoded, joints stay within 2 cm of the file's, moved and turned as features are
    canonical."""
    bvh = read_bvh(bandai[name])
    clip = MotionClip.load(bandai[name])
    found, scale = find_joints(bvh, bandai[name]).joints, None
    source = bvh.world()[0][-len(clip) :]
    leg = found["left_knee"], found["left_hip"]
    scale = np.linalg.norm(clip.offsets[JOINT_INDEX["left_knee"]]) / np.linalg.norm(
        source[0, leg[0]] - source[0, leg[1]]
    )
    turn = rot.yaw(-rot.heading(clip.rotations[:1, 0]))[0]
    floor = np.array([0, clip.joints[..., 1].min(), 0])
    for decoded in _decoded(bandai[name]):
        for joint, index in found.items():
            wanted = (source[:, index] * scale - clip.joints[0, 0] * [1, 0, 1] - floor) @ turn.T
            assert np.linalg.norm(decoded.joints[:, JOINT_INDEX[joint]] - wanted, axis=-1).max() < 0.02, joint


def _decoded(path):
    features = MotionClip.load(path).features()
    return [MotionClip.from_features(features, source=source) for source in ("positions", "rotations")]


@pytest.mark.parametrize(("name", "slowest", "fastest"), [("walk", 1.0, 1.3), ("run", 2.3, 4.0)])
def test_bandai_namco_speeds(bandai, name, slowest, fastest):
    for clip in _decoded(bandai[f"dataset-1_{name}_normal_001"]):
        speed = np.linalg.norm(np.diff(clip.joints[:, 0, [0, 2]], axis=0), axis=-1) * 30
        assert slowest < np.median(speed) < fastest


def test_bandai_namco_waves_the_left_hand(bandai):
    for clip in _decoded(bandai["dataset-2_wave-left-hand_normal_001"]):
        left, right = (clip.joints[:, JOINT_INDEX[f"{side}_wrist"], 1].max() for side in ("left", "right"))
        assert left + 0.04 == pytest.approx(1.74, abs=0.03) and right < 0.9


def test_bandai_namco_turns_left(bandai):
    for clip in _decoded(bandai["dataset-2_walk-turn-left_normal_001"]):
        assert 80 < np.degrees(np.unwrap(rot.heading(clip.rotations[:, 0]))[-1]) < 110
        assert clip.joints[-1, 0, 0] > 1  # and walks that way: +X is the left of where it started


@pytest.mark.parametrize("name", CMU)
def test_cmu(cmu, name):
    # Two neck joints become one bone of constant length: the head is a few millimetres off where they bend.
    motion = _agrees_with_its_source(cmu[name], 0.01)
    # No T-pose is left at the start.
    first = MotionClip.load(cmu[name]).joints[0]
    assert np.linalg.norm(first[JOINT_INDEX["left_wrist"]] - first[JOINT_INDEX["right_wrist"]]) < 1.0
    turns = rot.geodesic(motion.rotations[:-1], motion.rotations[1:])[:, JOINT_INDEX["left_shoulder"]]
    assert turns[:12].max() < 0.3
