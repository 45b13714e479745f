"""LLaMo in JAX: text and human motion in one pretrained LLM.

    import llamo_jax

    model = llamo_jax.load("demo/bundle")
    clip = model.generate("a person waves the left hand", seed=0)
    clip.save("wave.mp4")
    model.caption(clip)

Importing this package starts no backend: JAX is first imported by `load`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from llamo_jax.errors import InputError
from llamo_jax.motion import MotionClip

if TYPE_CHECKING:
    from llamo_jax.model import Llamo

__all__ = ["InputError", "MotionClip", "load"]
__version__ = "0.1.0"


def load(path: str | Path) -> "Llamo":
    """Loads a bundle: a folder made by training or by `llamo convert from-hf`.

    Raises:
      InputError: the folder is not a bundle that this version reads.
    """
    from llamo_jax.model import Llamo

    return Llamo.from_pretrained(path)
