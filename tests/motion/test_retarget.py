"""Retargeting: skeletons of every kind, written by formulas, come back as the SMPL motion they were made from."""

import dataclasses
import json

import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.motion import MotionClip
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.bvh import Bvh
from llamo_jax.motion.joints import find_joints, read_map
from llamo_jax.motion.retarget import UNITS, to_smpl22
from llamo_jax.motion.skeleton import (
    DEFAULT_OFFSETS,
    JOINT_INDEX,
    JOINT_NAMES,
    PARENTS,
    forward_kinematics,
    pose,
)
from tests.bodies import MIRROR
from tests.motion.rig_files import RigFile, names_of


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


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("z_up", [False, True])
def test_units_and_up_axes_are_found(walk, unit, z_up):
    bvh = _source(walk, names_of("Mixamo"), IDENTITY, scale=1 / UNITS[unit], z_up=z_up)
    _same_body(to_smpl22(bvh, "file"), walk, 0.01)


@pytest.mark.parametrize("scale", [1e5, 25.0, 4.0])
def test_a_body_of_no_known_unit_is_refused(walk, scale):
    """As 25 or 4 units in a metre, which is no unit of anyone's; with the unit it is read."""
    odd = _source(walk, names_of("Mixamo"), IDENTITY, scale=scale)
    with pytest.raises(InputError, match=r"file: .* units from ankles to head are no person in metre, .*; .* --unit"):
        to_smpl22(odd, "file")
    _same_body(to_smpl22(odd, "file", unit=1 / scale), walk, 0.01)


def test_an_a_pose_becomes_a_t_pose(walk):
    """A rig whose zero pose holds the arms down at 45 degrees."""
    rest = IDENTITY.copy()
    for side in ("left", "right"):
        bone = DEFAULT_OFFSETS[JOINT_INDEX[f"{side}_elbow"]]
        lowered = rot.between(bone, bone - np.linalg.norm(bone) * np.array([0, 1, 0]))
        for joint in ("shoulder", "elbow", "wrist"):
            # In the T-pose the arm has been raised by the opposite of what lowers it at zero.
            rest[JOINT_INDEX[f"{side}_{joint}"]] = lowered.T
    motion = to_smpl22(_source(walk, names_of("Mixamo"), rest), "file")
    _same_body(
        motion, walk, 3.0
    )  # the forearm is aligned the shortest way: its bone is not quite parallel to the upper arm's
    assert np.allclose(motion.offsets, DEFAULT_OFFSETS, atol=0.02)


def test_a_rig_turned_away_at_zero_faces_z_at_rest(walk):
    rest = np.broadcast_to(rot.yaw(np.array(2.5)).T, (22, 3, 3))
    _same_body(to_smpl22(_source(walk, names_of("Biped"), rest), "file"), walk, 0.01)


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
    motion = to_smpl22(_source(clip, names_of("Mixamo"), axes), "file")
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    # Frame 0 may be dropped as a rest pose that jumps.
    assert np.abs(joints - clip.joints[-len(joints) :]).max() < 1e-3
    expected = clip.rotations[-len(joints) :]
    assert np.degrees(rot.geodesic(motion.rotations, expected)).max() < 25
    knee = rot.to_rotvec(motion.rotations)[:, JOINT_INDEX["left_knee"]]
    assert (knee[1:, 0] > 0).all() and np.abs(knee[1:, 1:]).max() < 0.2  # flexion about +X


def test_missing_spine_joints_lie_in_between(walk):
    names = names_of("Mixamo")
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
    assert "spine2" not in find_joints(bvh, "file").joints
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
    motion = to_smpl22(_source(clip, names_of("LAFAN1"), IDENTITY), "file")
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
    motion = to_smpl22(_source(opened, names_of("Mixamo"), IDENTITY), "file")
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
    assert len(to_smpl22(_source(clip, names_of("Mixamo"), IDENTITY), "file").rotations) == 60


def test_structure_finds_what_names_do_not_and_says_so(walk):
    names = names_of("Mixamo")
    names[JOINT_INDEX["left_knee"]] = "mixamorig:Banana"
    motion = to_smpl22(_source(walk, names, IDENTITY), "file")
    assert motion.joints["left_knee"] == "mixamorig:Banana"
    assert any("took mixamorig:Banana as left_knee by the structure" in note for note in motion.notes)
    _same_body(motion, walk, 0.01)


