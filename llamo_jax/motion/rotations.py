"""Rotations as NumPy matrices [..., 3, 3] that act on column vectors. Conversions between standard forms are
SciPy's."""

import numpy as np
from scipy.spatial.transform import Rotation


def to_6d(matrices: np.ndarray) -> np.ndarray:
    """The first two ROWS of each matrix, [..., 3, 3] -> [..., 6] (the 272 representation's and pytorch3d's layout)."""
    return matrices[..., :2, :].reshape(*matrices.shape[:-2], 6)


def from_6d(values: np.ndarray) -> np.ndarray:
    """The rotations nearest to [..., 6] by Gram-Schmidt on the two rows; [..., 3, 3]. A zero row gives a zero row,
    never NaN."""
    first, second = values[..., :3], values[..., 3:]
    first = _unit(first)
    second = _unit(second - (first * second).sum(-1, keepdims=True) * first)
    return np.stack([first, second, np.cross(first, second)], axis=-2)


def yaw(angles: np.ndarray) -> np.ndarray:
    """Rotations by `angles` (radians, [...]) about +Y: [..., 3, 3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]; +Z turns
    towards +X (left)."""
    angles = np.asarray(angles)
    cos, sin, zero, one = np.cos(angles), np.sin(angles), np.zeros_like(angles), np.ones_like(angles)
    return np.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], -1).reshape(*angles.shape, 3, 3)


def heading(matrices: np.ndarray) -> np.ndarray:
    """Yaw of the facing direction R [0, 0, 1] in radians, [..., 3, 3] -> [...]; 0 faces +Z, positive is to the
    subject's left (+X)."""
    return np.arctan2(matrices[..., 0, 2], matrices[..., 2, 2])


def from_rotvec(vectors: np.ndarray) -> np.ndarray:
    """Axis times angle (radians) [..., 3] -> matrices [..., 3, 3]."""
    return Rotation.from_rotvec(np.reshape(vectors, (-1, 3))).as_matrix().reshape(*np.shape(vectors)[:-1], 3, 3)


def to_rotvec(matrices: np.ndarray) -> np.ndarray:
    """Matrices [..., 3, 3] -> axis times angle (radians) [..., 3]."""
    return Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec().reshape(*matrices.shape[:-2], 3)


def from_euler(order: str, degrees: np.ndarray) -> np.ndarray:
    """Intrinsic Euler angles in degrees [..., 3] -> matrices; `order` is upper case, e.g. "ZXY" means R = Rz Rx Ry (as
    BVH channels)."""
    return (
        Rotation.from_euler(order, np.reshape(degrees, (-1, 3)), degrees=True)
        .as_matrix()
        .reshape(*np.shape(degrees)[:-1], 3, 3)
    )


def to_euler(order: str, matrices: np.ndarray) -> np.ndarray:
    """Matrices [..., 3, 3] -> intrinsic Euler angles in degrees [..., 3]; `order` as in `from_euler`."""
    return (
        Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_euler(order, degrees=True).reshape(*matrices.shape[:-2], 3)
    )


def continuous_euler(order: str, matrices: np.ndarray) -> np.ndarray:
    """`to_euler` along time: of all angles that mean the same rotation, in each frame those nearest to the last
    frame's.

    Args:
      order: three different axes.
      matrices: [T, ..., 3, 3].

    Returns:
      [T, ..., 3] degrees, without steps by 360 and beyond +-180 where the rotation goes on turning.
    """
    angles = to_euler(order, matrices)
    # The other triple of the same rotation: half a turn about the outer axes, the middle one reflected.
    other = np.stack([angles[..., 0] + 180, 180 - angles[..., 1], angles[..., 2] + 180], -1)
    for frame in range(1, len(angles)):
        last = angles[frame - 1]
        near = [triple - 360 * np.round((triple - last) / 360) for triple in (angles[frame], other[frame])]
        first, second = (np.abs(triple - last).sum(-1, keepdims=True) for triple in near)
        angles[frame] = np.where(first <= second, *near)
    return angles


def between(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The shortest rotation that takes each direction of `sources` [..., 3] to that of `targets` [..., 3]; [..., 3,
    3]."""
    sources, targets = _unit(np.asarray(sources, float)), _unit(np.asarray(targets, float))
    axis = np.cross(sources, targets)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (sources * targets).sum(-1, keepdims=True))
    # Opposite directions leave the axis open: take any that is perpendicular to the source.
    helper = np.where(np.abs(sources[..., :1]) < 0.9, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    axis = np.where(sine > 1e-12, axis, np.cross(sources, helper))
    return from_rotvec(_unit(axis) * angle)


def first_wrong(matrices: np.ndarray) -> int | None:
    """The first frame of [T, ..., 3, 3] in which some matrix is no rotation, or None."""
    off = np.abs(matrices @ np.swapaxes(matrices, -1, -2) - np.eye(3)).max((-1, -2))
    wrong = (off > 1e-2) | (np.linalg.det(matrices) < 0)
    return int(np.argwhere(wrong)[0, 0]) if wrong.any() else None


def aligned(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The rotations [T, 3, 3] that bring vectors [T, C, 3] nearest to others, in least squares (Kabsch)."""
    left, _, right = np.linalg.svd(np.einsum("tci,tcj->tij", targets, sources))
    sign = np.ones((len(left), 3))
    sign[:, 2] = np.linalg.det(left) * np.linalg.det(right)
    return np.einsum("tij,tj,tjk->tik", left, sign, right)


def geodesic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angle in radians between rotations [..., 3, 3]; [...]."""
    relative = np.swapaxes(first, -1, -2) @ second
    skew = np.stack([relative[..., 2, 1] - relative[..., 1, 2], relative[..., 0, 2] - relative[..., 2, 0],
                     relative[..., 1, 0] - relative[..., 0, 1]], -1)  # fmt: skip
    # arctan2 keeps its accuracy near 0 and pi, where arccos of the trace loses half the digits.
    return np.arctan2(np.linalg.norm(skew, axis=-1), np.trace(relative, axis1=-2, axis2=-1) - 1)


def resample(matrices: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Spherical interpolation along axis 0: rotations [T, ..., 3, 3] at fractional frame indices `times` [S]; [S, ...,
    3, 3]."""
    low = np.clip(np.floor(times).astype(int), 0, len(matrices) - 1)
    high = np.minimum(low + 1, len(matrices) - 1)
    start, end = matrices[low], matrices[high]
    fraction = (times - low).reshape(-1, *[1] * (matrices.ndim - 2))
    return start @ from_rotvec(fraction * to_rotvec(np.swapaxes(start, -1, -2) @ end))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
