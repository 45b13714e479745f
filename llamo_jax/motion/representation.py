"""The 272-dimensional motion representation, both ways (MotionStreamer's layout).

Per frame, at 30 frames/s, in metres: root displacement on the floor, heading change, joint positions and their
differences, and parent-relative rotations, all without the heading. Positions and rotations are redundant:
`decode_positions` and `decode_rotations` read the one or the other.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import NUM_JOINTS

FEATURES = 272
"""Numbers of a frame."""
FPS = 30
"""Frames a second."""
FRAMES_PER_LATENT = 4
LATENTS_PER_SECOND = FPS / FRAMES_PER_LATENT
"""The rate of the motion VAE's latents: 7.5 a second."""
MAX_SECONDS = 20.0
"""Where a motion ends that the exit head does not end."""

ROOT_VELOCITY = slice(0, 2)
"""XZ displacement of the pelvis since the previous frame (metres a frame), in the previous frame's heading."""
HEADING_DELTA = slice(2, 8)
"""Heading change since the previous frame, as the 6D form of a yaw matrix."""
POSITIONS = slice(8, 74)
"""22 joints, pelvis XZ and heading removed; Y is the height over the clip's floor."""
VELOCITIES = slice(74, 140)
"""Differences of POSITIONS since the previous frame."""
ROTATIONS = slice(140, 272)
"""22 parent-relative rotations in 6D; the root's without its heading."""

GROUPS = (ROOT_VELOCITY, HEADING_DELTA, POSITIONS, VELOCITIES, ROTATIONS)

FEATURE_LIMIT = 30.0
"""Normalised features are clipped here: one deviation a group leaves heavy tails (a fast turn is 100 deviations of
heading)."""

_NO_TURN = np.array([1.0, 0, 0, 0, 1, 0])


def encode(joints: Float[np.ndarray, "T 22 3"], rotations: Float[np.ndarray, "T 22 3 3"]) -> Float[np.ndarray, "T 272"]:
    """Features of a motion at 30 frames/s, in float64.

    The motion is made canonical first: the first frame faces +Z with the pelvis over the origin, and the lowest joint
    of all frames is the floor.

    Args:
      joints: metres, Y up.
      rotations: parent-relative; the root's in the world.
    """
    joints, rotations = np.asarray(joints, np.float64), np.asarray(rotations, np.float64)
    heading = rot.heading(rotations[:, 0])
    joints = (joints - joints[:1, :1] * [1, 0, 1]) @ rot.yaw(heading[0])  # row vectors: p R = R^T p
    joints[..., 1] -= joints[..., 1].min()
    features = np.zeros((len(joints), FEATURES))
    unturn = rot.yaw(-heading)
    root = joints[:, 0] * [1, 0, 1]
    local = np.einsum("tij,tkj->tki", rot.yaw(heading[0] - heading), joints - root[:, None])
    velocity = np.einsum("tij,tj->ti", rot.yaw(heading[0] - heading[:-1]), np.diff(root, axis=0))
    features[1:, ROOT_VELOCITY] = velocity[:, [0, 2]]
    features[0, HEADING_DELTA] = _NO_TURN
    features[1:, HEADING_DELTA] = rot.to_6d(rot.yaw(-np.diff(heading)))
    features[:, POSITIONS] = local.reshape(len(joints), -1)
    features[1:, VELOCITIES] = np.diff(features[:, POSITIONS], axis=0)
    local_rotations = rotations.copy()
    local_rotations[:, 0] = unturn @ rotations[:, 0]
    features[:, ROTATIONS] = rot.to_6d(local_rotations).reshape(len(joints), -1)
    return features


def require_features(features: np.ndarray) -> None:
    """Raises InputError where an array is no motion in un-normalised features."""
    if features.ndim != 2 or features.shape[1] != FEATURES or not len(features):
        raise InputError(f"features have shape {features.shape}; expected [T, {FEATURES}] with T at least 1")
    if features.dtype.kind not in "fiu":
        raise InputError(f"features are of type {features.dtype}; expected numbers")
    if not np.isfinite(features).all():
        frame = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
        raise InputError(f"features have NaN or infinity in frame {frame}; expected finite numbers")
    rows = np.asarray(features[:, ROTATIONS], np.float64).reshape(len(features), NUM_JOINTS, 2, 3)
    # What a model generates is off by some hundredths.
    off = np.abs(np.linalg.norm(rows, axis=-1) - 1).mean()
    if off > 0.2:
        raise InputError(
            f"rotation features have rows that are off unit length by {off:.2f}: they are normalised, or scaled; "
            f"expected un-normalised features in metres"
        )
    matrices = rot.from_6d(rows.reshape(len(features), NUM_JOINTS, 6))
    if (flat := np.abs(np.linalg.det(matrices) - 1).max(1) > 1e-3).any():
        raise InputError(
            f"rotation features of frame {int(np.argmax(flat))} are no rotations; expected un-normalised ones"
        )


