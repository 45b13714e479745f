"""Can a clip be a person's motion? Loading warns, builders reject, and `llamo inspect` lists.

A fault is a sentence that says what and where. None of them is a matter of taste: each limit is well beyond all of the
recordings at hand, so that what is told is a glitch, a wrong unit or arrays of another kind.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_INDEX, JOINT_NAMES, PARENTS, pose

HEIGHTS = (0.5, 2.3)
"""Metres of bone from ankles to head joint: of a small child, and of nobody."""
PELVIS_SPEED = 15.0
"""Metres a second; sprinters reach 12."""
JOINT_SPEED = 30.0
"""Metres a second, of a joint relative to the pelvis; the hand of a pitcher reaches about 25."""
STRETCH = 0.06
"""Metres by which a bone may be longer or shorter than its median. Recorded bodies are rigid, and generated ones drift
by 2 mm on average."""
UNLIKE = 2.0
"""Times by which a bone may be longer on the one side of the body than on the other."""
DISAGREEMENT = 0.15
"""Metres, mean, between the joints and where the rotations put them."""
SPACE = 3.0
"""Metres by which a body may rise over, or sink under, the level of its feet in half of the frames."""


class Fault(NamedTuple):
    """What no person's motion has: of which kind, and a sentence."""

    kind: str
    what: str


def faults(joints: Float[np.ndarray, "T 22 3"], rotations: Float[np.ndarray, "T 22 3 3"], fps: float) -> list[Fault]:
    """What is wrong with a clip, the gravest first; nothing for every motion of a person.

    Args:
      joints: world positions in metres, Y up.
      rotations: parent-relative; the root's in the world.
      fps: frames a second.
    """
    if fault := size_fault(joints):
        return [fault]  # every other limit is in metres
    found = []
    bones = _lengths(joints)
    usual = np.concatenate([[0.0], np.median(bones, axis=0)])
    found += _jumps(joints, fps)
    found += _bones(bones, usual)
    if (fault := _upside_down(joints)) is not None:
        found.append(fault)
    _, world = pose(rotations, joints[:, 0], DEFAULT_OFFSETS)
    placed = np.einsum("tjab,jb->tja", world[:, PARENTS[1:]], DEFAULT_OFFSETS[1:])
    lengths = np.linalg.norm(placed, axis=-1)
    real = joints[:, 1:] - joints[:, PARENTS[1:]]
    # Directions alone: the proportions of the body are its own.
    apart = np.linalg.norm(placed / lengths[..., None] * bones[..., None] - real, axis=-1).mean()
    if apart > DISAGREEMENT:
        found.append(Fault("rotations", f"joints and rotations are {apart:.2f} m apart: they are of different motions, "
                                        f"rest poses or axes"))  # fmt: skip
    return found


def size_fault(joints: Float[np.ndarray, "T 22 3"]) -> Fault | None:
    """What is wrong with the size of a body in metres."""
    lengths = np.concatenate([[0.0], np.median(_lengths(joints), axis=0)])
    trunk = sum(lengths[JOINT_INDEX[name]] for name in ("spine1", "spine2", "spine3", "neck", "head"))
    legs = sum(lengths[JOINT_INDEX[f"{side}_{name}"]] for side in ("left", "right") for name in ("knee", "ankle"))
    height = float(trunk + legs / 2)
    if HEIGHTS[0] <= height <= HEIGHTS[1]:
        return None
    return Fault("size", f"the body is {height:.3g} m from ankles to head; expected metres of a person")


def _lengths(joints: np.ndarray) -> Float[np.ndarray, "T 21"]:
    return np.linalg.norm(joints[:, 1:] - joints[:, PARENTS[1:]], axis=-1)


def _jumps(joints: np.ndarray, fps: float) -> list[Fault]:
    """Speeds are of steps of a 30th of a second: marker noise at a high rate is no jump."""
    found = []
    span = min(max(1, round(fps / 30)), len(joints) - 1)
    relative = joints - joints[:, :1]
    for what, places, limit in (("the pelvis", joints[:, :1], PELVIS_SPEED), ("a joint", relative, JOINT_SPEED)):
        moved = np.linalg.norm(places[span:] - places[:-span], axis=-1).max(-1)
        speeds = moved * fps / max(span, 1)
        if len(fast := np.flatnonzero(speeds > limit)):
            often = f", and in {len(fast) - 1} more" if len(fast) > 1 else ""
            frame = int(fast[0])
            text = f"{what} moves {moved[frame]:.3g} m in frame {frame + span} ({speeds[frame]:.3g} m/s){often}"
            found.append(Fault("jump", text))
    low = joints[..., 1].min(-1)
    level = np.median(low)
    if (far := np.abs(low - level) > SPACE).any():
        frame = int(np.argmax(far))
        found.append(Fault("floor", f"the body is {low[frame] - level:+.3g} m from the floor in frame {frame}"))
    return found


def _bones(bones: np.ndarray, usual: np.ndarray) -> list[Fault]:
    found = []
    stretched = np.abs(bones - usual[1:])
    if stretched.max() > STRETCH:
        frame, bone = np.unravel_index(int(stretched.argmax()), stretched.shape)
        name, long = JOINT_NAMES[int(bone) + 1], (bones[frame, bone], usual[int(bone) + 1])
        found.append(
            Fault("bones", f"the bone to {name} is {long[0]:.3g} m long in frame {frame}, and mostly {long[1]:.3g}")
        )
    for name, index in JOINT_INDEX.items():
        if not name.startswith("left_"):
            continue
        pair = usual[index], usual[JOINT_INDEX[name.replace("left_", "right_")]]
        if max(pair) > UNLIKE * min(pair) and max(pair) > 0.1:
            found.append(Fault("bones", f"the bones to {name} and to its like on the right are {pair[0]:.3g} and "
                                        f"{pair[1]:.3g} m long"))  # fmt: skip
    return found


def _upside_down(joints: np.ndarray) -> Fault | None:
    """A handstand has its hands on the floor; who has only the head there stands in a wrong world."""
    head, feet = (
        joints[:, JOINT_INDEX["head"], 1],
        joints[:, [JOINT_INDEX["left_ankle"], JOINT_INDEX["right_ankle"]], 1],
    )
    hands = joints[:, [JOINT_INDEX["left_wrist"], JOINT_INDEX["right_wrist"]], 1].min(-1)
    inverted = (head < feet.min(-1)) & (hands > head)
    if inverted.mean() > 0.9:
        return Fault("upright", "the head is under the feet and the hands do not carry the body: another axis is up")
    return None