def test_a_skeleton_without_names_is_read_by_its_structure(walk):
    names = [f"Bone.{number:03d}" for number in range(22)]
    motion = to_smpl22(_source(walk, names, IDENTITY), "file")
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    told = ("left_hip", "right_knee", "left_ankle", "right_shoulder", "left_elbow", "right_wrist", "head")
    assert np.abs(joints - walk.joints)[:, [JOINT_INDEX[joint] for joint in told]].max() < 1e-3
    assert any("by the structure" in note for note in motion.notes)


@pytest.mark.parametrize(
    ("rig", "absent"),
    [
        ({"without": ("neck",)}, "neck"),
        ({"ends": ("head",)}, None),
        ({"ends": ("left_wrist", "right_wrist", "left_foot", "right_foot")}, None),
        ({"without": ("left_collar", "right_collar")}, "left_collar"),
        ({"reference": True, "twists": ("left_hip", "right_shoulder")}, None),
    ],
)
def test_joints_that_a_rig_does_not_have(walk, rig, absent):
    """End sites stand in for the last joint of a limb; what is in the middle lies between its neighbours."""
    motion = to_smpl22(RigFile(names=names_of("LAFAN1"), bones=DEFAULT_OFFSETS, **rig).bvh(walk), "file")
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    there = [JOINT_INDEX[joint] for joint in motion.joints]
    assert np.abs(joints - walk.joints)[:, there].max() < 1e-3 and motion.notes == ()
    assert (absent is None) == (len(there) == 22)
    if absent:
        index = JOINT_INDEX[absent]
        assert np.linalg.norm(joints[:, index] - walk.joints[:, index], axis=-1).max() < 0.08


def test_what_cannot_be_told_is_refused_and_can_be_named(walk, tmp_path):
    """Without names and without feet that point forward, nothing says which side is left."""
    bvh = _source(walk, [f"Bone.{number:03d}" for number in range(22)], IDENTITY)
    offsets = bvh.offsets.copy()
    feet = [JOINT_INDEX["left_foot"], JOINT_INDEX["right_foot"]]
    offsets[feet] = [0, -10, 0]
    blind = dataclasses.replace(bvh, offsets=offsets)
    with pytest.raises(
        InputError, match=r"^file: no joint found for left_hip, .*; the file has Bone\.000, .*--skeleton"
    ):
        to_smpl22(blind, "file")
    path = tmp_path / "map.json"
    path.write_text(json.dumps({joint: f"Bone.{number:03d}" for number, joint in enumerate(JOINT_NAMES)}))
    motion = to_smpl22(blind, "file", skeleton=read_map(path))
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    others = [joint for joint in range(22) if joint not in feet]
    assert np.abs(joints - walk.joints)[:, others].max() < 1e-3
    path.write_text('{"left_kne": "Bone.004"}')
    with pytest.raises(InputError, match=r"left_kne are no joints of SMPL"):
        read_map(path)
    with pytest.raises(InputError, match=r'file: has no joint "Leg" for left_knee'):
        to_smpl22(blind, "file", skeleton={"left_knee": "Leg"})


def test_a_mirrored_file_is_refused(walk):
    """Left-handed axes: what is called left is right, and the toes point backwards."""
    bvh = _source(walk, names_of("Mixamo"), IDENTITY)
    flipped = dataclasses.replace(bvh, offsets=bvh.offsets * [-1, 1, 1])
    with pytest.raises(InputError, match="toes point backwards: left and right are exchanged"):
        to_smpl22(flipped, "file")
    down = flipped.offsets.copy()
    down[[JOINT_INDEX["left_foot"], JOINT_INDEX["right_foot"]]] = [0, -10, 0]  # says nothing of front and back
    with pytest.raises(InputError, match="knees bend forward: left and right are exchanged"):
        to_smpl22(dataclasses.replace(flipped, offsets=down), "file")


def test_a_map_cannot_name_joints_out_of_order(walk):
    bvh = _source(walk, names_of("Mixamo"), IDENTITY)
    with pytest.raises(InputError, match=r"left_ankle \(mixamorig:LeftLeg\) is not below left_knee .*LeftFoot"):
        to_smpl22(bvh, "file", skeleton={"left_knee": "mixamorig:LeftFoot", "left_ankle": "mixamorig:LeftLeg"})


