"""LLaMo in JAX: text and human motion in one pretrained LLM.

    import llamo_jax

    model = llamo_jax.load("demo/bundle")
    clip = model.generate("a person waves the left hand", seed=0)
    clip.save("wave.mp4")
    model.caption(clip)

Importing this package starts no backend: JAX is first imported by `load`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamo_jax.errors import InputError
from llamo_jax.motion import MotionClip

if TYPE_CHECKING:
    from llamo_jax.pretrained import Llamo

__all__ = ["InputError", "MotionClip", "load"]
__version__ = "0.1.0"


def load(
    path_or_id: str | Path, *, revision: str | None = None, dtype: Any | None = None, verify: bool = True
) -> "Llamo":
    """Loads a bundle: a folder made by training or by `llamo convert from-hf`, or an id on the Hugging Face Hub.

    Args:
      path_or_id: a folder, or "owner/name".
      revision: branch, tag or commit, for ids.
      dtype: of the text tower and of all activations; None is that of the LLM's files.
      verify: compare every file with the hash that the bundle has of it.

    Raises:
      InputError: not a bundle that this version reads, a damaged one, or one that cannot be fetched.
    """
    from llamo_jax.pretrained import Llamo

    return Llamo.from_pretrained(path_or_id, revision=revision, dtype=dtype, verify=verify)
