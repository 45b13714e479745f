"""Retargeting: skeletons of every kind, written by formulas, come back as the SMPL motion they were made from."""

import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.bvh import Bvh
from llamo_jax.motion.retarget import UNITS, find_joints, to_smpl22
from llamo_jax.motion.skeleton import (
    DEFAULT_OFFSETS,
    JOINT_INDEX,
    JOINT_NAMES,
    PARENTS,
    forward_kinematics,
    pose,
)
from tests.bodies import MIRROR

MIXAMO = {
    "pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "spine3": "Spine2", "neck": "Neck", "head": "Head",
    "hip": "UpLeg",
    "knee": "Leg", "ankle": "Foot", "foot": "ToeBase", "collar": "Shoulder", "shoulder": "Arm", "elbow": "ForeArm",
    "wrist": "Hand",
}  # fmt: skip
BIPED = {
    "pelvis": "Pelvis", "spine1": "Spine", "spine2": "Spine1", "spine3": "Spine2", "neck": "Neck", "head": "Head",
    "hip": "Thigh",
    "knee": "Calf", "ankle": "Foot", "foot": "Toe0", "collar": "Clavicle", "shoulder": "UpperArm", "elbow": "Forearm",
    "wrist": "Hand",
}  # fmt: skip
BANDAI = {
    "pelvis": "Hips", "spine1": "Spine", "spine3": "Chest", "neck": "Neck", "head": "Head", "hip": "UpperLeg",
    "knee": "LowerLeg",
    "ankle": "Foot", "foot": "Toes", "collar": "Shoulder", "shoulder": "UpperArm", "elbow": "LowerArm", "wrist": "Hand",
}  # fmt: skip
ASF = {
    "pelvis": "hip", "spine1": "lowerback", "spine2": "upperback", "spine3": "thorax", "neck": "lowerneck",
    "head": "head", "hip": "femur",
    "knee": "tibia", "ankle": "foot", "foot": "toes", "collar": "clavicle", "shoulder": "humerus", "elbow": "radius",
    "wrist": "wrist",
}  # fmt: skip


def _names(table: dict[str, str], sided: str) -> list[str]:
    """The 22 joints under the names of a rig; `sided` is as in "mixamorig:{Side}{name}"."""
    names = []
    for joint in JOINT_NAMES:
        side, _, part = joint.rpartition("_")
        if side:
            names.append(sided.format(Side=side.title(), S=side[0].upper(), s=side[0], name=table[part]))
        else:
            names.append(
                sided.format(Side="", S="", s="", name=table[part]).replace("__", "_").strip("_").replace("  ", " ")
            )
    return names


NAMINGS = {
    "Mixamo": _names(MIXAMO, "mixamorig:{Side}{name}"),
    "LAFAN1": _names(MIXAMO | {"foot": "Toe"}, "{Side}{name}"),
    "Biped": _names(BIPED, "Bip01 {S} {name}"),
    "3ds Max": _names(BIPED, "Bip001 {S} {name}"),
    "MotionBuilder": _names(MIXAMO, "Character1_{Side}{name}"),
    "ASF": _names(ASF, "{s}{name}"),
    "underscored": _names(BIPED, "{name}_{S}"),
    "SMPL": list(JOINT_NAMES),
}


def _source(clip, names, rest, *, scale=100.0, z_up=False) -> Bvh:
    """A file that shows `clip` on a rig whose joint j has the world rotation rest[j] in SMPL's T-pose."""
    positions, world = pose(clip.rotations, clip.joints[:, 0], DEFAULT_OFFSETS)
    world = world @ rest
    root = positions[:, 0] * scale
    offsets = np.zeros((22, 3))
    local = world.copy()
    for joint, parent in enumerate(PARENTS[1:], start=1):
        offsets[joint] = rest[parent].T @ DEFAULT_OFFSETS[joint] * scale
        local[:, joint] = np.swapaxes(world[:, parent], -1, -2) @ world[:, joint]
    if z_up:
        to_z_up = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        # The root's own axes turn with the world, so that the zero pose stands along Z as well.
        offsets, root = offsets @ to_z_up.T, root @ to_z_up.T
        local = to_z_up @ local @ to_z_up.T
    order = "ZYX"
    channels = [("Xposition", "Yposition", "Zposition", *[f"{axis}rotation" for axis in order])]
    channels += [tuple(f"{axis}rotation" for axis in order)] * 21
    values = np.concatenate([root, rot.to_euler(order, local).reshape(len(local), -1)], 1)
    return Bvh(tuple(names), PARENTS, offsets, tuple(channels), values, 1 / clip.fps)


