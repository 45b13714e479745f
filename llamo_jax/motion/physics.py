"""Is a motion physically sound? Figures of single clips, from world joint positions alone.

Everywhere `joints` is [T, 22, 3] in metres with Y up, and `fps` is frames a second. A figure that a clip is too short
for is NaN; aggregates leave NaN out.
"""

import numpy as np
from jaxtyping import Bool, Float

from llamo_jax.motion.representation import FPS, decode_positions, decode_rotations
from llamo_jax.motion.skeleton import FEET, JOINT_INDEX, PARENTS, forward_kinematics, recover_offsets

CONTACT_HEIGHT = 0.05
"""Metres over its own lowest level in the clip below which a foot joint may touch the floor."""
CONTACT_VERTICAL_SPEED = 0.1
"""Metres a second; a foot of which a joint rises or falls faster is not in contact."""
CONTACT_SECONDS = 0.1
"""A contact lasts at least this long: a foot that swings low over the floor is level for a moment only."""

FREEZE_SECONDS = 2.0
FREEZE_SPEED = 0.002
"""Metres a second, mean over joints; the stillest two seconds of the 2,785 Bandai-Namco recordings have 0.0031."""
_FREEZE_SPAN = 0.5

EXPLODE_SPEED = 25.0
"""Metres a second; the fastest joint of the same recordings, a running foot, has 10.3."""
EXPLODE_REACH = 1.8
"""Metres from the pelvis to any joint; in the same recordings at most 0.98."""

_WRISTS = (JOINT_INDEX["left_wrist"], JOINT_INDEX["right_wrist"])


def jerk(joints: Float[np.ndarray, "T 22 3"], fps: float = FPS) -> float:
    """Mean over frames and joints of the third difference's length times fps^3, in m/s^3. NaN under 4 frames."""
    if len(joints) < 4:
        return float("nan")
    return float(np.linalg.norm(np.diff(joints, n=3, axis=0), axis=-1).mean() * fps**3)


def contacts(joints: Float[np.ndarray, "T 22 3"], fps: float = FPS) -> Bool[np.ndarray, "T-1 4"]:
    """Which foot joints (ankles and feet, in the order of `skeleton.FEET`) stand on the floor from each frame to the
    next.

    A joint is in contact where it is less than `CONTACT_HEIGHT` over its own floor level at both frames, both joints of
    its foot move vertically by less than `CONTACT_VERTICAL_SPEED`, and all this lasts at least `CONTACT_SECONDS`. Its
    floor level is the 2nd percentile of its height in the clip: the minimum would follow one bad frame.
    """
    height = joints[:, FEET, 1]
    low = height < np.percentile(height, 2, axis=0) + CONTACT_HEIGHT
    slow = np.abs(np.diff(height, axis=0)) * fps < CONTACT_VERTICAL_SPEED
    slow = np.tile(
        slow[:, :2] & slow[:, 2:], 2
    )  # ankle and toes of the left foot are columns 0 and 2, of the right 1 and 3
    return _lasting(low[1:] & low[:-1] & slow, max(round(CONTACT_SECONDS * fps), 1))


def contact_speeds(
    joints: Float[np.ndarray, "T 22 3"], fps: float = FPS, contact: Bool[np.ndarray, "T-1 4"] | None = None
) -> Float[np.ndarray, " n"]:
    """Horizontal speeds, in m/s, of foot joints while they are in contact: one value for each joint and step of one
    frame.

    Args:
      joints: the motion.
      fps: frames a second.
      contact: when feet should stand. None takes the motion's own contacts, as for a generated motion. To compare a
        reconstruction with its original, give the ORIGINAL's contacts to both: a foot that skates leaves its own
        contact set and would go unseen.
    """
    if contact is None:
        contact = contacts(joints, fps)
    speed = np.linalg.norm(np.diff(joints[:, FEET][..., [0, 2]], axis=0), axis=-1) * fps
    return speed[contact]


def foot_skating(
    joints: Float[np.ndarray, "T 22 3"], fps: float = FPS, contact: Bool[np.ndarray, "T-1 4"] | None = None
) -> float:
    """Mean of `contact_speeds` in m/s; NaN where nothing is ever in contact."""
    return _mean(contact_speeds(joints, fps, contact))


def low_foot_speeds(joints: Float[np.ndarray, "T 22 3"], fps: float = FPS) -> Float[np.ndarray, " n"]:
    """Horizontal speeds, in m/s, of foot joints wherever they are less than `CONTACT_HEIGHT` over their own floor level
    in the clip.

    Feet that swing low dominate it: adding a slide of 0.1 m/s to every frame of recorded walks and runs raises its mean
    by 5 %, and that of `contact_speeds` threefold. It describes a gait; a ratio of it near 1 does not show that feet
    stand still.
    """
    height = joints[:, FEET, 1]
    low = height[1:] < np.percentile(height, 2, axis=0) + CONTACT_HEIGHT
    return (np.linalg.norm(np.diff(joints[:, FEET][..., [0, 2]], axis=0), axis=-1) * fps)[low]


def penetration(joints: Float[np.ndarray, "T 22 3"], floor: float = 0.0) -> float:
    """Mean over frames of how deep the lowest joint is under the floor, in metres."""
    return float(np.maximum(floor - joints[..., 1].min(-1), 0).mean())


def floating(joints: Float[np.ndarray, "T 22 3"], floor: float = 0.0) -> float:
    """Share of frames in which every joint is over the floor by more than `CONTACT_HEIGHT`; jumps count."""
    return float((joints[..., 1].min(-1) > floor + CONTACT_HEIGHT).mean())


