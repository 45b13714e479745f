"""Joints of the 272 features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import NUM_JOINTS


def recover_joints(features: Tensor) -> Tensor:
    """World joint positions [T, 22, 3] in metres (Y up, float64, on the CPU) of un-normalised features [T, 272] of one
    motion."""
    features = features.detach().to("cpu", torch.float64)
    # Generated deltas are no exact rotations: only the angle of their [c, 0, s] row is read.
    heading = torch.cumsum(-torch.atan2(features[:, 4], features[:, 2]), 0)
    local = features[:, 8:74].unflatten(1, (NUM_JOINTS, 3))
    # The root moves in the heading of the frame before.
    x, z = _turn(F.pad(heading, (1, 0))[:-1], features[:, 0], features[:, 1])
    root = torch.stack([x, torch.zeros_like(x), z], -1).cumsum(0)
    x, z = _turn(heading[:, None], local[..., 0], local[..., 2])
    return torch.stack([x, local[..., 1], z], -1) + root[:, None]


def _turn(heading: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """(x, z) turned about +Y by `heading` radians: +Z turns towards +X."""
    return heading.cos() * x + heading.sin() * z, heading.cos() * z - heading.sin() * x
