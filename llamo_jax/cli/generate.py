"""`llamo generate`."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

import llamo_jax
from llamo_jax.commands import Reporting, require_seed
from llamo_jax.config import Length, SamplingConfig
from llamo_jax.motion.formats import WRITABLE, require_suffix
from llamo_jax.motion.representation import MAX_SECONDS
from llamo_jax.solvers import Solver


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(Reporting):
    """Generate motion from a sentence, and write it as video, BVH or arrays."""

    bundle: tyro.conf.Positional[str]
    """Folder of the model, or its id on the Hugging Face Hub."""
    text: tyro.conf.Positional[str]
    """What to do, as a sentence."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """File to write: .mp4 .gif .png (film strip) .bvh .npz or .npy (272 features), by suffix."""
    seed: int = 0
    """Same seed, same motion."""
    guidance: float = SamplingConfig.guidance
    """Classifier-free guidance scale; 1 is off."""
    steps: int = SamplingConfig.steps
    """Steps of the ODE solver a latent."""
    solver: Solver = SamplingConfig.solver
    """ODE solver. All but euler look at the velocity more than once a step."""
    shift: float = SamplingConfig.shift
    """Steps of the solver are uniform at 1; above it they are finer where there is much noise."""
    temperature: float = SamplingConfig.temperature
    """Standard deviation of the noise; below 1 motions are less lively."""
    seconds: float | None = None
    """Exact length; without it the model ends the motion."""
    max_seconds: float = MAX_SECONDS
    """Where to end a motion that the model does not."""
    length: Length = SamplingConfig.length
    """Where the model ends the motion: at the median of the lengths it holds possible, or at one drawn from them."""
    source: Literal["positions", "rotations"] = "positions"
    """Which features the joints come from."""

    def run(self) -> None:
        require_suffix(self.output, WRITABLE)
        require_seed(self.seed, least=-(2**63))
        model = llamo_jax.load(self.bundle)
        started = time.perf_counter()
        clip = model.generate(
            self.text,
            seed=self.seed,
            guidance=self.guidance,
            steps=self.steps,
            solver=self.solver,
            shift=self.shift,
            temperature=self.temperature,
            seconds=self.seconds,
            max_seconds=self.max_seconds,
            length=self.length,
            source=self.source,
        )
        took = time.perf_counter() - started
        clip.save(self.output)
        text = f"{clip.seconds:.1f} s of motion in {took:.1f} s (compilation included) -> {self.output}"
        figures = {"frames": len(clip), "seconds": clip.seconds, "took_seconds": round(took, 3)}
        self.report(text, figures | {"output": str(self.output)})
