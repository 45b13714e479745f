"""Draws of rigs of every kind: the body comes out right, or a refusal or a note says why not."""

import collections
import dataclasses

import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.motion import MotionClip
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.retarget import UNITS, possible_units, to_smpl22
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_INDEX, forward_kinematics
from tests.motion.conftest import make_walk
from tests.motion.rig_files import RIGS, RigFile, names_of

AXES = ("y", "z", "-y", "x", "-x", "-z")


@pytest.mark.parametrize("rig", RIGS)
def test_names_of_common_rigs(rig):
    walk = make_walk(6)
    motion = to_smpl22(RigFile(names=names_of(rig), bones=DEFAULT_OFFSETS).bvh(walk), "file")
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    assert np.abs(joints - walk.joints).max() < 1e-3, motion.joints


def _clip(rng: np.random.Generator, bones: np.ndarray, fps: float) -> MotionClip:
    walk = make_walk(24, fps=fps, heading=rng.uniform(-3, 3), turn=rng.uniform(-1, 1))
    kind = rng.choice(["walk", "stand", "lie"], p=[0.7, 0.2, 0.1])
    root, rotations = walk.joints[:, 0].copy(), walk.rotations.copy()
    if kind != "walk":
        root[:, [0, 2]] = root[:1, [0, 2]]
    if kind == "lie":
        rotations = rot.from_rotvec(0.1 * rot.to_rotvec(rotations))  # the floor keeps limbs from swinging
        rotations[:, 0] = rot.yaw(rng.uniform(-3, 3)) @ rot.from_rotvec(np.array([-np.pi / 2, 0, 0]))
        root = np.tile([rng.uniform(-3, 3), 0.12, rng.uniform(-3, 3)], (24, 1))
    size = np.linalg.norm(bones, axis=-1).sum() / np.linalg.norm(DEFAULT_OFFSETS, axis=-1).sum()
    return MotionClip.from_rotations(rotations, root * size, bones, fps=fps, name=str(kind))


def _lowered(degrees: float) -> np.ndarray:
    """The rest of a rig whose zero pose has its arms lower than a T-pose."""
    rest = np.broadcast_to(np.eye(3), (22, 3, 3)).copy()
    for side, sign in (("left", 1), ("right", -1)):
        for joint in ("shoulder", "elbow", "wrist"):
            rest[JOINT_INDEX[f"{side}_{joint}"]] = rot.from_rotvec(np.array([0, 0, sign * np.radians(degrees)]))
    return rest


def draw(rng: np.random.Generator) -> tuple[RigFile, MotionClip]:
    """A file, and the motion that it shows."""
    names = names_of(rng.choice(list(RIGS)))
    if rng.random() < 0.05:
        names = [f"Bone.{number:03d}" for number in range(22)]
    elif rng.random() < 0.05:
        names[rng.integers(22)] = "Banana"
    prefix = rng.choice(["", "", "", "Robot_", "actor:", "|Armature|", "X12-", "my file "])
    suffix = rng.choice(["", "", "", "_{:03d}", ".{:03d}"])
    names = [prefix + name + suffix.format(number) for number, name in enumerate(names)]
    unit = rng.choice([*UNITS.values(), 0.04], p=[0.2, 0.35, 0.1, 0.05, 0.1, 0.05, 0.1, 0.05])
    metric = unit in (1.0, 0.01, 0.001)
    bones = DEFAULT_OFFSETS * rng.uniform(0.5 if metric and rng.random() < 0.3 else 0.85, 1.15)
    clip = _clip(rng, bones, float(rng.choice([24, 25, 30, 50, 59.94, 60, 100, 120])))
    world_up = str(rng.choice(AXES, p=[0.5, 0.3, 0.05, 0.05, 0.05, 0.05]))
    rest_up = world_up if rng.random() < 0.6 else "y"
    rest = _lowered(float(rng.choice([0, 0, 30, 45])))
    if rng.random() < 0.3:
        rest = rest @ rot.yaw(rng.uniform(-3, 3))  # turned away at zero
    straight = np.allclose(rest, np.eye(3))
    options = [
        ("without", "spine2"), ("without", "left_collar right_collar"), ("without", "neck"),
        ("ends", "left_foot right_foot"), ("ends", "left_wrist right_wrist"), ("ends", "head"),
        ("twists", "left_hip right_hip left_shoulder right_shoulder"), ("twists", "left_elbow right_elbow"),
    ]  # fmt: skip
    chosen = collections.defaultdict(tuple)
    for (field, joints), takes in zip(options, rng.random(len(options)) < 0.15, strict=True):
        chosen[field] += tuple(joints.split()) if takes and (straight or field != "without") else ()
    if {"neck"} & set(chosen["without"]) and "head" in chosen["ends"]:
        chosen["ends"] = tuple(joint for joint in chosen["ends"] if joint != "head")
    if "spine2" in chosen["without"]:
        straightened = clip.rotations.copy()
        straightened[:, JOINT_INDEX["spine2"]] = np.eye(3)
        clip = MotionClip.from_rotations(straightened, clip.joints[:, 0], bones, fps=clip.fps, name=clip.name)
    rig = RigFile(
        names=names,
        bones=bones,
        rest=rest,
        order="".join(rng.permutation(list("XYZ"))),
        scale=1 / unit,
        world_up=world_up,
        rest_up=rest_up,
        reference=bool(rng.random() < 0.1),
        held=int(rng.choice([0, 0, 0, 1, 5])) if clip.name != "lie" and straight and world_up == rest_up else 0,
        **chosen,
    )
    return rig, clip


def outcome(rig: RigFile, clip: MotionClip) -> tuple[str, str]:
    """What becomes of a draw: "right", "refused", "said" or "WRONG", and more words."""
    try:
        motion = to_smpl22(rig.bvh(clip), "file")
    except InputError as error:
        return "refused", str(error)
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    known = [index for name, index in rig.joints().items() if name != "spine3" or "neck" not in rig.without]
    if len(joints) == len(clip) and (worst := np.abs(joints - clip.joints)[:, known].max()) < 1e-3:
        return "right", ""
    if motion.notes:
        return "said", "; ".join(motion.notes)
    frames = f"{len(joints)} frames of {len(clip)}" if len(joints) != len(clip) else f"{worst:.3f} m off"
    return "WRONG", f"{frames}: {dataclasses.replace(rig, rest=rig.rest[16:17, 0], bones=rig.bones[1])}, {clip.name}"


def test_a_drawn_rig_is_right_or_refused_or_noted(draws):
    results = collections.Counter()
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        rig, clip = draw(rng)
        what, words = outcome(rig, clip)
        results[what] += 1
        assert what != "WRONG", (seed, words)
        if what == "refused":
            known = possible_units(np.linalg.norm(rig.bones[[4, 7, 3, 6, 9, 12, 15]], axis=-1).sum() * rig.scale)
            results["refused for its unit" if "--unit" in words else "refused for its axes"] += 1
            # A rig that calls its head a spine, and names that say nothing.
            nameless = "neck" in rig.without or any("Bone" in name or "Banana" in name for name in rig.names)
            nameless = nameless and "--skeleton" in words
            assert ("--unit" in words and not known) or "--up" in words or nameless, (seed, words)
    print(dict(results))
    assert results["right"] > 0.8 * draws
