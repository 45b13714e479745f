"""Bodies whose figures are known by construction."""

import numpy as np

from llamo_jax.motion import MotionClip
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_INDEX, JOINT_NAMES, NUM_JOINTS, forward_kinematics

FPS = 30
REST = forward_kinematics(np.broadcast_to(np.eye(3), (NUM_JOINTS, 3, 3)).copy(), np.zeros(3), DEFAULT_OFFSETS)
REST = REST - [0, REST[:, 1].min(), 0]  # [22, 3]: a T-pose that stands on the floor and faces +Z


def standing(frames: int) -> np.ndarray:
    """[frames, 22, 3] at rest."""
    return np.tile(REST, (frames, 1, 1))


def sliding(frames: int, velocity: tuple[float, float, float]) -> np.ndarray:
    """A rigid body that slides at `velocity` m/s."""
    return standing(frames) + (np.arange(frames)[:, None] / FPS * np.array(velocity))[:, None]


def clip(joints: np.ndarray, **metadata) -> MotionClip:
    """A clip with these joints and no rotation."""
    rotations = np.broadcast_to(np.eye(3), (*joints.shape[:2], 3, 3)).copy()
    return MotionClip(joints, rotations, **metadata)


MIRROR = [
    JOINT_INDEX[name.replace("left_", "right_") if name.startswith("left_") else name.replace("right_", "left_")]
    for name in JOINT_NAMES
]
"""The joint on the other side of the body; a joint of the middle is its own mirror."""


def mirrored(motion: MotionClip) -> MotionClip:
    """The motion in a mirror: left and right exchanged."""
    flip = np.diag([-1.0, 1.0, 1.0])
    return MotionClip(motion.joints[:, MIRROR] * [-1, 1, 1], flip @ motion.rotations[:, MIRROR] @ flip, fps=motion.fps)


def heading(joints: np.ndarray) -> np.ndarray:
    """Where the hips face, in radians, unwrapped over time: 0 is +Z and left turns are positive."""
    across = joints[:, JOINT_INDEX["left_hip"]] - joints[:, JOINT_INDEX["right_hip"]]
    return np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))  # across x up = (-z, ., x): the facing direction


def heading_change(joints: np.ndarray) -> float:
    """Turn from the first frame to the last in degrees, positive to the left."""
    angles = heading(joints)
    return float(np.degrees(angles[-1] - angles[0]))


def forward_speed(joints: np.ndarray, fps: float = FPS) -> float:
    """Mean speed of the pelvis along the facing direction in m/s; backwards is negative."""
    angles = heading(joints)[:-1]
    step = np.diff(joints[:, 0], axis=0)
    return float(((step[:, 0] * np.sin(angles) + step[:, 2] * np.cos(angles)) * fps).mean())
