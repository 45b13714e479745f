"""The batch: what the loader makes, the model reads, the losses score and the PyTorch port takes. NumPy only.

Text and motion are two streams of a row. Positions count over both streams of a sample; segment 0 is padding, else the
number of the sample in its row, from 1. A motion of n latents has n + 1 slots: slot i holds its target z_i, and the
last slot the end. The model feeds slot i the latent z_(i-1), and [BOM] where `start` is True.
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int


class TextRows(NamedTuple):
    """The text stream. Where `loss_mask` is 1, the token at `targets` is to be said next."""

    tokens: Int[Array, "B Lt"]
    positions: Int[Array, "B Lt"]
    segments: Int[Array, "B Lt"]
    targets: Int[Array, "B Lt"] | None = None
    loss_mask: Float[Array, "B Lt"] | None = None


class MotionRows(NamedTuple):
    """The motion stream, with normalised latents. The masks are 1 where a slot teaches its latent, or the end."""

    latents: Float[Array, "B Lm Z"]
    start: Bool[Array, "B Lm"]
    positions: Int[Array, "B Lm"]
    segments: Int[Array, "B Lm"]
    flow_mask: Float[Array, "B Lm"] | None = None
    exit_targets: Float[Array, "B Lm"] | None = None
    exit_mask: Float[Array, "B Lm"] | None = None


class PrefixRows(NamedTuple):
    """Text that comes first in its samples, as the rotated keys and the values that the LLM's layers give it: computed
    once and kept (`data_pipelines/prompt_cache.py`), so that the text tower has nothing to do for it."""

    keys: Float[Array, "B L K Lp H"]
    values: Float[Array, "B L K Lp H"]
    positions: Int[Array, "B Lp"]
    segments: Int[Array, "B Lp"]


class Batch(NamedTuple):
    """Rows of both streams; plain text has no motion. With a prefix, the text stream is what comes after it: it may
    have no tokens at all."""

    text: TextRows
    motion: MotionRows | None = None
    prefix: PrefixRows | None = None

    def arrays(self) -> dict[str, Any]:
        """ "text/tokens" -> array and so on, of the fields that are set: what is written into files and packed."""
        streams = {name: rows for name, rows in self._asdict().items() if rows is not None}
        named = {
            f"{stream}/{name}": array for stream, rows in streams.items() for name, array in rows._asdict().items()
        }
        return {name: array for name, array in named.items() if array is not None}

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> "Batch":
        """The inverse of `arrays`."""

        def fields(stream: str) -> dict[str, Any]:
            return {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{stream}/")}

        motion, prefix = fields("motion"), fields("prefix")
        return cls(
            TextRows(**fields("text")),
            MotionRows(**motion) if motion else None,
            PrefixRows(**prefix) if prefix else None,
        )
