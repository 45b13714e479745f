"""Compiles the real training step for TPUs that are not here, and says what it takes.

python -m experiments.aot_compile --preset llama-3.1-8b --topology v5p:4x4x4 --mesh 4,16,1 --stage 2 --rows 1024

Needs the TPU compiler (`pip install jax[tpu]`, in an environment of its own), no TPU. LIBTPU_INIT_ARGS holds here as it
does on a TPU.
"""

import contextlib
import dataclasses
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.recipes import ALIGNMENT, ALL_MOTION, HEADS
from llamo_jax import sharding
from llamo_jax.batch import Batch, MotionRows, TextRows
from llamo_jax.commands import Reporting
from llamo_jax.config import LlamoConfig, SamplingConfig, require
from llamo_jax.errors import InputError
from llamo_jax.inference import decoding
from llamo_jax.models import flow, llamo
from llamo_jax.models.cache import KVCache
from llamo_jax.models.declaration import abstract, shardings
from llamo_jax.models.parallel import Parallel, Remat
from llamo_jax.presets import LLMS, llamo_config
from llamo_jax.training.collectives import Collective, collectives_of, table
from llamo_jax.training.compiled import product_flops
from llamo_jax.training.devices import DEVICES, WRAPS, Device
from llamo_jax.training.flops import step_flops, tower_weights
from llamo_jax.training.gradients import of_sum
from llamo_jax.training.losses import LlamoLoss, LlamoLossConfig
from llamo_jax.training.optim import OptimConfig
from llamo_jax.training.step import TrainState, compile_step, make_step
from llamo_jax.training.traffic import Layout, memory_bytes, network_bytes
from llamo_jax.trees import flatten

KINDS = {"v5p": "TPU v5", "v5e": "TPU v5 lite", "v6e": "TPU v6 lite"}
"""Version, as topologies are named -> kind of device."""

STAGES = {1: (ALIGNMENT, {"t2m": 0.5, "m2t": 0.5}), 2: (ALL_MOTION, {"t2m": 0.8, "m2t": 0.2}), 3: (HEADS, {"t2m": 1.0})}
"""Stage -> what trains, and the share of each task (LLaMo, Training)."""


class Case(NamedTuple):
    """A line of a table."""

    preset: str
    stage: int
    topology: str
    mesh: str
    rows: int
    remat: Remat
    slices: int = 1


SLICES: tuple[tuple[str, str, int, Remat], ...] = (
    ("v5p:4x4x4", "4,16,1", 1024, "minimal"),
    ("v5e:16x16", "1,256,1", 2048, "full"),
    ("v6e:16x16", "1,256,1", 8192, "full"),
)
"""Topology, and the mesh, rows and rematerialisation that suit it: rows until compute binds, as far as they fit."""

TABLE = (
    *(
        Case(preset, stage, *where)
        for preset in ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b")
        for where in SLICES
        for stage in STAGES
    ),
    Case("llama-3.1-8b", 2, "v5p:8x8x8", "8,64,1", 8192, "minimal"),
    Case("llama-3.1-8b", 2, "v5p:4x4x4", "8,16,1", 2048, "minimal", slices=2),
)
"""That of docs/scaling.md."""

STANDARD = (
    *(Case(preset, 2, *SLICES[0]) for preset in ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b")),
    *(Case("llama-3.1-8b", 2, *where) for where in SLICES[1:]),
)
"""Those of it that take a quarter of an hour."""


def abstract_batch(rows: int, *, text_len: int, motion_len: int, channels: int) -> Batch:
    """Shapes of a batch."""

    def of(length: int, dtype: Any, *more: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, length, *more), dtype)

    text = TextRows(*(of(text_len, jnp.int32) for _ in range(4)), of(text_len, jnp.float32))
    places = (of(motion_len, jnp.int32), of(motion_len, jnp.int32))
    masks = (of(motion_len, jnp.float32) for _ in range(3))
    return Batch(text, MotionRows(of(motion_len, jnp.float32, channels), of(motion_len, jnp.bool_), *places, *masks))


