"""Solvers of the flow's ordinary differential equation, as Butcher tableaus: the tables of numbers that define them.

A new solver is a new row. The PyTorch port has the same table (`convert/torch_folder/llamo_torch/config.py`).
"""

from typing import Literal, NamedTuple


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method.

    Attributes:
      nodes: where in a step each stage looks at the velocity, 0 to 1.
      stages: for each stage, the weights of the velocities before it that lead to the point where it looks.
      weights: of the stages' velocities, for the step itself.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


SOLVERS: dict[str, Tableau] = {
    "euler": Tableau(nodes=(0.0,), stages=((),), weights=(1.0,)),
    "midpoint": Tableau(nodes=(0.0, 0.5), stages=((), (0.5,)), weights=(0.0, 1.0)),
    "heun": Tableau(nodes=(0.0, 1.0), stages=((), (1.0,)), weights=(0.5, 0.5)),
}
"""Solver -> its tableau. Euler is the paper's. A step takes one evaluation of the velocity for each stage."""

Solver = Literal[tuple(SOLVERS)]  # type: ignore[valid-type]
