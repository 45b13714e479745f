"""Bundles of formats 1 and 2: where their tensors lie, and how they become the tree of today.

Format 2 called the model's part of the config `flow`, and had the modulations of the whole flow head in one matrix.
Format 1 had tensors under the paths of the tree of its time, with stacked layers and convolutions as in memory.
"""

import re
from collections.abc import Mapping
from typing import Any

from llamo_jax.storage.layout import Rule, Shape

_MODULATION = re.compile(r"flow_head/(?:blocks/\d+/modulation|output_modulation)/(\w+)")

MODULATION = tuple(Rule(f"flow_head/modulation/{p}", f"flow_head.modulation.{p}") for p in ("weight", "bias"))
"""What format 2 had beside, and in place of some of, the tensors of today."""


def model_config(values: dict[str, Any]) -> dict[str, Any]:
    """The model's config as format 3 has it."""
    if "flow" not in values:
        return values
    return {"flow_head" if name == "flow" else name: value for name, value in values.items()}


def shapes(now: Mapping[str, Shape], version: int) -> dict[str, Shape]:
    """Path -> shape of the motion side (or the VAE) of an old format, from those of today."""
    old: dict[str, Shape] = {}
    for path, shape in now.items():
        if match := _MODULATION.fullmatch(path):
            name = f"flow_head/modulation/{match[1]}"
            rows = old.get(name, (0,))[0] + shape[0]
            old[name] = (rows, *shape[1:])
        elif version == 1 and (stacked := re.sub(r"/blocks/\d+/", "/blocks/", path)) != path:
            old[stacked] = (old.get(stacked, (0,))[0] + 1, *shape)
        else:
            old[path] = shape
    return old


def rules_1(paths: Mapping[str, Shape]) -> tuple[Rule, ...]:
    """The table of format 1: every path is a tensor's name."""
    return tuple(Rule(path, _name_1(path)) for path in paths)


def _name_1(path: str) -> str:
    path = re.sub(r"^flow_head/", "flow/", re.sub(r"^exit_head/", "exit/", path))
    linear = re.fullmatch(r"(motion/layers/(?:attn|ffn)/\w+)/(weight|bias)", path)
    return path if linear is None else linear[1] + ("_bias" if linear[2] == "bias" else "")


def modernised(flat: Mapping[str, Any], now: Mapping[str, Shape], version: int) -> dict[str, Any]:
    """The arrays of an old format under today's paths.

    Args:
      flat: what was read, by its paths.
      now: path -> shape of today, towers stacked.
      version: of the format.
    """
    new = {
        path: array for path, array in flat.items() if "flow_head/modulation/" not in path and "/blocks/" not in path
    }
    starts: dict[str, int] = {}
    for path in sorted((path for path in now if "flow_head/" in path), key=_numbered):
        if match := _MODULATION.fullmatch(path):
            name = f"flow_head/modulation/{match[1]}"
            start = starts.get(name, 0)
            starts[name] = start + now[path][0]
            new[path] = flat[name][start : starts[name]]
        elif "/blocks/" in path:
            number = int(path.split("/")[2])
            new[path] = flat[path] if version > 1 else flat[re.sub(r"/blocks/\d+/", "/blocks/", path)][number]
    return new


def _numbered(path: str) -> list[tuple[int, int, str]]:
    """Blocks in the order of their numbers, and the output's modulation behind those of the blocks."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.split("/")]
