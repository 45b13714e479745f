"""Samples of the two streams, and several samples packed into one row of a `Batch`.

A sample is a dict of arrays [l, ...] of the text stream and [m, ...] of the motion stream, under the names of
`Batch.arrays`. `prompts.py` draws the order of what is in it.
"""

import math
from collections.abc import Callable, Sequence

import grain
import numpy as np
from jaxtyping import Float, Int

from llamo_jax.batch import Batch

Sample = dict[str, np.ndarray]

TEXT_STREAM = ("text/tokens", "text/positions", "text/targets", "text/loss_mask")
MOTION_STREAM = (
    "motion/latents",
    "motion/start",
    "motion/positions",
    "motion/flow_mask",
    "motion/exit_targets",
    "motion/exit_mask",
)

PREFIX_STREAM = ("prefix/rows", "prefix/positions")
"""Text before a motion whose keys are kept: where they are (`prompt_cache.py`)."""

BATCHES_PER_GROUP = 4
"""Rows are packed in groups of this many batches: the more, the less padding."""

ROWS_PER_GROUP = 48
"""Shards have few rows in a batch, and are packed in groups of about this many rows at least."""


def text_to_motion(prompt: Sequence[int], latents: Float[np.ndarray, "n Z"], *, complete: bool) -> Sample:
    """A sample that learns the motion: flow targets on slots 0 to n - 1, the end on slot n.

    Args:
      prompt: token ids, [BOS] first.
      latents: normalised.
      complete: the motion's true end follows the last latent. If not, slot n teaches nothing.
    """
    slots = len(latents) + 1
    flow_mask, exit_targets, exit_mask = (
        np.ones(slots, np.float32),
        np.zeros(slots, np.float32),
        np.ones(slots, np.float32),
    )
    flow_mask[-1] = 0
    exit_targets[-1] = exit_mask[-1] = complete
    return {
        **_text(prompt, np.arange(len(prompt))),
        **_motion(latents, len(prompt)),
        "motion/flow_mask": flow_mask,
        "motion/exit_targets": exit_targets,
        "motion/exit_mask": exit_mask,
    }


def motion_to_text(
    before: Sequence[int], latents: Float[np.ndarray, "n Z"], after: Sequence[int], target: Sequence[int]
) -> Sample:
    """A sample that learns the text behind a motion.

    Args:
      before: token ids in front of the motion, [BOS] first.
      latents: normalised.
      after: token ids behind it that are given, [EOM] first.
      target: token ids to learn, [EOS] last.
    """
    slots = len(latents) + 1
    tokens = [*before, *after, *target]
    positions = np.arange(len(tokens))
    positions[len(before) :] += slots
    unused = np.zeros(slots, np.float32)
    return {
        **_text(tokens, positions, first_target=len(before) + len(after)),
        **_motion(latents, len(before)),
        "motion/flow_mask": unused,
        "motion/exit_targets": unused,
        "motion/exit_mask": unused,
    }


def text_only(tokens: Sequence[int]) -> Sample:
    """A sample of plain language modelling, [BOS] first: every token but the first is learnt. It has no motion
    stream."""
    return _text(tokens, np.arange(len(tokens)), first_target=1)


def without_prefix(sample: Sample, rows: Callable[[Sequence[int]], Int[np.ndarray, " n"]], *, follows: bool) -> Sample:
    """A sample whose text before the motion is a prefix: where its keys are, in place of its tokens.

    Args:
      sample: with a motion.
      rows: (token ids) -> where they are kept.
      follows: text comes after the motion too, and stays. If not, there is no text stream.
    """
    count = int(sample["motion/positions"][0])
    ids, positions = sample["text/tokens"][:count].tolist(), sample["text/positions"][:count]
    rest = {name: array[count:] for name, array in sample.items() if follows and name in TEXT_STREAM}
    motion = {name: array for name, array in sample.items() if name in MOTION_STREAM}
    return rest | motion | {"prefix/rows": rows(ids), "prefix/positions": positions}


def _text(tokens: Sequence[int], positions: np.ndarray, first_target: int | None = None) -> Sample:
    """The text stream. Tokens from index `first_target` on are learnt, each at the token before it."""
    ids = np.asarray(tokens, np.int32)
    targets, mask = np.zeros_like(ids), np.zeros(len(ids), np.float32)
    if first_target is not None:
        targets[first_target - 1 : -1] = ids[first_target:]
        mask[first_target - 1 : -1] = 1
    return {
        "text/tokens": ids,
        "text/positions": positions.astype(np.int32),
        "text/targets": targets,
        "text/loss_mask": mask,
    }


def _motion(latents: Float[np.ndarray, "n Z"], first_position: int) -> Sample:
    slots = len(latents) + 1
    padded = np.zeros((slots, latents.shape[1]), np.float32)
    padded[:-1] = latents
    start = np.zeros(slots, bool)
    start[0] = True
    positions = np.arange(first_position, first_position + slots, dtype=np.int32)
    return {"motion/latents": padded, "motion/start": start, "motion/positions": positions}


def packed_batches(
    samples: grain.IterDataset,
    *,
    rows: int,
    text_len: int | None,
    motion_len: int | None,
    prefix_len: int | None = None,
    seed: int,
    shards: int = 1,
    batch: Callable[[dict[str, np.ndarray]], Batch] = Batch.of,
) -> grain.IterDataset:
    """Batches of `rows` rows in which samples lie one after the other, first fit (Grain).

    Nothing is split, dropped or repeated: a sample that fits no open row closes the whole group of rows, which are then
    given out in random order. A sample longer than a row raises ValueError; whoever makes samples keeps to the budget.

    Args:
      samples: dataset of samples.
      rows: in a batch.
      text_len: text tokens in a row; None for samples without a text stream.
      motion_len: motion slots in a row; None for samples without a motion stream.
      prefix_len: tokens of prefixes in a row; None for samples without.
      seed: of the order of rows.
      shards: that a whole batch is made of, of which this is one.
      batch: what is made of the arrays of rows.

    Returns:
      Dataset of `Batch`es.
    """
    streams = ((TEXT_STREAM, text_len), (MOTION_STREAM, motion_len), (PREFIX_STREAM, prefix_len))
    lengths = {name: length for names, length in streams if length is not None for name in names}
    batches = BATCHES_PER_GROUP if shards == 1 else max(BATCHES_PER_GROUP, math.ceil(ROWS_PER_GROUP / rows))
    # Grain adds segment ids to every field that is not "meta": one field a stream is enough.
    meta = [name for name in lengths if f"{name}_segment_ids" not in _SEGMENTS]
    packed = grain.experimental.FirstFitPackIterDataset(
        samples,
        length_struct=lengths,
        num_packing_bins=rows * batches,
        seed=seed,
        shuffle_bins=True,
        meta_features=meta,
    )
    return packed.map(_with_segments).batch(rows, drop_remainder=True).map(batch)


_SEGMENTS = {
    "text/tokens_segment_ids": "text/segments",
    "motion/latents_segment_ids": "motion/segments",
    "prefix/rows_segment_ids": "prefix/segments",
}


def _with_segments(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Grain's own positions count within one stream; the samples bring theirs, which count over both.
    return {_SEGMENTS.get(name, name): array for name, array in row.items() if name not in _GRAIN_POSITIONS}


_GRAIN_POSITIONS = ("text/tokens_positions", "motion/latents_positions", "prefix/rows_positions")
