"""Any named skeleton to SMPL-22, with a proper change of rest pose.

Joints are found by their names. For each, the world rotation in a T-pose, G0, is known: from a table of the skeleton's
axes, else from its own zero pose where that is a standing body, else from the frame that stands most upright. A joint's
world rotation is then W(t) = G(t) G0^T: the identity in the T-pose, as SMPL has it, and moving each bone exactly as the
source does. Bone lengths stay the source's own.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.bvh import Bvh
from llamo_jax.motion.rigs import (
    BASES,
    LEG_METRES,
    MIDDLE_NAMES,
    OPENING_SECONDS,
    PREFIXES,
    RIGS,
    SIDED_NAMES,
    SIDES,
    UNITS,
)
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_INDEX, JOINT_NAMES, PARENTS


@dataclasses.dataclass(frozen=True, eq=False)
class SmplMotion:
    """A motion on SMPL-22, in metres, Y up, at the source's rate.

    Attributes:
      rotations: [T, 22, 3, 3] parent-relative.
      root_positions: [T, 3] of the pelvis.
      offsets: [22, 3] the source's own bones, in the T-pose.
      fps: frames a second.
    """

    rotations: Float[np.ndarray, "T 22 3 3"]
    root_positions: Float[np.ndarray, "T 3"]
    offsets: Float[np.ndarray, "22 3"]
    fps: float


def to_smpl22(bvh: Bvh, where: str | Path) -> SmplMotion:
    """The motion of a BVH file on SMPL-22.

    Args:
      bvh: the file's contents.
      where: named in errors.

    Raises:
      InputError: joints cannot be found by their names, or the body has no adult proportions in any known unit.
    """
    joints = find_joints(bvh, where)
    positions, world = bvh.world()
    opening = _opening_rest_frames(positions, world, joints, bvh.frame_time)
    positions, world = positions[opening:], world[opening:]
    to_y_up, t_pose = _t_pose(bvh, joints, positions, world, where)
    positions, world = positions @ to_y_up.T, to_y_up @ world
    scale = _unit(bvh, joints, where)
    smpl_world = np.empty((len(world), len(JOINT_NAMES), 3, 3))
    smpl_positions = np.empty((len(world), len(JOINT_NAMES), 3))
    for name, index in JOINT_INDEX.items():
        if name in joints:
            smpl_world[:, index] = world[:, joints[name]] @ t_pose[name].T
            smpl_positions[:, index] = positions[:, joints[name]] * scale
    for index, (below, above, fraction) in _missing(joints).items():
        # A joint that the source has not lies on the line between its neighbours and turns with the lower.
        smpl_world[:, index] = smpl_world[:, below]
        smpl_positions[:, index] = smpl_positions[:, below] + fraction * (
            smpl_positions[:, above] - smpl_positions[:, below]
        )
    offsets = np.zeros((len(JOINT_NAMES), 3))
    for joint, parent in enumerate(PARENTS[1:], start=1):
        bone = smpl_positions[:, joint] - smpl_positions[:, parent]
        offsets[joint] = np.einsum("tji,tj->ti", smpl_world[:, parent], bone).mean(0)
        if PARENTS.count(parent) == 1:
            # Where the source bends in between (a second neck joint), the one bone of SMPL follows both its ends.
            smpl_world[:, parent] = rot.between(smpl_world[:, parent] @ offsets[joint], bone) @ smpl_world[:, parent]
    rotations = smpl_world.copy()
    for joint, parent in enumerate(PARENTS[1:], start=1):
        rotations[:, joint] = np.swapaxes(smpl_world[:, parent], -1, -2) @ smpl_world[:, joint]
    return SmplMotion(rotations, smpl_positions[:, 0], offsets, 1 / bvh.frame_time)


def find_joints(bvh: Bvh, where: str | Path) -> dict[str, int]:
    """SMPL joint name -> index in the file, for all that the file has; spine1, spine2 and some collars may be absent.

    Raises:
      InputError: a joint that cannot be done without is not found.
    """
    named: dict[tuple[str, str], int] = {}
    for index, name in enumerate(bvh.names):
        named.setdefault(_words(name), index)
    found: dict[str, int] = {}

    def take(joint: str, side: str, bases: tuple[str, ...]) -> None:
        for base in bases:
            if (side, base) in named and named[side, base] not in found.values():
                found[joint] = named[side, base]
                return

    for joint, bases in MIDDLE_NAMES.items():
        take(joint, "", bases)
    for side in ("left", "right"):
        for joint, bases in SIDED_NAMES.items():
            # "Shoulder" is the collar in rigs that call the shoulder joint an arm, and "foot" the ankle in rigs that
            # have toes.
            if joint == "collar" and not any((side, base) in named for base in SIDED_NAMES["shoulder"][:-1]):
                bases = bases[:-1]
            take(f"{side}_{joint}", side, bases)
    for side in ("left", "right"):
        # Rigs without toes: the foot ends where its ankle's end site is.
        tip = bvh.names[found[f"{side}_ankle"]] + " end" if f"{side}_ankle" in found else None
        if f"{side}_foot" not in found and tip in bvh.names:
            found[f"{side}_foot"] = bvh.names.index(tip)
    required = [name for name in JOINT_NAMES if not name.startswith("spine") and not name.endswith("collar")]
    if missing := [name for name in required if name not in found]:
        raise InputError(f"{where}: no joint found for {', '.join(missing)}; the file has {', '.join(bvh.names)}")
    chain, joint = [], bvh.parents[found["neck"]]
    while joint not in (-1, found["pelvis"]):
        chain.append(joint)
        joint = bvh.parents[joint]
    if joint == -1 or not chain:
        raise InputError(
            f"{where}: no spine between {bvh.names[found['pelvis']]} and {bvh.names[found['neck']]}; expected 1 to 3 "
            f"joints"
        )
    # The top of the chain carries neck and arms; of what is below, the first is spine1 and the one in the middle
    # spine2.
    found["spine3"] = chain[0]
    if len(chain) > 1:
        found["spine1"] = chain[-1]
    if len(chain) > 2:
        found["spine2"] = chain[len(chain) // 2]
    return found


def _words(name: str) -> tuple[str, str]:
    """("left", "upleg") of "mixamorig:LeftUpLeg", "L_UpLeg", "UpLeg_L", "Bip001 L UpLeg" or "Character1_LeftUpLeg"."""
    name = name.rpartition(":")[2]
    words = [word.lower() for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+\d*|[A-Z]+\d*|\d+", name)]
    words = [word for word in words if not PREFIXES.fullmatch(word)] or words
    if len(words) == 1 and words[0][:1] in "lr" and words[0][1:] in BASES:
        words = [words[0][0], words[0][1:]]  # "lfemur"
    side = next((SIDES[word] for word in words if word in SIDES), "")
    return side, "".join(word for word in words if word not in SIDES)


def _missing(joints: dict[str, int]) -> dict[int, tuple[int, int, float]]:
    """Index of each absent joint -> its neighbours below and above, and how far between them it lies."""
    index, missing = JOINT_INDEX, {}
    if "spine1" not in joints:
        missing[index["spine1"]] = (index["pelvis"], index["spine3"], 1 / 3)
    if "spine2" not in joints:
        below = ("spine1", 1 / 2) if "spine1" in joints else ("pelvis", 2 / 3)
        missing[index["spine2"]] = (index[below[0]], index["spine3"], below[1])
    for side in ("left", "right"):
        if f"{side}_collar" not in joints:
            missing[index[f"{side}_collar"]] = (index["spine3"], index[f"{side}_shoulder"], 1 / 2)
    return missing


def _opening_rest_frames(
    positions: Float[np.ndarray, "T J 3"],
    world: Float[np.ndarray, "T J 3 3"],
    joints: dict[str, int],
    frame_time: float,
) -> int:
    """How many frames at the start are no motion: most of CMU's files open in the T-pose and jump into the motion.

    Some ease from the one to the other, but all within a tenth of a second, and turning faster than they ever do later.
    """
    found = world[:, list(joints.values())]
    turns = rot.geodesic(found[:-1], found[1:]).max(-1)
    if len(turns) < 2:
        return 0
    usual = np.median(turns[1:])
    opening = turns[: max(2, round(OPENING_SECONDS / frame_time))]
    first = {name: positions[0, joints[name]] for name in ("left_wrist", "right_wrist", "head", "left_ankle")}
    spread = np.linalg.norm(first["left_wrist"] - first["right_wrist"]) > 0.8 * np.linalg.norm(
        first["head"] - first["left_ankle"]
    )
    peak = int(opening.argmax())
    if not spread or opening[peak] < max(0.35, 5 * usual):
        return 0
    return peak + int(np.argmax(np.append(opening[peak:], 0.0) <= 2.5 * usual))


def _unit(bvh: Bvh, joints: dict[str, int], where: str | Path) -> float:
    lengths = np.linalg.norm(bvh.local()[0][0], axis=-1)
    leg = sum(lengths[joints[f"{side}_{joint}"]] for side in ("left", "right") for joint in ("knee", "ankle")) / 2
    unit = min(UNITS.values(), key=lambda unit: abs(np.log(max(leg, 1e-9) * unit / LEG_METRES)))
    if not 0.4 < leg * unit < 1.4:
        raise InputError(
            f"{where}: legs of {leg:.4g} units are no adult's in {', '.join(UNITS)}; scale the file to metres"
        )
    return unit


def _t_pose(
    bvh: Bvh, joints: dict[str, int], positions: np.ndarray, world: np.ndarray, where: str | Path
) -> tuple[Float[np.ndarray, "3 3"], dict[str, Float[np.ndarray, "3 3"]]]:
    """The rotation that brings the file's world to Y up, and the world rotation of each found joint in a T-pose that
    faces +Z."""
    offsets = bvh.local()[0][0]
    rig = next((rig for rig in RIGS if rig.joints <= set(bvh.names)), None)
    if rig is not None:
        reference = np.stack([rig.t_pose.get(name, np.eye(3)) for name in bvh.names])
        to_y_up = np.eye(3)
    else:
        reference = np.broadcast_to(np.eye(3), (len(bvh.names), 3, 3))
        pose = bvh.zero_pose()
        to_y_up = _to_y_up(pose, joints)
        if to_y_up is None:
            heights = positions[:, joints["head"], 1] - positions[
                :, [joints["left_ankle"], joints["right_ankle"]], 1
            ].mean(1)
            frame = int(heights.argmax())
            reference, pose = world[frame], positions[frame]
            to_y_up = _to_y_up(pose, joints)
        if to_y_up is None:
            raise InputError(
                f"{where}: neither the zero pose nor any frame stands upright; the rest pose of the skeleton cannot "
                f"be found"
            )
        left = to_y_up @ (pose[joints["left_hip"]] - pose[joints["right_hip"]])
        # The yaw that takes the direction from right to left hip to +X.
        facing = rot.yaw(np.arctan2(left[2], left[0]))
        reference = facing @ to_y_up @ reference
    t_pose = {name: reference[index] for name, index in joints.items()}
    for side in ("left", "right"):
        for joint, child in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist")):
            # Limbs go on to the directions of SMPL's rest pose the shortest way.
            name, child_name = f"{side}_{joint}", f"{side}_{child}"
            bone = _bone(bvh, joints[name], joints[child_name], reference, offsets)
            align = rot.between(bone, DEFAULT_OFFSETS[JOINT_INDEX[child_name]])
            t_pose[name] = align @ t_pose[name]
            # What hangs at the end of a limb goes along: a foot is as straight on a splayed leg as on a straight one.
            # The table already has its feet flat.
            ends = {"wrist": ("wrist",), "ankle": () if rig is not None else ("ankle", "foot")}.get(child, ())
            for end in ends:
                t_pose[f"{side}_{end}"] = align @ t_pose[f"{side}_{end}"]
    return to_y_up, t_pose


def _bone(bvh: Bvh, joint: int, descendant: int, reference: np.ndarray, offsets: np.ndarray) -> Float[np.ndarray, "3"]:
    """The vector from a joint to a descendant in the reference pose; joints between (twist bones) are passed
    through."""
    vector = np.zeros(3)
    while descendant != joint:
        parent = bvh.parents[descendant]
        vector += reference[parent] @ offsets[descendant]
        descendant = parent
    return vector


def _to_y_up(pose: Float[np.ndarray, "J 3"], joints: dict[str, int]) -> Float[np.ndarray, "3 3"] | None:
    """The rotation that makes a standing pose stand along +Y: none for Y up, a quarter turn for Z up; None if it does
    not stand."""
    ankles = (pose[joints["left_ankle"]] + pose[joints["right_ankle"]]) / 2
    upper, lower = pose[joints["head"]] - pose[joints["pelvis"]], pose[joints["pelvis"]] - ankles
    for axis, turn in ((1, np.eye(3)), (2, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))):
        if all(part[axis] > 0.8 * np.linalg.norm(part) > 0 for part in (upper, lower)):
            return turn
    return None
