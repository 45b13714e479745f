"""What the text of a compiled program says: its computations, how often each runs, and its matrix products.

Read from the text of the compiled module, so that it says what the compiler made and not what was asked for.
`cost_analysis` counts the body of a loop once; here it is counted as often as it runs.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(r"(?:to_apply|body|condition|calls|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"\}')
_DEFINED = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = [a-z]+[0-9]*\[([0-9,]*)\]")
_PRODUCT = re.compile(r" (?:convolution|dot)\((?:[a-z]+[0-9]*\[[0-9,]*\][^ ]* )?%?([\w.-]+), "
                      r"(?:[a-z]+[0-9]*\[[0-9,]*\][^ ]* )?%?([\w.-]+)\)")  # fmt: skip
_LABELS = re.compile(r"dim_labels=([0-9a-z]+)_([0-9a-z]+)->([0-9a-z]+)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([0-9,]*)\}")

Bodies = dict[str, list[str]]
"""Computation -> its lines."""


def computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each computation of a module's text."""
    name, lines = None, []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name, lines = match[1], []
        elif name is not None and (line == "}" or line.startswith("}, ")):  # a kernel's text may have lines of braces
            yield name, lines
            name = None
        elif name is not None:
            lines.append(line)


def times(bodies: Bodies, text: str) -> dict[str, int]:
    """How often each computation runs."""
    entry = re.search(r"^ENTRY %?([\w.-]+) ", text, re.MULTILINE)
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, lines in bodies.items():
        for line in lines:
            trips = int(match[1]) if (match := _TRIPS.search(line)) else _limit(bodies, line)
            called = _CALLED.findall(line)
            if match := _BRANCHES.search(line):
                called += [each.strip().lstrip("%") for each in match[1].split(",")]
            calls[name] += [(each, trips) for each in called]
    counts: dict[str, int] = defaultdict(int)

    def visit(name: str, count: int) -> None:
        counts[name] += count
        for called, trips in calls[name]:
            visit(called, count * trips)

    visit(entry[1] if entry else next(iter(bodies)), 1)
    return counts


def _limit(bodies: Bodies, line: str) -> int:
    """How often a loop runs whose text does not say: the number that its condition compares with. 1 for no loop."""
    match = re.search(r" while\(.*condition=%?([\w.-]+)", line)
    condition = bodies.get(match[1], []) if match else []
    return max((int(n) for each in condition for n in re.findall(r"constant\((\d+)\)", each)), default=1)


def product_flops(text: str) -> int:
    """Operations of one device in all matrix products of a program, those that are computed again included.

    Products in kernels (attention of `splash` and `cudnn`) are not in the text, and not counted.
    """
    bodies = dict(computations(text))
    counts = times(bodies, text)
    total = 0
    for name, lines in bodies.items():
        if not counts[name]:
            continue
        shapes = {
            match[1]: tuple(int(size) for size in match[2].split(",") if size)
            for match in map(_DEFINED.match, lines)
            if match
        }
        for line in lines:
            if (product := _PRODUCT.search(line)) and (defined := _DEFINED.match(line)):
                left, right = shapes[product[1]], shapes[product[2]]
                total += counts[name] * 2 * _multiplications(line, left, right, shapes[defined[1]])
    return total


def _multiplications(line: str, left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...]) -> int:
    if labels := _LABELS.search(line):
        # TPUs write products as convolutions; axes of a batch become spatial ones, with windows that skip what is not
        # on the diagonal.
        inputs, kernel, output = labels[1], labels[2], labels[3]
        count = out[output.index("b")] * out[output.index("f")] * right[kernel.index("i")]
        spatial = sorted(label for label in output if label.isdigit())
        window = _window(line, len(spatial))
        for axis, label in enumerate(spatial):
            sizes = (left[inputs.index(label)], right[kernel.index(label)], out[output.index(label)])
            count *= _positions(*sizes, **{key: values[axis] for key, values in window.items()})
        return count
    contracted = _CONTRACTED.search(line)
    axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else [len(left) - 1]
    return math.prod(out) * math.prod(left[axis] for axis in axes)


def _window(line: str, axes: int) -> dict[str, list[int]]:
    found = re.search(r"window=\{([^}]*)\}", line)
    options = dict(each.split("=") for each in found[1].split()) if found else {}

    def numbers(name: str, default: str) -> list[int]:
        given = options[name].split("x") if name in options else [default] * axes
        return [int(each.split("_")[0]) for each in given]

    return {
        "stride": numbers("stride", "1"), "pad": numbers("pad", "0_0"), "base": numbers("lhs_dilate", "1"),
        "kernel": numbers("rhs_dilate", "1"),
    }  # fmt: skip


def _positions(inputs: int, window: int, outputs: int, *, stride: int, pad: int, base: int, kernel: int) -> int:
    """Pairs of an output and an element of the window that meet an input."""
    return sum(
        1
        for output in range(outputs)
        for element in range(window)
        if (place := output * stride + element * kernel - pad) % base == 0 and 0 <= place // base < inputs
    )
