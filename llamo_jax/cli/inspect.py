"""`llamo inspect`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from llamo_jax.commands import Reporting
from llamo_jax.errors import InputError
from llamo_jax.files import read_json
from llamo_jax.motion.bvh import read_bvh
from llamo_jax.motion.formats import READABLE
from llamo_jax.motion.physics import mean_speed, travel_speed
from llamo_jax.motion.plausibility import faults
from llamo_jax.motion.read import ReadOptions, read
from llamo_jax.motion.skeleton import JOINT_NAMES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect(Reporting):
    """Say what a bundle or a data folder holds, or how a motion file is read: its hierarchy, which joint is taken for
    which, unit, axes, rest pose, rate and length, and what is wrong with it."""

    path: tyro.conf.Positional[Path]
    """A bundle, a folder that `python -m data_pipelines.build` made, or a motion file."""
    reading: tyro.conf.OmitArgPrefixes[ReadOptions] = dataclasses.field(default_factory=ReadOptions)

    def run(self) -> None:
        if self.path.suffix.lower() in READABLE and not self.path.is_dir():
            self._motion()
            return
        manifest = self.path / "dataset.json"
        if manifest.exists():
            facts = read_json(manifest)
        else:
            from llamo_jax.storage.bundle import describe  # JAX, only where a bundle is read

            facts = describe(self.path)
        if not isinstance(facts, dict):
            raise InputError(f"{manifest}: holds a {type(facts).__name__}; expected an object")
        self.report("\n".join(_lines(facts)), facts)

    def _motion(self) -> None:
        if self.path.suffix.lower() == ".bvh":
            # Before anything can be refused: who writes a map of joints needs it.
            bvh = read_bvh(self.path, person=self.reading.person, fps=self.reading.fps)
            print("\n".join(_tree(bvh.names, bvh.parents)))
        motion = read(self.path, self.reading)
        facts = {name: fact for name, fact in motion.facts.items() if name != "hierarchy"} | {
            "frames": len(motion.joints),
            "fps": round(motion.fps, 4),
            "seconds": round(len(motion.joints) / motion.fps, 3),
            "lowest and highest joint, m": f"{motion.joints[..., 1].min():.3f} to {motion.joints[..., 1].max():.3f}",
            "speed of joints, m/s": round(mean_speed(motion.joints, motion.fps), 3),
            "travel, m/s": round(travel_speed(motion.joints, motion.fps), 3),
        }
        wrong = [fault.what + motion.counted for fault in faults(motion.joints, motion.rotations, motion.fps)]
        joints = facts.get("joints", {})
        told = {name: fact for name, fact in facts.items() if name != "joints"}
        lines = [*(f"{name:<28} <- {joints.get(name, '(between its neighbours)')}" for name in JOINT_NAMES if joints)]
        lines += [*_lines(told), *(f"note: {note}" for note in motion.notes), *(f"wrong: {what}" for what in wrong)]
        self.report("\n".join(lines), facts | {"notes": motion.notes, "wrong": wrong})


def _tree(names: tuple[str, ...], parents: tuple[int, ...]) -> list[str]:
    depths: list[int] = []
    for parent in parents:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return ["  " * depth + name for name, depth in zip(names, depths, strict=True)]


def _lines(facts: Mapping[str, Any]) -> list[str]:
    return [f"{name:<28} {_compact(value)}" for name, value in facts.items()]


def _compact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_compact(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
