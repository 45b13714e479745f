"""Compiles the real training step for TPUs that are not here, and says what it takes.

python -m experiments.aot_compile --preset llama-3.1-8b --topology v5p:4x4x4 --mesh 1,64,1 --stage 2

Needs the TPU compiler (`pip install jax[tpu]`, in an environment of its own), no TPU.
"""

import dataclasses
import os
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from experiments.recipes import ALIGNMENT, ALL_MOTION, HEADS
from llamo_jax import sharding
from llamo_jax.batch import Batch, MotionRows, TextRows
from llamo_jax.commands import Reporting
from llamo_jax.config import LlamoConfig
from llamo_jax.errors import InputError
from llamo_jax.models import llamo
from llamo_jax.models.declaration import abstract, shardings
from llamo_jax.models.parallel import Parallel
from llamo_jax.presets import LLMS, llamo_config
from llamo_jax.training.collectives import collectives_of, table
from llamo_jax.training.flops import step_flops
from llamo_jax.training.gradients import of_sum
from llamo_jax.training.losses import LlamoLoss, LlamoLossConfig
from llamo_jax.training.optim import OptimConfig
from llamo_jax.training.step import TrainState, compile_step, make_step
from llamo_jax.trees import flatten


class Chip(NamedTuple):
    """Published peaks of a chip.

    Attributes:
      flops: bfloat16 operations a second.
      memory: bytes.
      bandwidth: of the memory, bytes a second.
      network: of all links to other chips, bytes a second.
    """

    flops: float
    memory: float
    bandwidth: float
    network: float


CHIPS = {
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v6e": Chip(918e12, 32e9, 1640e9, 448e9),
}
"""Source: the system architecture pages of Cloud TPU, November 2026."""

STAGES = {1: (ALIGNMENT, {"t2m": 0.5, "m2t": 0.5}), 2: (ALL_MOTION, {"t2m": 0.8, "m2t": 0.2}), 3: (HEADS, {"t2m": 1.0})}
"""Stage -> what trains, and the share of each task (LLaMo, Training)."""


def abstract_batch(rows: int, *, text_len: int, motion_len: int, channels: int) -> Batch:
    """Shapes of a batch."""

    def of(length: int, dtype: Any, *more: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, length, *more), dtype)

    text = TextRows(*(of(text_len, jnp.int32) for _ in range(4)), of(text_len, jnp.float32))
    places = (of(motion_len, jnp.int32), of(motion_len, jnp.int32))
    masks = (of(motion_len, jnp.float32) for _ in range(3))
    return Batch(text, MotionRows(of(motion_len, jnp.float32, channels), of(motion_len, jnp.bool_), *places, *masks))