def compiled_step(
    config: LlamoConfig,
    mesh: Mesh,
    *,
    trains: tuple[str, ...],
    rows: dict[str, int],
    text_len: int,
    motion_len: int,
    remat: Remat = "full",
) -> Any:
    """The compiled step of a stage, from shapes alone: text tower in bfloat16, all that may train in float32."""
    placed = shardings(llamo.Model, config, mesh)
    parallel = Parallel.of(placed, mesh, config.text, remat=remat)
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


def compiled_draw(config: LlamoConfig, device: Any, *, samples: int, slots: int, sampling: SamplingConfig) -> Any:
    """The compiled decode step on one device: a latent of each sample, with a cache of so many slots."""
    sides = 2 if sampling.guided else 1
    tree = abstract(llamo.Model, config)
    tree["text"] = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), tree["text"])
    params = jax.eval_shape(llamo.decoding_params, tree)
    times = jax.eval_shape(lambda head: flow.schedule(head, solver=sampling.solver, steps=sampling.steps),
                           params["flow_head"])  # fmt: skip

    def state() -> decoding.Decoding:
        return decoding.Decoding(
            KVCache.empty(config.text, sides * samples, slots, jnp.bfloat16),
            position=jnp.zeros((sides, samples), jnp.int32),
            hidden=jnp.zeros((sides, samples, config.text.width), jnp.bfloat16),
            latent=jnp.zeros((samples, config.latent_channels)),
            index=jnp.zeros(samples, jnp.int32),
            survival=jnp.ones(samples),
            keys=jax.random.split(jax.random.key(0), samples),
        )

    here = jax.sharding.SingleDeviceSharding(device)
    params, times, like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        (params, times, jax.eval_shape(state)),
    )
    return decoding.draw.lower(params, config, sampling, times, like).compile()


class Torus:
    """Which links of the network each axis of a mesh has.

    Args:
      mesh: of TPUs, with coordinates.
      device: their peaks.
    """

    def __init__(self, mesh: Mesh, device: Device):
        self._device, self._mesh = device, mesh
        flat = mesh.devices.flatten()
        grid = np.array([each.coords for each in flat])
        sizes = grid.max(0) + 1
        wraps = WRAPS[flat[0].device_kind]
        grid = grid.reshape(*mesh.devices.shape, -1)
        self._links: dict[str, int] = {}
        self._hops: dict[str, float] = {}
        for index, name in enumerate(mesh.axis_names):
            line = np.moveaxis(grid, index, 0)[:, 0, 0]
            steps = [(len(set(line[:, axis].tolist())), size) for axis, size in enumerate(sizes)]
            rings = [(n, n == size >= wraps) for n, size in steps if n > 1]
            self._links[name] = sum(2 if ring else 1 for _, ring in rings)
            self._hops[name] = sum(n / 4 if ring else n / 2 for n, ring in rings)

    def seconds(self, each: Collective) -> float:
        """For one kind of collective: the bytes that a device sends over the links of the axes of the torus that the
        mesh axes lie along, two for an axis that is a ring, one for a line. What is sent all-to-all goes on through a
        quarter of each ring. Between slices a chip has its part of the data center's network.
        """
        if "slice" in each.mesh_axes:
            return each.bytes / (self._device.outside or self._device.link)
        axes = [name for name in self._mesh.axis_names if name in each.mesh_axes]
        rate = max(1, sum(self._links[name] for name in axes)) * self._device.link
        hops = max(1.0, sum(self._hops[name] for name in axes)) if each.op == "all-to-all" else 1.0
        return each.bytes * hops / rate