def bone_length_drift(joints: Float[np.ndarray, "T 22 3"]) -> float:
    """Mean over frames and bones of how far a bone is from its mean length in the clip, in metres; 0 for a rigid
    body."""
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, PARENTS[1:]], axis=-1)
    return float(np.abs(lengths - lengths.mean(0)).mean())


def position_rotation_disagreement(features: Float[np.ndarray, "T 272"]) -> float:
    """Mean distance, in metres, between joints from the position features and from the rotation features.

    The rotations move a rigid body whose bone offsets are recovered from the clip itself, so bone length drift counts
    too.
    """
    joints = decode_positions(features)
    rotations, root = decode_rotations(features)
    rigid = forward_kinematics(rotations, root, recover_offsets(joints, rotations))
    return float(np.linalg.norm(joints - rigid, axis=-1).mean())


def mean_speed(joints: Float[np.ndarray, "T 22 3"], fps: float = FPS) -> float:
    """Mean speed of all joints in m/s; 0 for one frame, which does not move."""
    return float(np.linalg.norm(np.diff(joints, axis=0), axis=-1).mean() * fps) if len(joints) > 1 else 0.0


def travel_speed(joints: Float[np.ndarray, "T 22 3"], fps: float = FPS) -> float:
    """Mean horizontal speed of the pelvis in m/s, in any direction, from displacements over half a second so that sway
    does not count."""
    span = min(max(round(fps / 2), 1), len(joints) - 1)
    if span < 1:
        return float("nan")
    root = joints[:, 0][:, [0, 2]]
    return float(np.linalg.norm(root[span:] - root[:-span], axis=-1).mean() * fps / span)


def hand_heights(joints: Float[np.ndarray, "T 22 3"]) -> tuple[float, float]:
    """Highest point of the left and of the right wrist in the clip, in metres."""
    left, right = joints[:, _WRISTS, 1].max(0)
    return float(left), float(right)


def freezes(
    joints: Float[np.ndarray, "T 22 3"],
    fps: float = FPS,
    *,
    seconds: float = FREEZE_SECONDS,
    speed: float = FREEZE_SPEED,
) -> bool:
    """Whether the whole body stands still (mean joint speed under `speed` m/s) throughout some window of `seconds`.

    Speeds come from displacements over half a second, which jitter on a frozen pose does not raise much. A clip shorter
    than the window cannot freeze.
    """
    window, span = max(round(seconds * fps), 2), max(round(_FREEZE_SPAN * fps), 1)
    span = min(span, window - 1)
    if len(joints) < window:
        return False
    moved = np.linalg.norm(joints[span:] - joints[:-span], axis=-1).mean(-1) * fps / span
    total = np.concatenate([[0.0], np.cumsum(moved)])
    steps = window - span
    return bool(((total[steps:] - total[:-steps]) / steps < speed).any())


def explodes(
    joints: Float[np.ndarray, "T 22 3"], fps: float = FPS, *, speed: float = EXPLODE_SPEED, reach: float = EXPLODE_REACH
) -> bool:
    """Whether a joint is not finite, moves faster than `speed` m/s, is over `reach` metres from the pelvis, or leaves
    the world.

    Leaving the world is a pelvis more than 0.5 m under the floor or 3 m over it.
    """
    if not np.isfinite(joints).all():
        return True
    fastest = np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(initial=0.0) * fps
    furthest = np.linalg.norm(joints - joints[:, :1], axis=-1).max()
    pelvis = joints[:, 0, 1]
    return bool(fastest > speed or furthest > reach or pelvis.min() < -0.5 or pelvis.max() > 3)


def summarise(motions: list[Float[np.ndarray, "T 22 3"]], fps: float = FPS) -> dict[str, float]:
    """The figures of a set of motions: frame-weighted means, and counts of the motions that freeze or explode.

    Returns:
      jerk (m/s^3), foot_skating (m/s, over all contacts), low_foot_speed (m/s, over all low feet), penetration_mm,
      floating (share of frames), bone_drift_mm, frozen, exploded.
    """
    frames = np.array([len(joints) for joints in motions])
    return {
        "jerk": weighted_mean([jerk(joints, fps) for joints in motions], frames - 3),
        "foot_skating": _mean(np.concatenate([contact_speeds(joints, fps) for joints in motions])),
        "low_foot_speed": _mean(np.concatenate([low_foot_speeds(joints, fps) for joints in motions])),
        "penetration_mm": 1000 * weighted_mean([penetration(joints) for joints in motions], frames),
        "floating": weighted_mean([floating(joints) for joints in motions], frames),
        "bone_drift_mm": 1000 * weighted_mean([bone_length_drift(joints) for joints in motions], frames),
        "frozen": sum(freezes(joints, fps) for joints in motions),
        "exploded": sum(explodes(joints, fps) for joints in motions),
    }


def _lasting(active: Bool[np.ndarray, "T N"], steps: int) -> Bool[np.ndarray, "T N"]:
    """The runs of True along time that have at least `steps` of them."""
    kept = np.zeros_like(active)
    if len(active) >= steps:
        whole = np.lib.stride_tricks.sliding_window_view(active, steps, axis=0).all(-1)
        for shift in range(steps):
            kept[shift : shift + len(whole)] |= whole
    return kept


def weighted_mean(values: list[float], weights: np.ndarray) -> float:
    """Mean of the values that are not NaN, weighted; NaN where there are none."""
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    known = np.isfinite(values) & (weights > 0)
    return float((values[known] * weights[known]).sum() / weights[known].sum()) if known.any() else float("nan")


def ratio(value: float, reference: float) -> float:
    """value / reference; NaN where the reference is zero or NaN."""
    return value / reference if reference > 0 else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
