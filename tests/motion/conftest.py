"""A motion to test with, made of plain formulas."""

import numpy as np
import pytest

from llamo_jax.motion import MotionClip
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import JOINT_INDEX, NUM_JOINTS


def make_walk(frames: int = 60, fps: float = 30.0, heading: float = 0.0, turn: float = 0.0) -> MotionClip:
    """A stylised walk at 1.2 m/s: legs and arms swing, knees bend; it starts towards `heading`, turns by `turn`
    (radians to the left)."""
    time = np.arange(frames) / fps
    vectors = np.zeros((frames, NUM_JOINTS, 3))
    swing = 0.5 * np.sin(2 * np.pi * time)
    for side, sign in (("left", 1), ("right", -1)):
        vectors[:, JOINT_INDEX[f"{side}_hip"], 0] = -sign * swing
        vectors[:, JOINT_INDEX[f"{side}_knee"], 0] = 0.4 + 0.4 * np.cos(2 * np.pi * time + sign)
        vectors[:, JOINT_INDEX[f"{side}_shoulder"], 2] = -sign * 1.2
        vectors[:, JOINT_INDEX[f"{side}_elbow"], 1] = -sign * (0.4 + 0.2 * swing)
    vectors[:, JOINT_INDEX["spine2"], 1] = 0.2 * swing
    rotations = rot.from_rotvec(vectors)
    headings = heading + turn * time / max(time[-1], 1e-9)
    rotations[:, 0] = rot.yaw(headings) @ rot.from_rotvec(
        np.stack([0.05 * swing + 0.03, np.zeros(frames), 0.04 * swing], -1)
    )
    steps = 1.2 / fps * np.stack([np.sin(headings), np.zeros(frames), np.cos(headings)], -1)
    root = np.cumsum(steps, 0) + [0.3, 0.9, -0.7] + 0.02 * np.cos(4 * np.pi * time)[:, None] * [0, 1, 0]
    captions, labels = ("a person walks forward.",), {"content": "walk"}
    return MotionClip.from_rotations(rotations, root, fps=fps, captions=captions, name="walk", labels=labels)


@pytest.fixture
def walk() -> MotionClip:
    """Two seconds of walking, not facing +Z at first and turning left as it goes."""
    return make_walk(heading=0.8, turn=1.0)


@pytest.fixture
def walker():
    """`make_walk`, for tests that need other lengths and rates."""
    return make_walk


@pytest.fixture
def draws(request) -> int:
    """How many draws a property is tried on; more with --draws."""
    return request.config.getoption("--draws")