def train_step(case: Case, *, text_len: int, motion_len: int) -> tuple[str, dict[str, Any]]:
    """Compiles a training step; what it takes as text and as figures.

    Raises:
      InputError: there is no such preset, stage or topology, or the rows do not divide.
    """
    preset, stage, topology, mesh, rows, remat, slices = case
    require(preset in LLMS and stage in STAGES,
            f"--preset {preset}, --stage {stage}; expected one of {', '.join(LLMS)}; 1 to 3")  # fmt: skip
    shape, config = sharding.mesh_shape(mesh), llamo_config(LLMS[preset])
    devices = sharding.mesh_of(devices_of(topology, slices, shape), shape)
    device = DEVICES[devices.devices.flat[0].device_kind]
    trains, shares = STAGES[stage]
    counts = _rows(shares, rows, shape[0] * shape[1])
    layout = Layout(shape, counts, text_len, motion_len, trains, remat, slices=slices)
    where = f"{topology}{f' x {slices}' if slices > 1 else ''}"
    started = time.monotonic()
    with _fitting(f"{preset}, stage {stage}, {where}, mesh {mesh}, {rows} rows", "more fsdp or tensor, fewer rows, "
                  "or --remat full"):  # fmt: skip
        step = compiled_step(
            config, devices, trains=trains, rows=counts, text_len=text_len, motion_len=motion_len, remat=remat
        )
    seconds = time.monotonic() - started
    text = step.as_text()
    found, memory = collectives_of(text, devices, slices), _memory(step)
    lengths = {"text_len": text_len, "motion_len": motion_len}
    flops = step_flops(config, counts, **lengths, timesteps=LlamoLossConfig().timesteps_per_latent, trains=trains)
    total, executed = sum(flops.values()), product_flops(text)
    if "custom-call" in text and "splash" in text:
        executed += flops["attention"] / devices.size
    moved, paper = memory_bytes(config, layout), network_bytes(config, layout)
    torus = Torus(devices, device)
    crossing = {each: torus.seconds(each) for each in found}
    between = sum(seconds for each, seconds in crossing.items() if "slice" in each.mesh_axes)
    overlapped = sum(seconds * each.overlapped / each.count for each, seconds in crossing.items())
    times = {
        "compute": executed / device.flops,
        "memory": sum(moved.values()) / device.bandwidth,
        "network": sum(crossing.values()),
    }
    bound, at_peak = max(times, key=lambda name: times[name]), total / devices.size / device.flops
    busy = max(times["compute"], times["memory"])
    limits = {
        "network_hidden": at_peak / max(times.values()),
        "network_as_compiled": at_peak / (max(busy, overlapped) + times["network"] - overlapped),
        "network_counted": at_peak / (busy + times["network"]),
    }
    by_kind, used = Counter[tuple[str, str]](), sum(memory.values())
    for each in found:
        by_kind[each.op, "+".join(each.mesh_axes) or "-"] += each.bytes
    lines = [
        f"{preset}, stage {stage}, {where}, mesh {mesh}, {counts}, {text_len} + {motion_len} a row, remat {remat}: "
        f"{seconds:.0f} s to compile",
        *(f"  {kind:<26} {size / 1e9:9.2f} GB" for kind, size in memory.items()),
        f"  {'of a chip':<26} {used / 1e9:9.2f} GB of {device.memory / 1e9:.0f}: {_fit(used, device, remat)}",
        *(f"  {part:<26} {count / 1e12:9.1f} TFLOP" for part, count in flops.items()),
        f"  {'all':<26} {total / 1e12:9.1f} TFLOP; {executed * devices.size / 1e12:.1f} with what is computed again",
        *(f"  {op + ' over ' + axes:<26} {size / 1e6:9.1f} MB sent by a chip{_beside(paper, op, axes)}"
          for (op, axes), size in by_kind.most_common()),
        *(f"  {what:<26} {1000 * value:9.1f} ms at peak" for what, value in times.items()),
        f"  {'of that between slices':<26} {1000 * between:9.1f} ms",
        f"  {'beside computing':<26} {1000 * overlapped:9.1f} ms: collectives that the program starts and goes on",
        f"  bound by {bound}; MFU at most {limits['network_hidden']:.0%} with the network hidden behind the rest, "
        f"{limits['network_as_compiled']:.0%} with what the program overlaps hidden, {limits['network_counted']:.0%} "
        "with none of it",
        table(found[:20]),
    ]  # fmt: skip
    figures = {
        "preset": preset, "stage": stage, "topology": topology, "slices": slices, "mesh": list(shape), "rows": counts,
        **lengths, "remat": remat, "libtpu_arguments": os.environ.get("LIBTPU_INIT_ARGS", ""),
        "memory_bytes": memory, "memory_of_a_chip": device.memory, "flops": total, "flops_of_parts": flops,
        "flops_executed": executed * devices.size,
        "collectives": [dataclasses.asdict(each) for each in found],
        "collective_bytes_on_paper": {f"{op} {axis}": size for (op, axis), size in paper.items()},
        "hbm_bytes": moved, "seconds": times, "seconds_between_slices": between, "seconds_overlapped": overlapped,
        "bound": bound, "mfu_at_most": limits, "compile_seconds": seconds,
    }  # fmt: skip
    return "\n".join(lines), figures


