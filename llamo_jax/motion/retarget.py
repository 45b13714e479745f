"""Any skeleton to SMPL-22, with a proper change of rest pose.

For each joint the world rotation in a T-pose, G0, is known: from a table of the skeleton's axes, else from its own zero
pose where that is a standing body, else from the frame that stands most upright. A joint's world rotation is then
W(t) = G(t) G0^T: the identity in the T-pose, as SMPL has it, and moving each bone exactly as the source does. Bone
lengths stay the source's own. Which way is up in the rest pose and which in the world are two questions: many exports
stand along Y at rest and move in a world with Z up.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.axes import Axis, ankles, standing, to_y_up, world_up
from llamo_jax.motion.bvh import Bvh
from llamo_jax.motion.joints import SIDES, find_joints
from llamo_jax.motion.plausibility import STRETCH
from llamo_jax.motion.rigs import OPENING_SECONDS, RIGS, UNITS
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_INDEX, JOINT_NAMES, PARENTS

PEOPLE = (0.62, 1.75)
"""Metres from ankles to head joint of whoever may be meant in metres, centimetres or millimetres: from small children
on."""
ADULTS = (1.1, 1.65)
"""The same of adults, whom files in other units are taken to show."""


@dataclasses.dataclass(frozen=True, eq=False)
class SmplMotion:
    """A motion on SMPL-22, in metres, Y up, at the source's rate, and how it was read.

    Attributes:
      rotations: [T, 22, 3, 3] parent-relative.
      root_positions: [T, 3] of the pelvis.
      offsets: [22, 3] the source's own bones, in the T-pose.
      fps: frames a second.
      joints: SMPL joint name -> name in the file.
      unit: metres in the file's unit.
      up: the axis of the file's world that points up.
      rest: what the rest pose was taken from.
      dropped: frames at the start that were no motion.
      height: metres from ankles to head joint.
      notes: what a person should know of how the file was read, in sentences.
    """

    rotations: Float[np.ndarray, "T 22 3 3"]
    root_positions: Float[np.ndarray, "T 3"]
    offsets: Float[np.ndarray, "22 3"]
    fps: float
    joints: Mapping[str, str]
    unit: float
    up: Axis
    rest: str
    dropped: int
    height: float
    notes: tuple[str, ...]


def to_smpl22(
    bvh: Bvh,
    where: str | Path,
    *,
    skeleton: Mapping[str, str] | None = None,
    up: Axis | None = None,
    unit: float | None = None,
    folder_unit: str | None = None,
) -> SmplMotion:
    """The motion of a BVH file on SMPL-22.

    Args:
      bvh: the file's contents.
      where: named in errors.
      skeleton: SMPL joint name -> name in the file, for joints that are settled; the others are found.
      up: the axis of the file's world that points up. None finds it.
      unit: metres in the file's unit. None finds it.
      folder_unit: name of the unit that files of its folder with this skeleton were found to have.

    Raises:
      InputError: joints cannot be found, or the body has no proportions of a person in any known unit, or no pose of it
        stands, or two readings of it are possible.
    """
    found = find_joints(bvh, where, skeleton)
    joints, notes = found.joints, [*bvh.notes, *found.notes]
    positions, world = bvh.world()
    rest = _rest(bvh, joints)
    up = up or world_up(rest.up if rest else None, positions, joints, notes, where)
    positions, world = positions @ to_y_up(up).T, to_y_up(up) @ world
    rest = rest or _upright_frame(positions, world, joints, where)
    reference, t_pose = _t_pose(bvh, joints, rest, where)
    _require_knees_behind(positions, joints, where)
    opening = _opening_rest_frames(positions, world, joints, reference, bvh.frame_time)
    positions, world = positions[opening:], world[opening:]
    height, scale = _size(bvh, joints, unit, folder_unit, notes, where)
    smpl_world = np.empty((len(world), len(JOINT_NAMES), 3, 3))
    smpl_positions = np.empty((len(world), len(JOINT_NAMES), 3))
    for name, index in joints.items():
        smpl_world[:, JOINT_INDEX[name]] = world[:, index] @ t_pose[name].T
        smpl_positions[:, JOINT_INDEX[name]] = positions[:, index] * scale
    for index, (below, above, fraction) in _missing(joints).items():
        # A joint that the source has not lies on the line between its neighbours and turns with the lower.
        smpl_world[:, index] = smpl_world[:, below]
        smpl_positions[:, index] = smpl_positions[:, below] + fraction * (
            smpl_positions[:, above] - smpl_positions[:, below]
        )
    notes += _stretches(smpl_positions, opening)
    offsets = _rigid(smpl_positions, smpl_world)
    rotations = smpl_world.copy()
    for joint, parent in enumerate(PARENTS[1:], start=1):
        rotations[:, joint] = np.swapaxes(smpl_world[:, parent], -1, -2) @ smpl_world[:, joint]
    return SmplMotion(
        rotations,
        smpl_positions[:, 0],
        offsets,
        1 / bvh.frame_time,
        joints={name: bvh.names[index] for name, index in joints.items()},
        unit=scale,
        up=up,
        rest=rest.what,
        dropped=opening,
        height=height * scale,
        notes=tuple(notes),
    )


def unit_of(text: str) -> float:
    """Metres in a unit that a person names, or gives as a number of metres.

    Raises:
      InputError: it is neither.
    """
    names = {name.split(" ")[0].lower(): metres for name, metres in UNITS.items()}
    names |= {"meter": 1.0, "centimeter": 0.01, "millimeter": 0.001, "decimeter": 0.1, "inche": 0.0254, "feet": 0.3048}
    short = {"m": 1.0, "cm": 0.01, "mm": 0.001, "dm": 0.1, "in": 0.0254, "ft": 0.3048}
    try:
        word = text.lower().strip()
        unit = short.get(word) or names.get(word) or names.get(word.removesuffix("s")) or float(text)
    except ValueError:
        unit = 0.0
    if not 1e-6 < unit < 1e3:
        raise InputError(f'unit "{text}" is unknown; expected one of {", ".join(UNITS)}, or a number of metres')
    return unit


def _missing(joints: Mapping[str, int]) -> dict[int, tuple[int, int, float]]:
    """Index of each absent joint -> its neighbours below and above, and how far between them it lies."""
    index, missing = JOINT_INDEX, {}
    if "spine1" not in joints:
        missing[index["spine1"]] = (index["pelvis"], index["spine3"], 1 / 3)
    if "spine2" not in joints:
        below = ("spine1", 1 / 2) if "spine1" in joints else ("pelvis", 2 / 3)
        missing[index["spine2"]] = (index[below[0]], index["spine3"], below[1])
    if "neck" not in joints:
        missing[index["neck"]] = (index["spine3"], index["head"], 2 / 3)
    for side in SIDES:
        if f"{side}_collar" not in joints:
            missing[index[f"{side}_collar"]] = (index["spine3"], index[f"{side}_shoulder"], 1 / 2)
    return missing


def _rigid(positions: Float[np.ndarray, "T 22 3"], world: Float[np.ndarray, "T 22 3 3"]) -> Float[np.ndarray, "22 3"]:
    """The bones of the body, constant over time, and `world` turned in place so that they reach the joints.

    A skeleton with joints between those of SMPL (a second neck joint, CMU's LHipJoint) bends where SMPL is rigid. Each
    joint is then turned, frame by frame, so that its bones point from where the rigid body has it to where the source
    has the next, and an error shrinks down a limb. Where nothing bends in between, nothing turns.
    """
    offsets = np.zeros((len(PARENTS), 3))
    for joint, parent in enumerate(PARENTS[1:], start=1):
        bone = positions[:, joint] - positions[:, parent]
        offsets[joint] = np.einsum("tji,tj->ti", world[:, parent], bone).mean(0)
    longest = np.linalg.norm(offsets, axis=-1).max()
    reached = positions.copy()
    for joint in range(len(PARENTS)):
        children = [child for child, parent in enumerate(PARENTS) if parent == joint]
        if not children:
            continue
        bones = positions[:, children] - reached[:, joint, None]
        if len(children) == 1:
            turn = rot.between(world[:, joint] @ offsets[children[0]], bones[:, 0])
            world[:, joint] = turn @ world[:, joint]
        else:
            placed = np.einsum("tij,cj->tci", world[:, joint], offsets[children])
            apart = np.linalg.norm(placed - bones, axis=-1).max(1) > _BENT * longest
            if apart.any():
                world[apart, joint] = rot.aligned(placed[apart], bones[apart]) @ world[apart, joint]
        for child in children:
            reached[:, child] = reached[:, joint] + world[:, joint] @ offsets[child]
    return offsets


def _stretches(positions: Float[np.ndarray, "T 22 3"], opening: int) -> list[str]:
    """What is told of bones that change their length, which the rigid body does not."""
    lengths = np.linalg.norm(positions[:, 1:] - positions[:, PARENTS[1:]], axis=-1)
    off = np.abs(lengths - np.median(lengths, axis=0))
    if off.max(initial=0.0) <= STRETCH:
        return []
    frame, bone = np.unravel_index(int(off.argmax()), off.shape)
    name, row = JOINT_NAMES[int(bone) + 1], frame + opening
    return [f"the bone to {name} changes its length by {off.max():.2g} m in row {row}: constant bones are read"]


_BENT = 1e-4  # of the longest bone: less is rounding


def _opening_rest_frames(
    positions: Float[np.ndarray, "T J 3"],
    world: Float[np.ndarray, "T J 3 3"],
    joints: Mapping[str, int],
    reference: Mapping[str, Float[np.ndarray, "3 3"]],
    frame_time: float,
) -> int:
    """How many frames at the start are no motion: a rest pose, held for any time, that jumps into the motion.

    Most of CMU's files open so; some ease from the one to the other, but all within a tenth of a second, and turning
    faster than they ever do later. A fast motion that starts with spread arms is no rest pose, and a rest pose from
    which a motion begins slowly is a part of the motion.
    """
    found = world[:, list(joints.values())]
    turns = rot.geodesic(found[:-1], found[1:]).max(-1)
    if len(turns) < 2 or not _rests(positions[0], world[0], joints, reference):
        return 0
    still = rot.geodesic(found[:1], found).max(-1) < _STILL
    held = int(np.argmin(np.append(still, False)))  # frames that show the first pose
    usual = np.median(turns[held:]) if held < len(turns) else 0.0
    opening = turns[held - 1 :][: max(2, round(OPENING_SECONDS / frame_time))]
    if not len(opening):
        return 0
    peak = int(opening.argmax())
    if opening[peak] < max(_JUMP, min(5 * usual, _LEAP)):
        return 0
    return held - 1 + peak + int(np.argmax(np.append(opening[peak:], 0.0) <= 2.5 * usual))


_STILL = np.radians(1.0)
_JUMP = 0.35
_LEAP = 0.9
"""Radians between two frames; more is a jump however few frames a second there are."""


def _rests(
    positions: Float[np.ndarray, "J 3"],
    world: Float[np.ndarray, "J 3 3"],
    joints: Mapping[str, int],
    reference: Mapping[str, Float[np.ndarray, "3 3"]],
) -> bool:
    """Whether a frame shows the rest pose of its skeleton (but for where it faces), or a T-pose."""
    # Against the reference all joints are turned alike.
    turned = [world[index] @ reference[name].T for name, index in joints.items()]
    if rot.geodesic(turned[0], np.stack(turned)).max() < _REST:
        return True
    # The zero pose, even where it is no pose of a body: all joints are turned as the root is.
    if rot.geodesic(world[joints["pelvis"]], world[list(joints.values())]).max() < _STILL:
        return True
    for side in SIDES:
        for limb, across in (("shoulder", "elbow", "wrist"), True), (("hip", "knee", "ankle"), False):
            bones = np.diff([positions[joints[f"{side}_{joint}"]] for joint in limb], axis=0)
            bones /= np.maximum(np.linalg.norm(bones, axis=-1, keepdims=True), 1e-9)
            tilted = np.abs(bones[:, 1]) > np.sin(_T_POSE) if across else bones[:, 1] > -np.cos(_T_POSE)
            if tilted.any() or bones[0] @ bones[1] < np.cos(_T_POSE):
                return False
    return True


_REST = np.radians(15.0)
_T_POSE = np.radians(20.0)


def _size(
    bvh: Bvh,
    joints: Mapping[str, int],
    unit: float | None,
    folder_unit: str | None,
    notes: list[str],
    where: str | Path,
) -> tuple[float, float]:
    """Ankles to head joint in the file's unit, and metres in that unit."""
    height = skeleton_height(bvh, joints)
    if unit is not None:
        return height, unit
    options = possible_units(height)
    if folder_unit and folder_unit not in options:
        raise InputError(
            f"{where}: {height * UNITS[folder_unit]:.3g} m from ankles to head in {_plural(folder_unit)}, the unit of "
            f"its folder; give the unit with --unit"
        )
    if not options:
        raise InputError(
            f"{where}: {height:.4g} units from ankles to head are no person in {', '.join(UNITS)}; give the unit with "
            f"--unit, as a name or as metres"
        )
    usual = next((rig.unit for rig in RIGS if rig.unit and rig.joints <= set(bvh.names)), None)
    name = folder_unit or (usual if usual in options else options[0])
    if len(options) > 1 and not folder_unit:
        other = next(option for option in options if option != name)
        notes.append(
            f"is taken to be in {_plural(name)}, {height * UNITS[name]:.2f} m from ankles to head; in "
            f"{_plural(other)} it would be {height * UNITS[other]:.2f} m: choose with --unit"
        )
    return height, UNITS[name]


def _plural(unit: str) -> str:
    return {"inch": "inches", "foot": "feet"}.get(unit, f"{unit}s")


def skeleton_height(bvh: Bvh, joints: Mapping[str, int]) -> float:
    """Length of the bones from ankle to hip and from pelvis to head, in the file's unit."""
    lengths = np.linalg.norm(bvh.bones(), axis=-1)

    def along(upper: str, lower: str) -> float:
        total, joint = 0.0, joints[lower]
        while joint not in (joints[upper], -1):
            total += lengths[joint]
            joint = bvh.parents[joint]
        return total

    return along("pelvis", "head") + sum(along(f"{side}_hip", f"{side}_ankle") for side in SIDES) / 2


def possible_units(height: float) -> list[str]:
    """The units in which something so high, from ankles to head, is a person; the likelier first.

    Metric files show people of any size, and are by far the most; others are taken for adults.
    """
    metric = ("metre", "centimetre", "millimetre")
    found = [name for name in metric if PEOPLE[0] <= height * UNITS[name] <= PEOPLE[1]]
    # Beside a small child, a very tall adult is possible too.
    tallest = PEOPLE[1] if found and height * UNITS[found[0]] < ADULTS[0] else ADULTS[1]
    return found + [
        name for name, metres in UNITS.items() if name not in metric and ADULTS[0] <= height * metres <= tallest
    ]


@dataclasses.dataclass(frozen=True)
class _Rest:
    """A pose that shows how the skeleton stands.

    Attributes:
      what: it is, in words.
      reference: [J, 3, 3] world rotations of the joints in it.
      pose: [J, 3] positions in it; None where a table says all.
      up: the axis that points up in it.
    """

    what: str
    reference: Float[np.ndarray, "J 3 3"]
    pose: Float[np.ndarray, "J 3"] | None
    up: Axis


def _rest(bvh: Bvh, joints: Mapping[str, int]) -> _Rest | None:
    """The rest pose of a rig with a table, or the zero pose where that stands."""
    rig = next((rig for rig in RIGS if rig.t_pose and rig.joints <= set(bvh.names)), None)
    if rig is not None:
        reference = np.stack([rig.t_pose.get(name, np.eye(3)) for name in bvh.names])
        return _Rest("the rig's table", reference, None, "y")
    pose = bvh.zero_pose()
    up = standing(pose[None], joints)
    axis = next((axis for axis, stands in up.items() if stands.all()), None)
    if axis is None:
        return None
    return _Rest("the zero pose", np.broadcast_to(np.eye(3), (len(bvh.names), 3, 3)), pose, axis)


def _upright_frame(
    positions: Float[np.ndarray, "T J 3"],
    world: Float[np.ndarray, "T J 3 3"],
    joints: Mapping[str, int],
    where: str | Path,
) -> _Rest:
    """The frame that stands most upright, of a motion with Y up."""
    heights = positions[:, joints["head"], 1] - ankles(positions, joints)[:, 1]
    frame = int(heights.argmax())
    if not standing(positions[frame : frame + 1], joints)["y"].all():
        raise InputError(
            f"{where}: neither the zero pose nor any frame stands upright; the rest pose of the skeleton cannot be "
            f"found"
        )
    return _Rest(f"frame {frame}, the most upright", world[frame], positions[frame], "y")


def _t_pose(
    bvh: Bvh, joints: Mapping[str, int], rest: _Rest, where: str | Path
) -> tuple[dict[str, Float[np.ndarray, "3 3"]], dict[str, Float[np.ndarray, "3 3"]]]:
    """World rotations of each found joint in the rest pose, and in a T-pose; both facing +Z with Y up."""
    offsets, reference = bvh.bones(), rest.reference
    if rest.pose is not None:
        turn = to_y_up(rest.up)
        left = turn @ (rest.pose[joints["left_hip"]] - rest.pose[joints["right_hip"]])
        # The yaw that takes the direction from right to left hip to +X.
        turn = rot.yaw(np.arctan2(left[2], left[0])) @ turn
        reference = turn @ reference
        _require_feet_ahead(rest.pose @ turn.T, joints, where)
    rested = {name: reference[index] for name, index in joints.items()}
    t_pose = dict(rested)
    for side in SIDES:
        for joint, child in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist")):
            # Limbs go on to the directions of SMPL's rest pose the shortest way.
            name, child_name = f"{side}_{joint}", f"{side}_{child}"
            bone = _bone(bvh, joints[name], joints[child_name], reference, offsets)
            align = rot.between(bone, DEFAULT_OFFSETS[JOINT_INDEX[child_name]])
            t_pose[name] = align @ t_pose[name]
            # What hangs at the end of a limb goes along: a foot is as straight on a splayed leg as on a straight one.
            # The table already has its feet flat.
            ends = {"wrist": ("wrist",), "ankle": ("ankle", "foot") if rest.pose is not None else ()}.get(child, ())
            for end in ends:
                t_pose[f"{side}_{end}"] = align @ t_pose[f"{side}_{end}"]
    return rested, t_pose


def _require_feet_ahead(pose: Float[np.ndarray, "J 3"], joints: Mapping[str, int], where: str | Path) -> None:
    """Raises InputError where toes point backwards: left and right are exchanged then, as in left-handed axes."""
    feet = np.stack([pose[joints[f"{side}_foot"]] - pose[joints[f"{side}_ankle"]] for side in SIDES])
    ahead = feet[:, 2] / np.maximum(np.linalg.norm(feet, axis=-1), 1e-9)
    if (ahead < -0.5).all():
        raise InputError(
            f"{where}: the toes point backwards: left and right are exchanged, or its axes are left-handed; export it "
            f"with right-handed axes, or name the joints with --skeleton"
        )


def _require_knees_behind(positions: Float[np.ndarray, "T J 3"], joints: Mapping[str, int], where: str | Path) -> None:
    """Raises InputError where knees bend forward: left and right are exchanged then, as in left-handed axes."""
    left = positions[:, joints["left_hip"]] - positions[:, joints["right_hip"]]
    left = left / np.maximum(np.linalg.norm(left, axis=-1, keepdims=True), 1e-9)
    bends = []
    for side in SIDES:
        thigh, shin = (positions[:, joints[f"{side}_{b}"]] - positions[:, joints[f"{side}_{a}"]]
                       for a, b in (("hip", "knee"), ("knee", "ankle")))  # fmt: skip
        scale = np.maximum(np.linalg.norm(thigh, axis=-1) * np.linalg.norm(shin, axis=-1), 1e-9)
        bends.append((np.cross(thigh, shin) * left).sum(-1) / scale)
    bend = np.concatenate(bends)
    bent = np.abs(bend) > np.sin(_BENDS)
    if bent.sum() >= 3 and (bend[bent] < 0).mean() > 0.9:
        raise InputError(
            f"{where}: the knees bend forward: left and right are exchanged, or its axes are left-handed; export it "
            f"with right-handed axes, or name the joints with --skeleton"
        )


_BENDS = np.radians(25.0)


def _bone(bvh: Bvh, joint: int, descendant: int, reference: np.ndarray, offsets: np.ndarray) -> Float[np.ndarray, "3"]:
    """The vector from a joint to a descendant in the reference pose; joints between (twist bones) are passed
    through."""
    vector = np.zeros(3)
    while descendant != joint and bvh.parents[descendant] >= 0:
        parent = bvh.parents[descendant]
        vector += reference[parent] @ offsets[descendant]
        descendant = parent
    return vector