def _same_body(motion, clip, degrees):
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    assert np.abs(joints - clip.joints).max() < 1e-3
    assert np.degrees(rot.geodesic(motion.rotations, clip.rotations)).max() < degrees


IDENTITY = np.broadcast_to(np.eye(3), (22, 3, 3))


@pytest.mark.parametrize("naming", NAMINGS)
def test_names_of_common_rigs(walk, naming):
    bvh = _source(walk, NAMINGS[naming], IDENTITY)
    assert find_joints(bvh, "file") == dict(JOINT_INDEX)
    _same_body(to_smpl22(bvh, "file"), walk, 0.01)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("z_up", [False, True])
def test_units_and_up_axes_are_found(walk, unit, z_up):
    bvh = _source(walk, NAMINGS["Mixamo"], IDENTITY, scale=1 / UNITS[unit], z_up=z_up)
    _same_body(to_smpl22(bvh, "file"), walk, 0.01)


def test_an_impossible_body_is_refused(walk):
    giant = _source(walk, NAMINGS["Mixamo"], IDENTITY, scale=1e5)
    with pytest.raises(
        InputError, match=r"file: legs of .* units are no adult's in metre, centimetre, .*; scale the file to metres"
    ):
        to_smpl22(giant, "file")


def test_an_a_pose_becomes_a_t_pose(walk):
    """A rig whose zero pose holds the arms down at 45 degrees."""
    rest = IDENTITY.copy()
    for side in ("left", "right"):
        bone = DEFAULT_OFFSETS[JOINT_INDEX[f"{side}_elbow"]]
        lowered = rot.between(bone, bone - np.linalg.norm(bone) * np.array([0, 1, 0]))
        for joint in ("shoulder", "elbow", "wrist"):
            # In the T-pose the arm has been raised by the opposite of what lowers it at zero.
            rest[JOINT_INDEX[f"{side}_{joint}"]] = lowered.T
    motion = to_smpl22(_source(walk, NAMINGS["Mixamo"], rest), "file")
    _same_body(
        motion, walk, 3.0
    )  # the forearm is aligned the shortest way: its bone is not quite parallel to the upper arm's
    assert np.allclose(motion.offsets, DEFAULT_OFFSETS, atol=0.02)


def test_a_rig_turned_away_at_zero_faces_z_at_rest(walk):
    rest = np.broadcast_to(rot.yaw(np.array(2.5)).T, (22, 3, 3))
    _same_body(to_smpl22(_source(walk, NAMINGS["Biped"], rest), "file"), walk, 0.01)


def test_a_rig_whose_zero_pose_is_no_body(walker):
    """All bones along local X, as animation software likes it: local rotations mean nothing, the upright frame
    decides."""
    axes = IDENTITY.copy()
    for joint in range(22):
        children = [child for child in range(22) if PARENTS[child] == joint]
        if len(children) == 1:
            axes[joint] = rot.between([1.0, 0, 0], DEFAULT_OFFSETS[children[0]])
    axes[JOINT_INDEX["pelvis"]] = rot.from_rotvec(np.array([1.0, 2.0, -0.5]))
    clip = walker(frames=40)
    rotations = clip.rotations.copy()
    rotations[0] = np.eye(3)  # it stands in a T-pose once
    root = clip.joints[:, 0].copy()
    root[0, 1] = 0.97
    clip = type(clip).from_rotations(rotations, root)
    motion = to_smpl22(_source(clip, NAMINGS["Mixamo"], axes), "file")
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    # Frame 0 may be dropped as a rest pose that jumps.
    assert np.abs(joints - clip.joints[-len(joints) :]).max() < 1e-3
    expected = clip.rotations[-len(joints) :]
    assert np.degrees(rot.geodesic(motion.rotations, expected)).max() < 25
    knee = rot.to_rotvec(motion.rotations)[:, JOINT_INDEX["left_knee"]]
    assert (knee[1:, 0] > 0).all() and np.abs(knee[1:, 1:]).max() < 0.2  # flexion about +X