def test_bones_that_change_their_length_are_told_with_their_row(walk):
    bvh = _source(walk, names_of("Mixamo"), IDENTITY)
    knee = JOINT_INDEX["left_knee"]
    column = 6 + 3 * (knee - 1)
    moves = np.tile(bvh.offsets[knee], (60, 1))
    moves[40] += [100, 0, 0]
    channels = list(bvh.channels)
    channels[knee] = ("Xposition", "Yposition", "Zposition", *channels[knee])
    values = np.concatenate([bvh.values[:, :column], moves, bvh.values[:, column:]], 1)
    motion = to_smpl22(dataclasses.replace(bvh, channels=tuple(channels), values=values), "file")
    assert any("the bone to left_" in note and "in row 40" in note for note in motion.notes)


def test_a_root_above_the_hips_and_breasts_beside_the_neck(walk):
    """Rigify's deform bones: no joint is called pelvis, neck or head, and others hang where the neck does."""
    rig = RigFile(names=names_of("Rigify"), bones=DEFAULT_OFFSETS, reference=True, twists=("spine3",))
    bvh = rig.bvh(walk)
    names = tuple({"Reference": "root", "DEF-spine.003Twist": "DEF-breast.L"}.get(name, name) for name in bvh.names)
    motion = to_smpl22(dataclasses.replace(bvh, names=names), "file")
    assert motion.joints["pelvis"] == "DEF-spine" and motion.joints["head"] == "DEF-spine.006"
    _same_body(motion, walk, 0.01)


@pytest.mark.parametrize("fps", [10.0, 12.0, 15.0])
def test_a_held_rest_pose_is_dropped_at_few_frames_a_second(walker, fps):
    clip = walker(frames=30, fps=fps)
    rig = RigFile(names=names_of("Mixamo"), bones=DEFAULT_OFFSETS, held=5)
    assert to_smpl22(rig.bvh(clip), "file").dropped == 5


@pytest.mark.parametrize(("world_up", "rest_up"), [("z", "y"), ("-y", "y"), ("x", "x"), ("-y", "-y"), ("-z", "y")])
def test_the_world_may_have_another_axis_up_than_the_rest_pose(walk, world_up, rest_up):
    rig = RigFile(names=names_of("Unreal"), bones=DEFAULT_OFFSETS, world_up=world_up, rest_up=rest_up)
    motion = to_smpl22(rig.bvh(walk), "file")
    _same_body(motion, walk, 0.01)
    assert motion.up == world_up
    assert any(f"{world_up} is taken for up" in note for note in motion.notes) == (world_up != rest_up)
    assert to_smpl22(rig.bvh(walk), "file", up=world_up).notes == ()


@pytest.mark.parametrize("root", [(0.0, 0.1, 0.0), (2.0, 0.12, -3.0)])
def test_who_lies_is_not_stood_up(walker, root):
    """A body on its back along the Z axis of a world with Y up."""
    rotations = walker(30).rotations
    rotations = rot.from_rotvec(0.1 * rot.to_rotvec(rotations))
    rotations[:, 0] = rot.from_rotvec(np.array([-np.pi / 2, 0, 0]))
    clip = MotionClip.from_rotations(rotations, np.tile(np.array(root), (30, 1)))
    motion = to_smpl22(_source(clip, names_of("LAFAN1"), IDENTITY), "file")
    _same_body(motion, clip, 0.01)
    assert motion.up == "y" and motion.notes == ()


def test_two_readings_of_up_are_refused(walker):
    """A body that stays in one place far from every level 0: it may lie, or stand in another world."""
    rotations = np.broadcast_to(np.eye(3), (30, 22, 3, 3)).copy()
    rotations[:, 0] = rot.from_rotvec(np.array([-np.pi / 2, 0, 0]))
    clip = MotionClip.from_rotations(rotations, np.tile([3.0, 3.0, 3.0], (30, 1)))
    bvh = _source(clip, names_of("LAFAN1"), IDENTITY)
    with pytest.raises(InputError, match=r"file: the rest pose stands along y, the motion along -z: .* with --up"):
        to_smpl22(bvh, "file")
    _same_body(to_smpl22(bvh, "file", up="y"), clip, 0.01)


@pytest.mark.parametrize(
    ("size", "unit"), [(0.6, "centimetre"), (0.46, "centimetre"), (1.0, "decimetre"), (1.0, "foot")]
)
def test_the_size_of_a_body_tells_its_unit(walk, size, unit):
    """Children are read in metric units; what may be a child in centimetres or an adult in inches is said."""
    bones = DEFAULT_OFFSETS * size
    clip = MotionClip.from_rotations(walk.rotations, walk.joints[:, 0] * size, bones)
    rig = RigFile(names=names_of("Mixamo"), bones=bones, scale=1 / UNITS[unit])
    motion = to_smpl22(rig.bvh(clip), "file")
    _same_body(motion, clip, 0.01)
    assert any("in inches it would be" in note for note in motion.notes) == (size == 0.46)


