"""What crosses devices in a compiled program: each collective, over which axes of the mesh, how often and how much."""

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from llamo_jax.training.compiled import computations, times

_OPS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
          "u64": 8, "f64": 8}  # fmt: skip
_COLLECTIVE = re.compile(rf" = (\(?[^=]*?\)?) ({'|'.join(_OPS)})(-start)?\((.*)$")
_BETWEEN_SLICES = re.compile(r" = (\(.*?\)) send\(.*_xla_megascale_transfer_type=\"ALL_REDUCE\"")
_COMMENT = re.compile(r"/\*.*?\*/")
_SHAPE = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\]")


@dataclasses.dataclass(frozen=True, order=True)
class Collective:
    """One kind of collective.

    Attributes:
      op: as XLA calls it.
      mesh_axes: that it crosses, in the order of the mesh; () where it crosses none.
      dtype: of the elements.
      shape: of what one device has afterwards.
      count: how often a run of the program does it.
      bytes: that one device sends in all of them, with a ring: (n - 1) / n of the whole.
      overlapped: how many of them go on while the device computes.
    """

    op: str
    mesh_axes: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    count: int
    bytes: int
    overlapped: int = 0

    @property
    def size(self) -> int:
        """Bytes of what one device has after one of them."""
        return _BYTES[self.dtype] * math.prod(self.shape)


def collectives_of(text: str, mesh: Mesh, slices: int = 1) -> list[Collective]:
    """The collectives of a compiled program, the largest first.

    Args:
      text: of the compiled module.
      mesh: that it was compiled for.
      slices: of TPUs, that data goes over. The program is that of one slice then, and what it exchanges with the others
        has the mesh axis "slice".
    """
    bodies = dict(computations(text))
    runs = times(bodies, text)
    shape = tuple(mesh.devices.shape)
    groups_of = _groups_by_axes(mesh.axis_names, (shape[0] // slices, *shape[1:]))
    counts: Counter[tuple] = Counter()
    overlapped: Counter[tuple] = Counter()
    for name, lines in bodies.items():
        # TPUs do a part of a collective in each of several fusions: it is counted where it starts.
        if not runs[name] or name.startswith("async_collective_fusion") or _holds(lines, "AsyncCollectiveDone"):
            continue
        starts = _holds(lines, "AsyncCollectiveStart")
        for line in lines:
            line = _COMMENT.sub("", line)
            if match := _COLLECTIVE.search(line):
                op, groups = match[2], _groups(match[4], mesh.size // slices)
                shapes = _SHAPE.findall(match[1])
                # What starts asynchronously has its operands in its result as well: the last half is the result.
                shapes = shapes[len(shapes) // 2 if match[3] and len(shapes) > 1 else 0 :]
                axes = () if groups is None else groups_of.get(groups, ("?",))
                size = len(next(iter(groups))) if groups else 2
            elif match := _BETWEEN_SLICES.search(line):
                op, shapes, axes, size = "all-reduce", _SHAPE.findall(match[1])[:1], ("slice",), slices
            else:
                continue
            for dtype, shape in shapes:
                dims = tuple(int(size) for size in shape.split(",") if size)
                if dtype in _BYTES and (axes or op == "collective-permute"):
                    counts[op, axes, dtype, dims, size] += runs[name]
                    overlapped[op, axes, dtype, dims, size] += runs[name] * bool(starts or match[0].find("-start(") > 0)
    found = [
        Collective(op, axes, dtype, shape, count, count * _sent(op, dtype, shape, size), overlapped[key])
        for key, count in counts.items()
        for op, axes, dtype, shape, size in [key]
    ]
    return sorted(found, key=lambda each: -each.bytes)


def _holds(lines: list[str], target: str) -> bool:
    return any(f'custom_call_target="{target}"' in line for line in lines)


def _sent(op: str, dtype: str, shape: tuple[int, ...], size: int) -> int:
    whole = _BYTES[dtype] * math.prod(shape)
    share = {"all-reduce": 2 * (size - 1) / size, "reduce-scatter": size - 1, "collective-permute": 1.0}
    return round(whole * share.get(op, (size - 1) / size))


def _groups(attributes: str, devices: int) -> frozenset[frozenset[int]] | None:
    """Which devices talk to each other; None where each is alone."""
    if match := re.search(r"replica_groups=\{(\{[0-9,{}]*\})\}", attributes):
        groups = [[int(n) for n in part.split(",")] for part in re.findall(r"\{([0-9,]+)\}", match[1])]
    elif match := re.search(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?", attributes):
        shape, dims = ([int(n) for n in match[i].split(",")] for i in (1, 2))
        order = np.arange(math.prod(dims)).reshape(dims)
        if match[3]:
            order = order.transpose([int(n) for n in match[3].split(",")])
        groups = order.reshape(shape).tolist()
    elif match := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        return frozenset({frozenset({0, 1})})
    else:
        groups = [list(range(devices))]
    sets = frozenset(frozenset(group) for group in groups)
    return None if all(len(group) == 1 for group in sets) else sets


def _groups_by_axes(names: Sequence[str], shape: tuple[int, ...]) -> dict[frozenset[frozenset[int]], tuple[str, ...]]:
    numbers = np.arange(math.prod(shape)).reshape(shape)
    found = {}
    for count in range(len(names), 0, -1):
        for axes in itertools.combinations(range(len(names)), count):
            kept = [axis for axis in range(numbers.ndim) if axis not in axes]
            rows = numbers.transpose([*kept, *axes]).reshape(-1, math.prod(numbers.shape[axis] for axis in axes))
            if rows.shape[1] > 1:
                across = tuple(names[axis] for axis in axes if numbers.shape[axis] > 1)
                found[frozenset(frozenset(row) for row in rows.tolist())] = across
    return found


def table(found: Sequence[Collective]) -> str:
    """Lines of text, one for each kind."""
    return "\n".join(
        f"{each.op:<18} over {'+'.join(each.mesh_axes) or '-':<12} {each.count:>5} x {each.dtype}"
        f"[{','.join(map(str, each.shape))}]  {each.bytes / 1e6:,.2f} MB"
        for each in found
    )
