"""Exact means and variances of channels, in one pass and mergeable."""

import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, read_arrays
from llamo_jax.motion.representation import group_deviations


class Moments:
    """Running count, mean and squared deviations of each channel in float64; the order of the data matters only to
    rounding.

    Uses the pairwise update of Chan, Golub and LeVeque, which loses no digits where the mean is large against the
    deviation.
    """

    def __init__(self, channels: int):
        self.count = 0
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)

    def add(self, values: Float[np.ndarray, "N C"]) -> None:
        """Takes in N samples."""
        values = np.asarray(values, np.float64)
        if len(values):
            mean = values.mean(0)
            self._combine(len(values), mean, np.square(values - mean).sum(0))

    def merge(self, other: "Moments") -> None:
        """Takes in all that another accumulator saw."""
        if other.count:
            self._combine(other.count, other.mean, other.squares)

    def _combine(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + squares + np.square(delta) * (self.count * count / total)
        self.count = total

    @property
    def variance(self) -> Float[np.ndarray, " C"]:
        """Of each channel about its own mean (population variance)."""
        return self.squares / max(self.count, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """What normalises channels: (x - mean) / std.

    Attributes:
      mean: [C] float32.
      std: [C] float32; of features one value a group, of latents one a channel.
    """

    mean: Float[np.ndarray, " C"]
    std: Float[np.ndarray, " C"]

    @classmethod
    def of_features(cls, moments: Moments) -> Self:
        """Of 272 features: a mean a channel, a deviation a group."""
        return cls(moments.mean.astype(np.float32), group_deviations(moments.variance).astype(np.float32))

    @classmethod
    def of_latents(cls, moments: Moments) -> Self:
        """Of latents: a mean and a deviation a channel. A channel that never moves keeps a tiny deviation, not zero."""
        return cls(moments.mean.astype(np.float32), np.sqrt(np.maximum(moments.variance, 1e-12)).astype(np.float32))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
          InputError: the file is missing, damaged, or holds other arrays.
        """
        arrays = read_arrays(path)
        if set(arrays) != {"mean", "std"} or arrays["mean"].shape != arrays["std"].shape or arrays["mean"].ndim != 1:
            found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise InputError(
                f"{path}: found arrays {found}; expected mean [C] and std [C]: build the data folder again"
            )
        if not (np.isfinite(arrays["mean"]).all() and (arrays["std"] > 0).all()):
            raise InputError(f"{path}: means are not finite or deviations not positive; build the data folder again")
        return cls(arrays["mean"], arrays["std"])

    def save(self, path: str | Path) -> None:
        """Writes an .npz file, atomically."""
        with atomic_path(path) as temporary:
            np.savez(temporary, mean=self.mean, std=self.std)

    def normalise(self, values: Float[Any, "... C"], limit: float | None = None, xp: Any = np) -> Float[Any, "... C"]:
        """Values in deviations from the mean, float32; clipped to +-`limit` if one is given.

        `xp` is jax.numpy where the values are JAX arrays.
        """
        normalised = (values - self.mean) / self.std
        return (normalised if limit is None else xp.clip(normalised, -limit, limit)).astype(np.float32)

    def denormalise(self, values: Float[Any, "... C"]) -> Float[Any, "... C"]:
        """The inverse of `normalise`, where nothing was clipped."""
        return values * self.std + self.mean

    def equals(self, other: "Statistics") -> bool:
        """Whether both have the same numbers."""
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.std, other.std)

    @classmethod
    def identity(cls, channels: int) -> Self:
        """Statistics that change nothing: of channels that nobody has measured yet."""
        return cls(np.zeros(channels, np.float32), np.ones(channels, np.float32))