def test_missing_spine_joints_lie_in_between(walk):
    names = NAMINGS["Mixamo"].copy()
    bvh = _source(walk, names, IDENTITY)
    # Without spine2: its children hang on spine1, a little farther away.
    drop = JOINT_INDEX["spine2"]
    keep = [joint for joint in range(22) if joint != drop]
    parents = tuple(
        -1 if PARENTS[j] < 0 else keep.index(JOINT_INDEX["spine1"] if PARENTS[j] == drop else PARENTS[j]) for j in keep
    )
    offsets = bvh.offsets.copy()
    offsets[JOINT_INDEX["spine3"]] += offsets[drop]
    columns = [c for c in range(bvh.values.shape[1]) if not 3 + 3 * drop <= c < 6 + 3 * drop]
    bvh = Bvh(
        tuple(names[j] for j in keep),
        parents,
        offsets[keep],
        tuple(bvh.channels[j] for j in keep),
        bvh.values[:, columns],
        1 / 30,
    )
    assert "spine2" not in find_joints(bvh, "file")
    motion = to_smpl22(bvh, "file")
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    middle = (joints[:, JOINT_INDEX["spine1"]] + joints[:, JOINT_INDEX["spine3"]]) / 2
    assert np.allclose(joints[:, drop], middle, atol=1e-6)
    source = bvh.world()[0] / 100
    for name in ("left_wrist", "right_foot", "head", "spine3"):
        assert np.abs(joints[:, JOINT_INDEX[name]] - source[:, keep.index(JOINT_INDEX[name])]).max() < 1e-3


def test_left_stays_left(walk):
    lifted = walk.rotations.copy()
    lifted[:, JOINT_INDEX["left_shoulder"]] = rot.from_rotvec(np.array([0, 0, 1.2]))
    clip = type(walk).from_rotations(lifted, walk.joints[:, 0])
    motion = to_smpl22(_source(clip, NAMINGS["LAFAN1"], IDENTITY), "file")
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    assert (joints[:, JOINT_INDEX["left_wrist"], 1] > joints[:, JOINT_INDEX["head"], 1]).all()
    assert (joints[:, JOINT_INDEX["right_wrist"], 1] < joints[:, JOINT_INDEX["neck"], 1]).all()
    assert np.allclose(motion.offsets[list(MIRROR)] * [-1, 1, 1], motion.offsets, atol=1e-6)


@pytest.mark.parametrize("ease", [1, 3])
def test_an_opening_rest_pose_is_dropped(walker, ease):
    """A T-pose in frame 0 that jumps, or eases within 25 ms, into the motion."""
    clip = walker(frames=240, fps=120.0)
    weights = np.linspace(1, 0, ease + 1)[:ease]
    opening = rot.from_rotvec(rot.to_rotvec(clip.rotations[:1]) * (1 - weights)[:, None, None])
    opened = type(clip).from_rotations(
        np.concatenate([opening, clip.rotations]),
        np.concatenate([clip.joints[:1, 0].repeat(ease, 0), clip.joints[:, 0]]),
        fps=120.0,
    )
    motion = to_smpl22(_source(opened, NAMINGS["Mixamo"], IDENTITY), "file")
    assert len(motion.rotations) == 240
    _same_body(motion, clip, 0.01)


def test_a_motion_that_starts_with_spread_arms_is_kept_whole(walker):
    clip = walker(frames=60)
    rotations = clip.rotations.copy()
    lowering = np.linspace(0, 1, 60)[:, None]
    for side in ("left", "right"):
        joint = JOINT_INDEX[f"{side}_shoulder"]
        rotations[:, joint] = rot.from_rotvec(rot.to_rotvec(rotations[:, joint]) * lowering)
        rotations[0, JOINT_INDEX[f"{side}_elbow"]] = rotations[1, JOINT_INDEX[f"{side}_elbow"]]
    clip = type(clip).from_rotations(rotations, clip.joints[:, 0])
    assert len(to_smpl22(_source(clip, NAMINGS["Mixamo"], IDENTITY), "file").rotations) == 60


def test_what_cannot_be_mapped_is_named(walk):
    names = NAMINGS["Mixamo"].copy()
    names[JOINT_INDEX["left_knee"]] = "mixamorig:Banana"
    with pytest.raises(
        InputError, match=r"^file: no joint found for left_knee; the file has mixamorig:Hips, .*mixamorig:Banana"
    ) as error:
        to_smpl22(_source(walk, names, IDENTITY), "file")
    assert "\n" not in str(error.value)
