"""The 22-joint SMPL skeleton: names, hierarchy and body proportions.

Frame of reference everywhere: metres, Y up, right-handed; a subject in the rest pose faces +Z, so that +X is the
subject's left. The rest pose is SMPL's T-pose: every rotation is the identity and the arms lie along +X and -X.
"""

import numpy as np

JOINT_NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3",
    "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder", "right_shoulder",
    "left_elbow",
    "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
NUM_JOINTS = len(JOINT_NAMES)
JOINT_INDEX = {name: index for index, name in enumerate(JOINT_NAMES)}

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
"""Parent of each joint; -1 for the root. A parent always comes before its children."""

FEET = tuple(JOINT_INDEX[name] for name in ("left_ankle", "right_ankle", "left_foot", "right_foot"))

# Our own round figures for an adult of 1.70 m (mid-size, symmetric): metres from the parent, in the rest pose.
_HALF_BODY = {
    "pelvis": (0.0, 0.0, 0.0), "left_hip": (0.07, -0.09, -0.01), "left_knee": (0.03, -0.385, 0.0),
    "left_ankle": (-0.015, -0.41, -0.035),
    "left_foot": (0.03, -0.06, 0.125), "spine1": (0.0, 0.115, -0.025), "spine2": (0.0, 0.135, 0.0), "spine3": (0.0,
    0.055, 0.02),
    "neck": (0.0, 0.205, -0.04), "head": (0.0, 0.09, 0.045), "left_collar": (0.075, 0.11, -0.03),
    "left_shoulder": (0.105, 0.045, -0.01),
    "left_elbow": (0.26, -0.01, -0.015), "left_wrist": (0.25, 0.005, -0.005),
}  # fmt: skip


def _mirrored(name: str) -> tuple[float, float, float]:
    x, y, z = _HALF_BODY[name.replace("right_", "left_")]
    return (-x, y, z) if name.startswith("right_") else (x, y, z)


DEFAULT_OFFSETS = np.array([_mirrored(name) for name in JOINT_NAMES])
"""[22, 3] metres: a plain adult body, for motion that comes without one of its own."""


def forward_kinematics(rotations: np.ndarray, root_positions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """World joint positions from parent-relative rotations.

    Args:
      rotations: [..., 22, 3, 3] parent-relative (the root's is in the world), acting on column vectors.
      root_positions: [..., 3] metres, the pelvis in the world.
      offsets: [22, 3] metres, each joint from its parent in the rest pose; row 0 is not used.

    Returns:
      [..., 22, 3] metres.
    """
    return pose(rotations, root_positions, offsets)[0]


def pose(rotations: np.ndarray, root_positions: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World joint positions [..., 22, 3] and world rotations [..., 22, 3, 3]; arguments as in `forward_kinematics`."""
    positions = np.empty(rotations.shape[:-1], rotations.dtype)
    world = np.empty_like(rotations)
    positions[..., 0, :] = root_positions
    world[..., 0, :, :] = rotations[..., 0, :, :]
    for joint, parent in enumerate(PARENTS[1:], start=1):
        positions[..., joint, :] = positions[..., parent, :] + world[..., parent, :, :] @ offsets[joint]
        world[..., joint, :, :] = world[..., parent, :, :] @ rotations[..., joint, :, :]
    return positions, world


def recover_offsets(positions: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Bone offsets [22, 3] in metres of the body that made a motion: the mean over frames of G_parent^T (p_child -
    p_parent).

    Args:
      positions: [T, 22, 3] metres, in any frame of reference that `rotations` share.
      rotations: [T, 22, 3, 3] parent-relative.
    """
    _, world = pose(rotations, positions[:, 0], DEFAULT_OFFSETS)
    offsets = np.zeros((NUM_JOINTS, 3))
    for joint, parent in enumerate(PARENTS[1:], start=1):
        bone = positions[:, joint] - positions[:, parent]
        offsets[joint] = np.einsum("tji,tj->ti", world[:, parent], bone).mean(0)
    return offsets