def decode_step(preset: str, topology: str, *, samples: int, slots: int) -> tuple[str, dict[str, Any]]:
    """Compiles a decode step, one latent of each sample on one chip; what it takes as text and as figures.

    Raises:
      InputError: there is no such preset or topology, or it does not fit.
    """
    require(preset in LLMS, f"--preset {preset}; expected one of {', '.join(LLMS)}")
    config, sampling = llamo_config(LLMS[preset]), SamplingConfig()
    chip = devices_of(topology, 1, None)[0]
    device = DEVICES[chip.device_kind]
    started = time.monotonic()
    with _fitting(f"{preset}, decoding {samples} samples on one chip of {topology}", "fewer samples or slots, or a "
                  "chip with more memory"):  # fmt: skip
        step = compiled_draw(config, chip, samples=samples, slots=slots, sampling=sampling)
    seconds, memory = time.monotonic() - started, _memory(step)
    executed = product_flops(step.as_text())
    times = {"compute": executed / device.flops, "memory": memory["arguments"] / device.bandwidth, "network": 0.0}
    bound = max(times, key=lambda name: times[name])
    used, longest = sum(memory.values()), max(times.values())
    lines = [
        f"{preset}, one latent of {samples} samples on one chip of {topology}, cache of {slots} slots, "
        f"{sampling.solver}, {sampling.steps} steps, guidance {sampling.guidance}: {seconds:.0f} s to compile",
        *(f"  {kind:<26} {size / 1e9:9.2f} GB" for kind, size in memory.items()),
        f"  {'of a chip':<26} {used / 1e9:9.2f} GB of {device.memory / 1e9:.0f}, beside the text tower's "
        f"{2 * tower_weights(config, motion=False) / 1e9:.1f}",
        *(f"  {what:<26} {1000 * value:9.2f} ms at peak" for what, value in times.items()),
        f"  bound by {bound}: at most {1 / longest:.0f} latents a second of each sample, 7.5 are real time",
    ]
    figures = {
        "preset": preset, "topology": topology, "samples": samples, "slots": slots, "memory_bytes": memory,
        "memory_of_a_chip": device.memory, "flops": executed, "collectives": [], "seconds": times, "bound": bound,
        "compile_seconds": seconds,
    }  # fmt: skip
    return "\n".join(lines), figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class AotCompile(Reporting):
    """Compile a training step, or a decode step, for a TPU topology that is not here, and print memory, operations,
    collectives, times at the chip's peaks, and the bound that follows. Without a preset: a table of five steps."""

    preset: str | None = None
    """Of the LLM, in `presets.LLMS`."""
    topology: str = "v5p:4x4x4"
    """Version and shape of a slice."""
    slices: int = 1
    """Slices of that shape; data goes from one to another."""
    mesh: str = "4,16,1"
    """Sizes of the axes data, fsdp and tensor."""
    stage: int = 2
    """1 alignment, 2 joint training, 3 annealing of the heads."""
    rows: int = 256
    """Of all tasks together."""
    text_len: int = 256
    """Tokens of a row."""
    motion_len: int = 256
    """Slots of a row."""
    remat: Remat = "full"
    """What is kept of a layer for the backward pass: all, its large products, its input, the products on the host."""
    decode: int = 0
    """Compile the decode step of so many samples in place of the training step."""
    cache: int = 512
    """Slots of the cache of a decode step."""
    all: bool = False
    """Without a preset: all steps of the table of docs/scaling.md, which takes an hour."""

    def run(self) -> None:
        lengths = {"text_len": self.text_len, "motion_len": self.motion_len}
        if self.preset is None:
            found = []
            for case in TABLE if self.all else STANDARD:
                text, figures = train_step(case, **lengths)
                print(text, flush=True)
                found.append(figures)
            self.report("\n" + markdown(found), found)
        elif self.decode:
            self.report(*decode_step(self.preset, self.topology, samples=self.decode, slots=self.cache))
        else:
            where = (self.topology, self.mesh, self.rows, self.remat, self.slices)
            self.report(*train_step(Case(self.preset, self.stage, *where), **lengths))


