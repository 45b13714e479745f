"""What the paper's training takes on paper, and costs: python -m experiments.paper_cost.

Operations from `flops`, bytes from `traffic`, peaks from `devices`; each stage takes as long as the largest of its
three times, or as long as 40 % of the peak takes. Nothing of it was run.
"""

import dataclasses
from typing import Any, NamedTuple

from experiments.aot_compile import STAGES
from llamo_jax.commands import Reporting
from llamo_jax.config import LlamoConfig
from llamo_jax.presets import LLMS, llamo_config
from llamo_jax.training.devices import DEVICES
from llamo_jax.training.flops import Pairs, step_flops, tower_weights
from llamo_jax.training.traffic import Layout, memory_bytes, network_bytes

STEPS = {1: 100_000, 2: 200_000, 3: 50_000}
BATCH = 128
"""Samples of a step (LLaMo, Training)."""
SLOTS, TOKENS = 3.7 * 7.5 + 1, 32
"""Of a sample: 3,076 hours in 3 M motions are 3.7 s each, 7.5 latents a second and [BOM]; a prompt and its caption."""
SIDE = 256
"""Tokens, and slots, of a row."""
PACKED = 8
"""Samples of a row: 8 x 28.75 slots and 8 x 32 tokens."""


class System(NamedTuple):
    """Devices that are rented together.

    Attributes:
      name: for the table.
      kind: of device.
      shape: sizes of data, fsdp and tensor.
      links: of each of those axes, in the units of `Device.link`; None where it leaves the node.
      rows: of a step.
      remat: of `models.parallel.Parallel`.
      dollars: on demand, for a chip and hour.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    links: tuple[int | None, int | None, int | None]
    rows: int
    remat: str
    dollars: float

    @property
    def chips(self) -> int:
        """All of them."""
        return self.shape[0] * self.shape[1] * self.shape[2]


SYSTEMS = (
    System("64 v5p (4x4x4)", "TPU v5", (4, 16, 1), (2, 4, 2), 1024, "minimal", 4.20),
    System("256 v6e (16x16)", "TPU v6 lite", (1, 256, 1), (4, 4, 4), 8192, "full", 2.70),
    System("64 H100 (8 x 8)", "NVIDIA H100 80GB HBM3", (8, 8, 1), (None, 1, 1), 1024, "minimal", 6.88),
    System("8 H100 (a node)", "NVIDIA H100 80GB HBM3", (1, 8, 1), (None, 1, 1), 128, "minimal", 6.88),
)
"""Prices on demand: Google Cloud, United States, and AWS p5.48xlarge ($55.04 for eight), as others quoted the vendors'
lists in September 2026."""


def step_seconds(config: LlamoConfig, system: System, stage: int, rows: float) -> tuple[float, dict[str, float]]:
    """Operations of a step, and its times at the peaks of a system."""
    device = DEVICES[system.kind]
    trains, shares = STAGES[stage]
    counts: dict[str, Any] = {task: share * rows for task, share in shares.items()}
    layout = Layout(system.shape, counts, SIDE, SIDE, trains, system.remat)
    pairs = {
        task: Pairs(*(count * PACKED * each for each in (TOKENS**2 / 2, TOKENS * SLOTS, SLOTS**2 / 2)))
        for task, count in counts.items()
    }
    flops = sum(
        step_flops(config, counts, text_len=SIDE, motion_len=SIDE, timesteps=4, trains=trains, pairs=pairs).values()
    )
    # A tower with a backward pass is computed once more, where nothing of it is kept.
    again = 0.0
    if system.remat == "full" and layout.behind:
        again = 2.0 * SIDE * rows * tower_weights(config, motion=True)
        again += 2.0 * SIDE * counts.get("m2t", 0) * tower_weights(config, motion=False)
    network = 0.0
    for (_, axis), size in network_bytes(config, layout).items():
        links = system.links[("data", "fsdp", "tensor").index(axis)]
        network += size / (device.outside or 0.0 if links is None else links * device.link)
    times = {
        "compute": (flops + again) / system.chips / device.flops,
        "memory": sum(memory_bytes(config, layout).values()) / device.bandwidth,
        "network": network,
    }
    return flops, times


def plan(preset: str, system: System, rows: float) -> dict[str, Any]:
    """The three stages over the samples of the paper, in steps of so many rows."""
    config, device = llamo_config(LLMS[preset]), DEVICES[system.kind]
    total, bound, at_40, binds = 0.0, 0.0, 0.0, {}
    for stage, steps in STEPS.items():
        count = steps * BATCH / (PACKED * rows)
        flops, times = step_seconds(config, system, stage, rows)
        total += count * flops
        bound += count * max(times.values())
        at_40 += count * max(flops / system.chips / device.flops / 0.4, max(times.values()))
        binds[stage] = max(times, key=lambda name: times[name])
    hours = system.chips / 3600
    return {
        "preset": preset, "system": system.name, "rows": rows, "flops": total, "steps": round(
            sum(STEPS.values()) * BATCH / (PACKED * rows)), "days_at_bound": bound / 86400, "days_at_40": at_40 / 86400,
        "dollars_at_bound": bound * hours * system.dollars, "dollars_at_40": at_40 * hours * system.dollars,
        "binds": binds,
    }  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperCost(Reporting):
    """Print operations, days and dollars of the paper's training, on paper: in large steps, and in the paper's own."""

    def run(self) -> None:
        own = BATCH / PACKED
        plans = [
            plan(preset, system, rows)
            for preset in ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b")
            for system in SYSTEMS
            for rows in (system.rows, own)
        ]
        lines = [
            "| model | on | rows a step | steps | operations | days at the bound | days at 40 % MFU, or the bound "
            "where that is longer | binds |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for each in plans:
            days = (f"{each[f'days_at_{at}']:.2g} (${each[f'dollars_at_{at}']:,.0f})" for at in ("bound", "40"))
            cells = [each["preset"], each["system"], f"{each['rows']:.0f}", f"{each['steps']:,}",
                     f"{each['flops']:.1e}", *days, each["binds"][2]]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        self.report("\n".join(lines), plans)


if __name__ == "__main__":
    PaperCost.main("python -m experiments.paper_cost")