def test_biovisions_own_rig_is_in_inches(walk):
    tall = MotionClip.from_rotations(walk.rotations, walk.joints[:, 0] * 1.12, DEFAULT_OFFSETS * 1.12)
    rig = RigFile(names=names_of("Biovision"), bones=DEFAULT_OFFSETS * 1.12, scale=1 / UNITS["inch"])
    _same_body(to_smpl22(rig.bvh(tall), "file"), tall, 0.01)


@pytest.mark.parametrize(("held", "fps"), [(1, 30.0), (4, 30.0), (30, 120.0), (240, 120.0)])
def test_a_held_rest_pose_that_jumps_is_dropped(walker, held, fps):
    clip = walker(frames=round(2 * fps), fps=fps)
    motion = to_smpl22(RigFile(names=names_of("Mixamo"), bones=DEFAULT_OFFSETS, held=held).bvh(clip), "file")
    assert motion.dropped == held
    _same_body(motion, clip, 0.01)


def test_a_fast_start_is_no_jump(walker):
    """Arms fall from spread at 700 degrees a second; elbows are bent, so this is no rest pose."""
    clip = walker(frames=90)
    rotations = clip.rotations.copy()
    for side, sign in (("left", 1), ("right", -1)):
        angles = np.minimum(np.arange(90) * 700 / 30, 70)
        rotations[:, JOINT_INDEX[f"{side}_shoulder"]] = rot.from_rotvec(
            -sign * np.radians(angles)[:, None] * np.array([0, 0, 1])
        )
    clip = MotionClip.from_rotations(rotations, clip.joints[:, 0])
    assert len(to_smpl22(_source(clip, names_of("Mixamo"), IDENTITY), "file").rotations) == 90


def test_a_rest_pose_that_begins_to_move_slowly_is_motion(walker):
    clip = walker(frames=60)
    eased = rot.from_rotvec(rot.to_rotvec(clip.rotations) * np.linspace(0, 1, 60)[:, None, None])
    clip = MotionClip.from_rotations(eased, clip.joints[:, 0])
    assert len(to_smpl22(_source(clip, names_of("Mixamo"), IDENTITY), "file").rotations) == 60


def test_a_bone_that_bends_where_smpl_has_one_does_not_carry_errors_down(walk):
    """CMU's LHipJoint between pelvis and hip, bending by 15 degrees: the hip moves, and the leg goes on from there."""
    bvh = _source(walk, names_of("Mixamo"), IDENTITY)
    hip = JOINT_INDEX["left_hip"]
    frames = len(bvh.values)
    names = (*bvh.names[:hip], "LHipJoint", *bvh.names[hip:])
    moved = [parent + (parent >= hip) for parent in bvh.parents]
    parents = (*moved[:hip], 0, hip, *moved[hip + 1 :])
    offsets = np.insert(bvh.offsets, hip, bvh.offsets[hip] * 0.1, axis=0)
    offsets[hip + 1] = bvh.offsets[hip] * 0.9
    column = 6 + 3 * (hip - 1)
    bend = 15 * np.sin(np.arange(frames) / 8)[:, None] * [1.0, 0, 0]
    values = np.concatenate([bvh.values[:, :column], bend, bvh.values[:, column:]], 1)
    channels = (*bvh.channels[:hip], bvh.channels[1], *bvh.channels[hip:])
    bent = Bvh(names, tuple(parents), offsets, channels, values, bvh.frame_time)
    motion = to_smpl22(bent, "file")
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    found = find_joints(bent, "file").joints
    assert bent.names[found["left_hip"]] == "mixamorig:LeftUpLeg"
    source = bent.world()[0] / 100
    off = {joint: np.linalg.norm(joints[:, JOINT_INDEX[joint]] - source[:, found[joint]], axis=-1).max()
           for joint in ("left_hip", "left_knee", "left_ankle", "left_foot", "right_ankle", "left_wrist")}  # fmt: skip
    # The pelvis is rigid; what the hip is off along the thigh, which has its length, the leg keeps.
    assert 0.015 < off["left_hip"] < 0.02 and off["left_knee"] < 0.013 and off["left_ankle"] < 0.013, off
    assert off["left_foot"] < 0.005 and off["right_ankle"] < 0.006 and off["left_wrist"] < 0.001, off
