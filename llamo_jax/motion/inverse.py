"""Rotations from positions: the twist-free pose that puts a body's joints where they are."""

import numpy as np
from jaxtyping import Float

from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, PARENTS


def rotations_of(joints: Float[np.ndarray, "T 22 3"]) -> Float[np.ndarray, "T 22 3 3"]:
    """Parent-relative rotations [T, 22, 3, 3] of a body whose joints are given, in metres with Y up.

    Pelvis and chest are turned by all that hangs on them; every other bone takes the shortest way from its parent's
    pose. What positions do not say is lost: twist about a bone, and how hands, feet and head turn.
    """
    world = np.empty((len(joints), len(PARENTS), 3, 3))
    for joint, parent in enumerate(PARENTS):
        children = [child for child, above in enumerate(PARENTS) if above == joint]
        bones = joints[:, children] - joints[:, joint, None]
        inherited = world[:, parent] if parent >= 0 else np.broadcast_to(np.eye(3), (len(joints), 3, 3))
        placed = np.einsum("tij,cj->tci", inherited, DEFAULT_OFFSETS[children])
        if len(children) > 1:
            turn = rot.aligned(placed, bones)
        elif children:
            turn = rot.between(placed[:, 0], bones[:, 0])
        else:
            turn = np.eye(3)
        world[:, joint] = turn @ inherited
    rotations = world.copy()
    for joint, parent in enumerate(PARENTS[1:], start=1):
        rotations[:, joint] = np.swapaxes(world[:, parent], -1, -2) @ world[:, joint]
    return rotations
