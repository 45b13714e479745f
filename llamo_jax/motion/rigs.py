"""Rigs as data: what their joints are called, which units they use, and how they stand where their zero pose does not.

Joints are found by the words of their names (`joints.py`). A rig whose zero pose is no pose of a body has its T-pose
here.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

UNITS = {
    "metre": 1.0,
    "centimetre": 0.01,
    "millimetre": 0.001,
    "decimetre": 0.1,
    "inch": 0.0254,
    "foot": 0.3048,
    "ASF (CMU, 0.45 inch)": 0.0254 / 0.45,
}
"""Metres in the units that motion files use."""

# The words of a joint's name, its side, numbers and what all names of a file share apart; in order of preference.
# Sources: the default skeletons and exports of Mixamo, MotionBuilder, 3ds Max Biped, Unreal, VRoid (VRM), Daz, Poser,
# Rokoko, Xsens MVN, OptiTrack Motive, mocopi, iClone and Character Creator, Rigify, Auto-Rig Pro, Advanced Skeleton,
# Valve, Kinect, Perception Neuron, MakeHuman, MikuMikuDance, SMPL, CMU's ASF, LAFAN1, BEAT, SOMA and Biovision's 1999
# sample.
SIDED_NAMES = {
    "hip": (
        "upleg", "upperleg", "thigh", "legupper", "thighbend", "thighstretch", "uleg", "upperthigh", "femur", "legup",
        "足", "leg", "hip",
    ),
    "knee": (
        "lowerleg", "lowleg", "leglower", "calf", "shin", "shinbend", "tibia", "knee", "ひざ", "legstretch",
        "legdown", "leg",
    ),
    "ankle": ("ankle", "足首", "foot"),
    "foot": (
        "toebase", "ball", "toes", "toe", "つま先", "forefoot", "football", "toebone", "toetip", "bigtoe",
        "metatarsals", "foot",
    ),
    "collar": ("clavicle", "collar", "clav", "scapula", "collarbone", "肩", "shoulder"),
    "shoulder": (
        "upperarm", "uparm", "armupper", "uarm", "arm", "腕", "shldr", "shldrbend", "upperarmbend", "armstretch",
        "humerus", "shoulder", "armup",
    ),
    "elbow": (
        "lowerarm", "lowarm", "armlower", "forearm", "farm", "forearmbend", "forearmstretch", "lowerarmbend", "radius",
        "elbow", "ひじ", "armdown",
    ),
    "wrist": ("wrist", "手首", "hand"),
}  # fmt: skip
MIDDLE_NAMES = {
    "pelvis": ("hips", "pelvis", "hip", "spinebase", "hipcenter", "cog", "center", "センター", "root"),
    "neck": ("neck", "necklower", "lowerneck", "necktwist", "neckbase", "首"),
    "head": ("head", "頭"),
}
LEFT = ("left", "l", "lft", "lt", "左")
RIGHT = ("right", "r", "rgt", "rt", "右")
MIDDLE = ("c", "m", "x", "mid")
"""How some rigs mark the joints of the middle."""

NO_WORDS = re.compile(r"bip\d*|valve|character\d*|mixamorig\d*|def|org|mch|drv|jnt|j|cc")
"""Words that rigging tools put at joints' names, and that say nothing of the joint."""

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
    """A rig of which more must be known than its names tell.

    Attributes:
      joints: names by which it is told.
      t_pose: joint name -> world axes in a T-pose that faces +Z: columns are the local x, y and z axes. Empty where the
        zero pose is a pose of a body.
      unit: of its files, where a body has a possible size in two units.
    """

    joints: frozenset[str]
    t_pose: Mapping[str, Float[np.ndarray, "3 3"]] = {}
    unit: str | None = None


_BIOVISION = frozenset({"Hips", "Chest", "LeftCollar", "LeftUpArm", "LeftLowArm", "LeftUpLeg", "LeftLowLeg"})

RIGS = (Rig(frozenset(_BANDAI_NAMCO), t_pose=_BANDAI_NAMCO), Rig(_BIOVISION, unit="inch"))

OPENING_SECONDS = 0.1
"""Most of CMU's files open in the T-pose and ease into the motion within this time."""
