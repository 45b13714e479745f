"""Rigs as data: what their joints are called, which units they use, and how they stand where their zero pose does not.

Joints are found by the words of their names. A rig whose zero pose is no pose of a body has its T-pose here.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

UNITS = {"metre": 1.0, "centimetre": 0.01, "millimetre": 0.001, "inch": 0.0254, "ASF (CMU, 0.45 inch)": 0.0254 / 0.45}
"""Metres in the units that motion files use."""

LEG_METRES = 0.82
"""Hip to ankle of an adult, about: the unit that brings a skeleton's legs nearest to this is taken for the file's."""

# The words of a joint's name, its side and numbering prefixes apart, in order of preference.
SIDED_NAMES = {
    "hip": ("upleg", "upperleg", "thigh", "femur", "hip"),
    "knee": ("leg", "lowerleg", "calf", "shin", "tibia", "knee"),
    "ankle": ("ankle", "foot"),
    "foot": ("toebase", "toes", "toe", "toe0", "ball", "foot"),
    "collar": ("clavicle", "collar", "shoulder"),
    "shoulder": ("upperarm", "uparm", "arm", "shldr", "humerus", "shoulder"),
    "elbow": ("lowerarm", "forearm", "radius", "elbow"),
    "wrist": ("wrist", "hand"),
}
MIDDLE_NAMES = {"pelvis": ("hips", "pelvis", "hip"), "neck": ("neck", "neck0", "neck1", "lowerneck"), "head": ("head",)}
BASES = frozenset(base for bases in SIDED_NAMES.values() for base in bases)
SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}

# World axes of the joints of the Bandai-Namco skeleton in a T-pose that faces +Z: columns are the local x, y and z
# axes. Its zero pose is no pose of a body: bones lie along local x.
_ALONG_SPINE = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
_LEFT_LEG, _RIGHT_LEG = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]), np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
_FOOT_SLOPE, _TOE_SLOPE = np.radians(44.0), np.radians(26.0)  # below the horizontal, in a foot flat on the floor


def _left_foot(slope: float) -> np.ndarray:
    return np.array([[0, 1, 0], [-np.sin(slope), 0, np.cos(slope)], [np.cos(slope), 0, np.sin(slope)]])


_BANDAI_NAMCO = (
    {"Hips": np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])}
    | {name: _ALONG_SPINE for name in ("Spine", "Chest", "Neck", "Head")}
    | {f"{name}_L": np.eye(3) for name in ("Shoulder", "UpperArm", "LowerArm", "Hand")}
    | {f"{name}_R": np.diag([1.0, -1.0, -1.0]) for name in ("Shoulder", "UpperArm", "LowerArm", "Hand")}
    | {"UpperLeg_L": _LEFT_LEG, "LowerLeg_L": _LEFT_LEG, "UpperLeg_R": _RIGHT_LEG, "LowerLeg_R": _RIGHT_LEG}
    | {"Foot_L": _left_foot(_FOOT_SLOPE), "Toes_L": _left_foot(_TOE_SLOPE)}
    | {
        "Foot_R": _left_foot(_FOOT_SLOPE) @ np.diag([-1, 1, -1]),
        "Toes_R": _left_foot(_TOE_SLOPE) @ np.diag([-1, 1, -1]),
    }
)


class Rig(NamedTuple):
    """A rig whose zero pose is no pose of a body.

    Attributes:
      joints: names by which it is told.
      t_pose: joint name -> world axes in a T-pose that faces +Z: columns are the local x, y and z axes.
    """

    joints: frozenset[str]
    t_pose: Mapping[str, Float[np.ndarray, "3 3"]]


RIGS = (Rig(frozenset(_BANDAI_NAMCO), _BANDAI_NAMCO),)

PREFIXES = re.compile(r"bip\d*|character\d*|mixamorig\d*|def|jnt|j")
"""Words that rigging tools put before every joint's name."""

OPENING_SECONDS = 0.1
"""Most of CMU's files open in the T-pose and jump into the motion within this time."""
