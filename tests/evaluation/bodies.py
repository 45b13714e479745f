"""Bodies whose figures are known by construction."""

import numpy as np

from llamo_jax.motion import MotionClip
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, NUM_JOINTS, forward_kinematics

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
