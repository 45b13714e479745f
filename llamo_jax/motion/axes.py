"""Which axis of a motion's world points up: by its poses, and by the floor that it stands or lies on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError

Axis = Literal["x", "-x", "y", "-y", "z", "-z"]

# World up -> the rotation that makes it +Y: the least turn, about X where there is a choice, as programs do.
_TO_Y_UP: dict[Axis, Float[np.ndarray, "3 3"]] = {
    "y": np.eye(3),
    "-y": np.diag([1.0, -1.0, -1.0]),
    "z": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "-z": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "x": np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]]),
    "-x": np.array([[0, 1.0, 0], [-1, 0, 0], [0, 0, 1]]),
}


def to_y_up(up: Axis) -> Float[np.ndarray, "3 3"]:
    """The rotation that brings a world in which this axis points up to Y up."""
    return _TO_Y_UP[up]


def world_up(
    rest_up: Axis | None,
    positions: Float[np.ndarray, "T J 3"],
    joints: Mapping[str, int],
    notes: list[str],
    where: str | Path,
) -> Axis:
    """The axis of a motion's world that points up.

    It is the rest pose's where the trunk is upright along that in a fair part of the frames. Else the body lies all the
    time, or the world is another than that of the rest pose: the floor decides, on which feet stand or a body lies.

    Args:
      rest_up: the axis that points up in the rest pose, or in all files of its kind; None if nothing says.
      positions: of the joints in the file's axes and unit.
      joints: SMPL joint name -> index in `positions`.
      notes: takes what a person should know.
      where: named in errors.

    Raises:
      InputError: two readings are possible.
    """
    trunk = positions[:, joints["head"]] - positions[:, joints["pelvis"]]
    trunk = trunk / np.maximum(np.linalg.norm(trunk, axis=-1, keepdims=True), 1e-9)
    upright = {axis: float((trunk @ turn[1] > _UPRIGHT).mean()) for axis, turn in _TO_Y_UP.items()}
    best = max(get_args(Axis), key=lambda axis: (upright[axis], axis == rest_up))
    if rest_up is None:
        return best
    size = np.linalg.norm(np.ptp(positions[0, list(joints.values())], axis=0))
    floors = {axis: _Floor.of(positions, joints, axis, size) for axis in _TO_Y_UP}
    if upright[best] < 0.5:
        lies = [axis for axis in _TO_Y_UP if floors[axis].lain_on]
        if lies and rest_up not in lies:
            raise InputError(
                f"{where}: the rest pose stands along {rest_up}, and the motion never stands: it may lie with "
                f"{lies[0]} up; say which axis is up with --up"
            )
        return rest_up
    others = [axis for axis in _TO_Y_UP if axis.strip("-") != best.strip("-")]
    lies = [axis for axis in others if floors[axis].lain_on]
    two = (
        f"{where}: the rest pose stands along {rest_up}, the motion along {best}: {best} may be up, or the body may lie"
    )
    if best == rest_up:
        if lies and not floors[best].stood_on:
            raise InputError(f"{two} with {lies[0]} up; say which axis is up with --up")
        stays = np.linalg.norm(np.ptp(positions[:, joints["pelvis"]], axis=0)) < _THIN * size
        if stays and len(positions) >= _TELLING and any(floors[axis].flat < _THIN for axis in lies):
            notes.append(f"is taken to stand with {best} up; if it lies, and {lies[0]} is up, say so with --up")
        return best
    if upright[rest_up] >= upright[best] / 4:
        return rest_up
    if best.strip("-") == rest_up.strip("-"):
        # Upside down: a world with its axis down, unless the hands are where the floor is.
        hands = positions[:, [joints["left_wrist"], joints["right_wrist"]]].mean(1) - positions[:, joints["head"]]
        stood = float((hands @ _TO_Y_UP[best][1] < 0).mean()) > 0.5
        if stood and lies:
            raise InputError(f"{two} with {lies[0]} up; say which axis is up with --up")
    elif floors[best].steady != floors[rest_up].steady:
        stood = floors[best].steady
    elif floors[best].low != floors[rest_up].low:
        stood = floors[best].low
    else:
        raise InputError(f"{two}; say which axis is up with --up")
    if not stood:
        lies = [axis for axis in _TO_Y_UP if floors[axis].lain_on and axis not in (best, rest_up)]
        if lies and not floors[rest_up].lain_on:
            raise InputError(f"{two} with {lies[0]} up; say which axis is up with --up")
        return rest_up
    notes.append(f"its rest pose stands along {rest_up} and its motion along {best}: {best} is taken for up")
    return best


_TELLING = 12
"""Frames; of fewer, every body that stands still seems to lie along some axis."""
_THIN = 0.25
"""Of its size, how high a body is that lies straight. Who stands still is so thin from front to back."""


class _Floor(NamedTuple):
    """What a motion says of an axis that might point up.

    Attributes:
      steady: the lowest joint keeps to one level, as on a floor, and not when it travels along the axis.
      low: that is the level 0.
      lain_on: besides, the whole body is low over it and no joint is under it.
      flat: how high the body is over it, of its size.
    """

    steady: bool
    low: bool
    lain_on: bool
    flat: float

    @property
    def stood_on(self) -> bool:
        """Whether the lowest joint keeps to the level 0."""
        return self.steady and self.low

    @classmethod
    def of(cls, positions: Float[np.ndarray, "T J 3"], joints: Mapping[str, int], axis: Axis, size: float) -> "_Floor":
        """Of an axis; `size` is how large the body is."""
        heights = positions[:, list(joints.values())] @ _TO_Y_UP[axis][1]
        low = heights.min(1)
        steady = np.ptp(np.percentile(low, [5, 95])) < 0.12 * size
        level = np.median(low) / size
        flat = float(np.median(heights.max(1) - low) / size)
        return cls(bool(steady), bool(abs(level) < 0.12), bool(steady and flat < 0.4 and -0.03 < level < 0.1), flat)


_UPRIGHT = 0.8


def ankles(positions: Float[np.ndarray, "T J 3"], joints: Mapping[str, int]) -> Float[np.ndarray, "T 3"]:
    """Where the middle of both ankles is."""
    return positions[:, [joints["left_ankle"], joints["right_ankle"]]].mean(1)


def standing(positions: Float[np.ndarray, "T J 3"], joints: Mapping[str, int]) -> dict[Axis, np.ndarray]:
    """Axis -> in which frames the body stands along it: trunk and legs within 37 degrees of it."""
    pelvis, head = positions[:, joints["pelvis"]], positions[:, joints["head"]]
    parts = np.stack([head - pelvis, pelvis - ankles(positions, joints)], 1)
    parts = parts / np.maximum(np.linalg.norm(parts, axis=-1, keepdims=True), 1e-9)
    return {axis: ((parts @ turn[1]) > _UPRIGHT).all(1) for axis, turn in _TO_Y_UP.items()}
