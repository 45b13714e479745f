"""How a model lies on a mesh: python -m experiments.describe_sharding --preset llama-3.1-8b --mesh 2,32,4.

With --golden tests/experiments/golden it writes the split of every array of every preset there, where a test compares
them.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh

from llamo_jax.commands import Reporting
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path
from llamo_jax.models import llamo
from llamo_jax.models.declaration import abstract, axes_of
from llamo_jax.models.parallel import require_heads
from llamo_jax.presets import LLMS, llamo_config
from llamo_jax.sharding import MESH_AXES, mesh_shape, spec
from llamo_jax.trees import flatten


def rows_of(preset: str, shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Of each parameter its path, shape, type, split and bytes on a device: bfloat16 where it is frozen, float32 with
    two moments where it trains.

    Raises:
      InputError: there is no such preset, or a split does not divide its axis.
    """
    if preset not in LLMS:
        raise InputError(f'preset "{preset}" does not exist; expected one of {", ".join(LLMS)}')
    config, mesh = llamo_config(LLMS[preset]), AbstractMesh(shape, MESH_AXES)
    require_heads(config.text, shape[2])
    axes = axes_of(llamo.Model, config)
    rows = []
    for path, leaf in flatten(abstract(llamo.Model, config)).items():
        split = spec(axes[path], leaf.shape, mesh, path=path)
        parts = math.prod(mesh.shape[entry] for entry in split if entry)
        each = 2 if path.startswith("text/") else 12
        rows.append({"path": path, "shape": leaf.shape, "spec": [entry for entry in split],
                     "bytes": each * math.prod(leaf.shape) // parts})  # fmt: skip
    return rows


def specs_of(preset: str) -> str:
    """Path, shape and split of each parameter of a preset, a line each: the same on every mesh."""
    lines = [
        f"{row['path']} {'x'.join(map(str, row['shape']))} ({', '.join(entry or '-' for entry in row['spec'])})"
        for row in rows_of(preset, (1, 1, 1))
    ]
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DescribeSharding(Reporting):
    """Print the shape, the split and the bytes on a device of every parameter of a preset on a mesh."""

    preset: str = "llama-3.1-8b"
    """Of the LLM, in `presets.LLMS`."""
    mesh: str = "1,64,1"
    """Sizes of the axes data, fsdp and tensor."""
    golden: Path | None = None
    """Write the splits of all presets to this folder instead, a file each."""

    def run(self) -> None:
        if self.golden is not None:
            for preset in LLMS:
                with atomic_path(self.golden / f"{preset}.txt") as path:
                    path.write_text(specs_of(preset))
            print(f"splits of {len(LLMS)} presets -> {self.golden}")
            return
        shape = mesh_shape(self.mesh)
        rows = rows_of(self.preset, shape)
        lines = [
            f"{row['path']:<44} {'x'.join(map(str, row['shape'])):>18}  "
            f"({', '.join(entry or '-' for entry in row['spec'])})  {row['bytes'] / 1e6:,.2f} MB"
            for row in rows
        ]
        total = sum(row["bytes"] for row in rows)
        lines.append(f"{math.prod(shape)} devices, {total / 1e9:.2f} GB of parameters and moments on each")
        self.report("\n".join(lines), {"preset": self.preset, "mesh": shape, "bytes_per_device": total, "arrays": rows})


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    DescribeSharding.main("python -m experiments.describe_sharding")