def turn(features: Float[np.ndarray, "... 272"], xp: Any = np) -> Float[np.ndarray, "..."]:
    """Turn since the previous frame in radians, positive to the left, of un-normalised features.

    Generated deltas are no exact rotations: only the angle of their [c, 0, s] row is read.

    Args:
      features: of any number of frames.
      xp: NumPy, or jax.numpy where the features are JAX arrays.
    """
    delta = features[..., HEADING_DELTA]
    return -xp.arctan2(delta[..., 2], delta[..., 0])


class Root(NamedTuple):
    """Where a body stands before a frame: what a motion that comes in pieces is put together by."""

    heading: float = 0.0
    """Radians, positive to the left."""
    x: float = 0.0
    """Metres, as z."""
    z: float = 0.0


ORIGIN = Root()


def headings(features: Float[np.ndarray, "T 272"], start: Root = ORIGIN) -> Float[np.ndarray, " T"]:
    """Heading of each frame in radians, positive to the left: the sum of the turns, so that nothing drifts."""
    return start.heading + np.cumsum(turn(np.asarray(features, np.float64)))


def decode_root(features: Float[np.ndarray, "T 272"], start: Root = ORIGIN) -> Float[np.ndarray, "T 3"]:
    """World positions of the pelvis in metres."""
    features = np.asarray(features, np.float64)
    previous = np.concatenate([[start.heading], headings(features, start)[:-1]])
    step = np.zeros((len(features), 3))
    step[:, [0, 2]] = features[:, ROOT_VELOCITY]
    origin = np.array([start.x, 0, start.z])
    root = origin + np.cumsum(np.einsum("tij,tj->ti", rot.yaw(previous), step), axis=0)
    root[:, 1] = features[:, POSITIONS.start + 1]
    return root


def root_after(features: Float[np.ndarray, "T 272"], start: Root = ORIGIN) -> Root:
    """Where the next frame begins."""
    x, _, z = decode_root(features, start)[-1]
    return Root(float(headings(features, start)[-1]), float(x), float(z))


def decode_positions(features: Float[np.ndarray, "T 272"], start: Root = ORIGIN) -> Float[np.ndarray, "T 22 3"]:
    """World joint positions in metres, from the position features."""
    features = np.asarray(features, np.float64)
    local = features[:, POSITIONS].reshape(-1, NUM_JOINTS, 3)
    world = np.einsum("tij,tkj->tki", rot.yaw(headings(features, start)), local)
    return world + (decode_root(features, start) * [1, 0, 1])[:, None]


def decode_rotations(
    features: Float[np.ndarray, "T 272"], start: Root = ORIGIN
) -> tuple[Float[np.ndarray, "T 22 3 3"], Float[np.ndarray, "T 3"]]:
    """Parent-relative rotations (the root's in the world) and world positions of the pelvis in metres."""
    features = np.asarray(features, np.float64)
    rotations = rot.from_6d(features[:, ROTATIONS].reshape(-1, NUM_JOINTS, 6))
    rotations[:, 0] = rot.yaw(headings(features, start)) @ rotations[:, 0]
    return rotations, decode_root(features, start)


def canonical_window(features: Float[np.ndarray, "T 272"], start: int, stop: int) -> Float[np.ndarray, "S 272"]:
    """Frames start to stop as a motion of their own: the first has no displacement, turn or velocity. The floor stays
    the clip's."""
    if not 0 <= start < stop <= len(features):
        raise InputError(
            f"window {start}:{stop} of {len(features)} frames; expected 0 <= start < stop <= {len(features)}"
        )
    window = features[start:stop].copy()
    window[0, ROOT_VELOCITY] = 0
    window[0, HEADING_DELTA] = _NO_TURN
    window[0, VELOCITIES] = 0
    return window


def group_deviations(variance: Float[np.ndarray, " 272"]) -> Float[np.ndarray, " 272"]:
    """One standard deviation a group, the root mean square of its channels', so that channels that never move divide by
    no zero.

    Args:
      variance: of each channel about its own mean.
    """
    std = np.empty(FEATURES)
    for group in GROUPS:
        std[group] = max(np.sqrt(variance[group].mean()), 1e-6)
    return std
