"""A measured number, and what it should be."""

import dataclasses
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
      name: what was measured.
      value: of the model.
      unit: "mm", "%", ...; empty for none.
      group: heading it stands under; figures of one group follow each other.
      control: the same measured on real clips, or another number to hold it against.
      note: how it was measured, in a few words.
    """

    name: str
    value: float
    unit: str = ""
    group: str = "Figures"
    control: float | None = None
    note: str = ""


class Aim(NamedTuple):
    """The range that a figure should be in.

    Attributes:
      low: at least this; None for no such aim.
      high: at most this; None for no such aim.
      of_control: both are factors on the figure's control.
      below_control: at most so much less than the control; None for no such aim.
    """

    low: float | None = None
    high: float | None = None
    of_control: bool = False
    below_control: float | None = None


class Judged(NamedTuple):
    """A figure beside its aim, if it has one."""

    figure: Figure
    aim: Aim = Aim()

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The aim in the figure's own unit."""
        if self.aim.below_control is not None:
            control = self.figure.control
            return None if control is None else control - self.aim.below_control, None
        factor = self.figure.control if self.aim.of_control else 1.0
        low, high = (None if bound is None or factor is None else bound * factor for bound in self.aim[:2])
        return low, high

    @property
    def words(self) -> str:
        """The aim in words; empty for none."""
        low, high = self.bounds
        unit = f" {self.figure.unit}" if self.figure.unit else ""
        if low is not None and high is not None:
            return f"{low:.3g} to {high:.3g}{unit}"
        if low is not None:
            return f"at least {low:.3g}{unit}"
        return f"at most {high:.3g}{unit}" if high is not None else ""

    @property
    def passed(self) -> bool | None:
        """Whether the aim is met; None where there is none. A value that is not a number meets no aim."""
        low, high = self.bounds
        if low is None and high is None:
            return None
        return (low is None or self.figure.value >= low) and (high is None or self.figure.value <= high)
