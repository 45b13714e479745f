"""HumanML3D's 263 features, in: root motion and joint positions are read; its rotations have lost their twist.

Per frame, at 20 frames/s, Y up: [0] half the turn of the root to the next frame (radians), [1:3] its XZ displacement to
the next frame in its heading, [3] its height, [4:67] the 21 other joints without root XZ and heading, then 6D
rotations, velocities and foot contacts. Source: the published representation of HumanML3D (Guo et al., CVPR 2022).
"""

import numpy as np
from jaxtyping import Float

from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import NUM_JOINTS

FEATURES = 263
FPS = 20.0


def joints_of(features: Float[np.ndarray, "T 263"]) -> Float[np.ndarray, "T 22 3"]:
    """World joint positions in metres, Y up, of un-normalised features; the first frame faces +Z over the origin."""
    features = np.asarray(features, np.float64)
    turned = np.concatenate([[0.0], np.cumsum(features[:-1, 0])])
    # The features keep half angles of a rotation that takes the world to the heading.
    to_world = rot.yaw(-2 * turned)
    steps = np.zeros((len(features), 3))
    steps[1:, [0, 2]] = features[:-1, 1:3]
    root = np.cumsum(np.einsum("tij,tj->ti", to_world, steps), axis=0)
    local = np.concatenate([np.zeros((len(features), 1, 3)), features[:, 4:67].reshape(-1, NUM_JOINTS - 1, 3)], 1)
    joints = np.einsum("tij,tkj->tki", to_world, local) + root[:, None]
    joints[:, 0, 1] = features[:, 3]
    return joints
