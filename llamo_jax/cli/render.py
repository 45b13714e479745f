"""`llamo render`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from llamo_jax.commands import Command
from llamo_jax.motion import MotionClip
from llamo_jax.motion.formats import PICTURES, require_suffix
from llamo_jax.motion.read import ReadOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Render(Command):
    """Draw a motion file as a video or a film strip."""

    motion: tyro.conf.Positional[Path]
    """.bvh of any skeleton whose joints can be found, .npz of this project or of AMASS, .npy."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """File to write: .mp4, .gif or .png (film strip)."""
    title: str | None = None
    """Text above the picture; by default the motion's first caption."""
    reading: tyro.conf.OmitArgPrefixes[ReadOptions] = dataclasses.field(default_factory=ReadOptions)

    def run(self) -> None:
        require_suffix(self.output, PICTURES)
        clip = MotionClip.load(self.motion, self.reading)
        clip.render(self.output, title=self.title)
        print(f"{len(clip)} frames, {clip.seconds:.1f} s -> {self.output}")
