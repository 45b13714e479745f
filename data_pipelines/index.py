"""The index of a split: what is asked of all records before any is read, as columns."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.records import Record
from llamo_jax.errors import InputError
from llamo_jax.files import read_arrays, read_json, write_json


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Columns of N records, in their order. On disk each is an .npy file that can be mapped into memory.

    Attributes:
      lengths: frames or latents of each record.
      speeds: mean speed of the joints in m/s; NaN for not measured.
      labels: label name -> the number of each record's class in `classes`; -1 where a record has no such label.
      classes: label name -> its classes, sorted.
    """

    lengths: Int[np.ndarray, " N"]
    speeds: Float[np.ndarray, " N"]
    labels: dict[str, Int[np.ndarray, " N"]]
    classes: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of_columns(cls, lengths: Sequence[int], speeds: Sequence[float], labels: Sequence[Mapping[str, str]]) -> Self:
        """The index of records that have these lengths, speeds and labels."""
        classes = {
            name: sorted({found[name] for found in labels if name in found})
            for name in sorted({name for found in labels for name in found})
        }
        numbers = {name: {value: number for number, value in enumerate(values)} for name, values in classes.items()}
        columns = {
            name: np.array([numbers[name][found[name]] if name in found else -1 for found in labels], np.int32)
            for name in classes
        }
        return cls(np.array(lengths, np.int32), np.array(speeds, np.float32), columns, classes)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """The index of records in memory."""
        rows = [(len(record.array), record.speed, record.labels) for record in records]
        return cls.of_columns(*map(list, zip(*rows, strict=True))) if rows else cls.of_columns([], [], [])

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Opens what `save` wrote; columns are read when they are used.

        Raises:
          InputError: a file is missing or damaged, or columns have different lengths.
        """
        classes = read_json(folder / "classes.json")
        if not isinstance(classes, dict) or not all(isinstance(values, list) for values in classes.values()):
            raise InputError(f"{folder / 'classes.json'}: no lists of classes by label; build the data folder again")
        lengths, speeds = (_column(folder / f"{name}.npy") for name in ("length", "speed"))
        labels = {name: _column(folder / f"label.{number}.npy") for number, name in enumerate(sorted(classes))}
        if len({len(column) for column in (lengths, speeds, *labels.values())}) > 1:
            raise InputError(f"{folder}: columns of different lengths; build the data folder again")
        return cls(lengths, speeds, labels, classes)

    def save(self, folder: Path) -> None:
        """Writes the columns into a new folder."""
        folder.mkdir(parents=True)
        write_json(folder / "classes.json", self.classes)
        columns = {"length": self.lengths, "speed": self.speeds}
        columns |= {f"label.{number}": self.labels[name] for number, name in enumerate(sorted(self.labels))}
        for name, column in columns.items():
            np.save(folder / f"{name}.npy", column)

    def balanced_weights(self, numbers: Int[np.ndarray, " M"], label: str | None) -> Float[np.ndarray, " M"]:
        """How often each of the records `numbers` is to be drawn: by count ** -0.5 of its class among them.

        Raises:
          InputError: one of them has no such label.
        """
        if label is None:
            return np.ones(len(numbers))
        known = ", ".join(sorted(self.labels)) or "none"
        if label not in self.labels:
            raise InputError(f'no record has a label "{label}" to balance by; they have {known}: choose one of them')
        found = self.labels[label][numbers]
        if (missing := np.flatnonzero(found < 0)).size:
            first = f"{missing.size} of {len(numbers)} records have no label"
            raise InputError(f'{first} "{label}" to balance by (number {numbers[missing[0]]}); labels are {known}')
        return np.bincount(found)[found] ** -0.5


def _column(path: Path) -> np.ndarray:
    array = read_arrays(path, mapped=True)["array"]
    if array.ndim != 1 or array.dtype.kind not in "if":
        raise InputError(f"{path}: {array.dtype} {array.shape}; expected one column of numbers: build the folder again")
    return array
