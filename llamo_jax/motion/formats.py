"""File formats of motion, by their suffixes in any case. A new format is its own file, an entry here, and one in
`read.py` or `clip.py`."""

from pathlib import Path

from llamo_jax.errors import InputError

READABLE = (".bvh", ".npz", ".npy")
"""What a motion is read from: BVH, archives of `MotionClip.save` or of AMASS, arrays of features."""
PICTURES = (".mp4", ".gif", ".png")
"""Videos and film strips."""
WRITABLE = (*PICTURES, *READABLE)


def require_suffix(path: Path, suffixes: tuple[str, ...], what: str = "output") -> None:
    """Raises InputError where a path has none of these suffixes; called before long work."""
    if path.suffix.lower() not in suffixes:
        expected = f"expected one of {' '.join(suffixes)}"
        raise InputError(f'{path}: suffix "{path.suffix}" is no {what} format; {expected}')