def markdown(found: Iterable[dict[str, Any]]) -> str:
    """A table of training steps."""
    head = ("preset, stage", "slice, mesh (data, fsdp, tensor)", "rows, remat", "a chip holds",
            "compute / memory / network", "bound", "MFU at most, network hidden / as compiled / counted")  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for each in found:
        held, most, limits = sum(each["memory_bytes"].values()), each["memory_of_a_chip"], each["mfu_at_most"]
        slices = f" x {each['slices']}" if each["slices"] > 1 else ""
        lines.append(
            [
                f"{each['preset']}, {each['stage']}",
                f"{each['topology']}{slices}, {','.join(map(str, each['mesh']))}",
                f"{sum(each['rows'].values())}, {each['remat']}",
                f"{held / 1e9:.1f} of {most / 1e9:.0f} GB{'' if held < most else ', too much'}",
                " / ".join(f"{1000 * each['seconds'][name]:.0f}" for name in ("compute", "memory", "network")) + " ms",
                each["bound"],
                " / ".join(f"{limits[f'network_{how}']:.0%}" for how in ("hidden", "as_compiled", "counted")),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def devices_of(topology: str, slices: int, shape: tuple[int, int, int] | None) -> list[Any]:
    """Devices of a topology that is not here.

    Raises:
      InputError: there is no such topology, no compiler for it, or the mesh does not have as many devices.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    name = topology.partition(":")[0]
    require(name in KINDS, f'--topology "{topology}"; expected one of {", ".join(KINDS)}, as v5p:4x4x4')
    options = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except Exception as error:  # the plugin's own types
        raise InputError(
            f"{topology}: no such topology, or no TPU compiler here ({error!s:.200}); pip install jax[tpu]"
        ) from error
    if shape is not None and len(found) != math.prod(shape):
        raise InputError(f"{topology} has {len(found)} chips; the mesh {shape} has {math.prod(shape)}")
    return found


@contextlib.contextmanager
def _fitting(what: str, remedy: str) -> Iterator[None]:
    """Has the compiler's refusal of a program that is too large in one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used (\S+) of (\S+) hbm", str(error))
        told = f"{used[1]} of {used[2]}" if used else "more memory than a chip has"
        raise InputError(f"{what} takes {told}: {remedy}") from error


def _memory(step: Any) -> dict[str, int]:
    memory = step.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "results beyond them": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }


def _fit(used: int, device: Device, remat: Remat) -> str:
    if used < device.memory:
        return "fits"
    return f"does NOT fit: more fsdp or tensor, {'' if remat == 'full' else '--remat full, '}or fewer rows"


def _beside(paper: dict[tuple[str, str], float], op: str, axes: str) -> str:
    size = paper.get((op, axes))
    return "" if size is None else f", {size / 1e6:.1f} on paper"


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