def compiled_step(
    config: LlamoConfig, mesh: Mesh, *, trains: tuple[str, ...], rows: dict[str, int], text_len: int, motion_len: int
) -> Any:
    """The compiled step of a stage, from shapes alone: text tower in bfloat16, all that may train in float32."""
    placed = shardings(llamo.Model, config, mesh)
    parallel = Parallel.of(placed, mesh, config.text, remat="full")
    flat = flatten(abstract(llamo.Model, config))
    frozen = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=placed[path])
        for path, leaf in flat.items()
        if path.startswith("text/")
    }
    trainable = {path: leaf for path, leaf in flat.items() if path not in frozen}
    optim = OptimConfig(learning_rate=1e-4)

    def trained(path: str) -> bool:
        return path.startswith(trains)

    state = TrainState.abstract(trainable, optim, trained, mesh, placed)
    batches = {
        task: abstract_batch(count, text_len=text_len, motion_len=motion_len, channels=config.latent_channels)
        for task, count in rows.items()
        if count
    }
    gradients = of_sum(LlamoLoss(config, LlamoLossConfig()), parallel)
    return compile_step(make_step(gradients, optim, trained, placed, seed=0), state, frozen, batches, mesh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AotCompile(Reporting):
    """Compile the training step of a stage for a TPU topology, and print memory, operations, collectives and bounds."""

    preset: str = "llama-3.2-1b"
    """Of the LLM, in `presets.LLMS`."""
    topology: str = "v5p:2x2x2"
    """Chip and shape."""
    mesh: str = "1,8,1"
    """Sizes of the axes data, fsdp and tensor."""
    stage: int = 2
    """1 alignment, 2 joint training, 3 annealing of the heads."""
    rows: int = 256
    """Of all tasks together."""
    text_len: int = 256
    """Tokens of a row."""
    motion_len: int = 256
    """Slots of a row."""

    def run(self) -> None:
        if self.preset not in LLMS or self.stage not in STAGES:
            raise InputError(f"--preset {self.preset}, --stage {self.stage}; expected one of {', '.join(LLMS)}; 1 to 3")
        name = self.topology.partition(":")[0]
        if name not in CHIPS:
            raise InputError(f'--topology "{self.topology}"; expected one of {", ".join(CHIPS)}, as v5p:4x4x4')
        shape, chip, config = sharding.mesh_shape(self.mesh), CHIPS[name], llamo_config(LLMS[self.preset])
        mesh = Mesh(_devices(self.topology, shape), sharding.MESH_AXES, axis_types=(AxisType.Auto,) * 3)
        trains, shares = STAGES[self.stage]
        rows = _rows(shares, self.rows, shape[0] * shape[1])
        lengths = {"text_len": self.text_len, "motion_len": self.motion_len}
        started = time.monotonic()
        step = compiled_step(config, mesh, trains=trains, rows=rows, **lengths)
        seconds = time.monotonic() - started
        memory, found = step.memory_analysis(), collectives_of(step.as_text(), mesh)
        kinds = {
            "arguments": memory.argument_size_in_bytes, "results beyond them": memory.output_size_in_bytes
            - memory.alias_size_in_bytes, "temporary": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        }  # fmt: skip
        flops = step_flops(config, rows, **lengths, timesteps=LlamoLossConfig().timesteps_per_latent)
        total, used = sum(flops.values()), sum(kinds.values())
        times = {"compute": total / mesh.size / chip.flops, "network": sum(each.bytes for each in found) / chip.network}
        bound = max(times, key=times.get)  # type: ignore[arg-type]
        by_op = Counter[str]()
        for each in found:
            by_op[f"{each.op} over {'+'.join(each.mesh_axes) or '-'}"] += each.bytes
        fits = "fits" if used < chip.memory else "does NOT fit: more fsdp or tensor, or fewer rows"
        lines = [
            f"{self.preset}, stage {self.stage}, {self.topology}, mesh {self.mesh}, {rows}: {seconds:.0f} s to compile",
            *(f"  {kind:<22} {size / 1e9:8.2f} GB" for kind, size in kinds.items()),
            f"  {'of a chip':<22} {used / 1e9:8.2f} GB of {chip.memory / 1e9:.0f}: {fits}",
            *(f"  {part:<22} {count / 1e12:10.2f} TFLOP" for part, count in flops.items()),
            *(f"  {op:<34} {size / 1e6:10.1f} MB a chip" for op, size in by_op.most_common()),
            *(f"  {what:<22} {1000 * value:8.1f} ms at the chip's peak" for what, value in times.items()),
            f"  bound by {bound}; network hidden, at most {times['compute'] / max(times.values()):.0%} MFU",
        ]
        figures = {"memory_bytes": kinds, "flops": flops, "seconds": times, "bound": bound, "compile_seconds": seconds,
                   "collectives": [dataclasses.asdict(each) for each in found]}  # fmt: skip
        self.report("\n".join([*lines, table(found[:20])]), figures)


def _devices(topology: str, shape: tuple[int, int, int]) -> np.ndarray:
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # the plugin's own types
        raise InputError(
            f"{topology}: no such topology, or no TPU compiler here ({error!s:.200}); pip install jax[tpu]"
        ) from error
    if len(found) != shape[0] * shape[1] * shape[2]:
        raise InputError(f"{topology} has {len(found)} chips; the mesh {shape} has {shape[0] * shape[1] * shape[2]}")
    return np.array(found).reshape(shape)


def _rows(shares: dict[str, float], rows: int, devices: int) -> dict[str, int]:
    """Rows of each task, multiples of the devices that they are split over."""
    parts = rows // devices
    counts = {task: max(1, round(share * parts)) * devices for task, share in shares.items()}
    if rows % devices or parts < len(shares):
        raise InputError(f"--rows {rows}; expected a multiple of {devices}, and at least {len(shares)} times that")
    counts[next(iter(counts))] += rows - sum(counts.values())
    return counts


if __name__ == "__main__":
    AotCompile.main("python -m experiments.aot_compile")
