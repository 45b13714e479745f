"""`llamo caption`."""

import dataclasses
from pathlib import Path

import tyro

import llamo_jax
from llamo_jax.commands import Reporting
from llamo_jax.motion import MotionClip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption(Reporting):
    """Describe a motion file in words."""

    bundle: tyro.conf.Positional[str]
    """Folder of the model, or its id on the Hugging Face Hub."""
    motion: tyro.conf.Positional[Path]
    """.bvh of any known skeleton, .npz or .npy (272 features)."""

    def run(self) -> None:
        clip = MotionClip.load(self.motion)
        caption = llamo_jax.load(self.bundle).caption(clip)
        self.report(caption, {"motion": str(self.motion), "caption": caption})
