"""File formats of motion, by their suffixes. A new format is its own file, and an entry here and in `clip.py`."""

from pathlib import Path

from llamo_jax.errors import InputError

READABLE = (".bvh", ".npz", ".npy")
"""What a motion is read from: BVH, arrays of `MotionClip.save`, 272 features."""
PICTURES = (".mp4", ".gif", ".png")
"""Videos and film strips."""
WRITABLE = (*PICTURES, *READABLE)


def require_suffix(path: Path, suffixes: tuple[str, ...], what: str = "output") -> None:
    """Raises InputError where a path has none of these suffixes; called before long work."""
    if path.suffix not in suffixes:
        expected = f"expected one of {' '.join(suffixes)}"
        raise InputError(f'{path}: suffix "{path.suffix}" is no {what} format; {expected}')
