"""Samples of the two streams, and several samples packed into one row.

A sample is a dict of arrays of the text stream [l, ...] and of the motion stream [m, ...]. Positions count over both streams of a sample:

    text-to-motion    [BOS] prompt | [BOM] z_0 ... z_(n-1)
    motion-to-text    [BOS] before | [BOM] z_0 ... z_(n-1) | [EOM] after, caption [EOS]

A motion of n latents takes n + 1 slots: slot i holds its target z_i, and the last slot the end. The model feeds slot i the latent
z_(i-1), and [BOM] where `motion_start` is True.
"""

from collections.abc import Mapping, Sequence

import grain
import numpy as np
from jaxtyping import Float

Sample = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]

TEXT_STREAM = ("text_tokens", "text_positions", "text_targets", "text_loss_mask")
MOTION_STREAM = ("motion_latents", "motion_start", "motion_positions", "flow_mask", "exit_targets", "exit_mask")

BINS_PER_ROW = 4
"""Rows are packed in groups of this many batches: the more, the less padding."""


def text_to_motion(prompt: Sequence[int], latents: Float[np.ndarray, "n Z"], *, complete: bool) -> Sample:
    """A sample that learns the motion: flow targets on slots 0 to n - 1, the end on slot n.

    Args:
      prompt: token ids, [BOS] first.
      latents: normalised.
      complete: the motion's true end follows the last latent. If not, slot n teaches nothing.
    """
    slots = len(latents) + 1
    flow_mask, exit_targets, exit_mask = np.ones(slots, np.float32), np.zeros(slots, np.float32), np.ones(slots, np.float32)
    flow_mask[-1] = 0
    exit_targets[-1] = exit_mask[-1] = complete
    return {
        **_text(prompt, np.arange(len(prompt))),
        **_motion(latents, len(prompt)),
        "flow_mask": flow_mask,
        "exit_targets": exit_targets,
        "exit_mask": exit_mask,
    }


def motion_to_text(before: Sequence[int], latents: Float[np.ndarray, "n Z"], after: Sequence[int], target: Sequence[int]) -> Sample:
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
        "flow_mask": unused,
        "exit_targets": unused,
        "exit_mask": unused,
    }


def text_only(tokens: Sequence[int]) -> Sample:
    """A sample of plain language modelling, [BOS] first: every token but the first is learnt. It has no motion stream."""
    return _text(tokens, np.arange(len(tokens)), first_target=1)


def _text(tokens: Sequence[int], positions: np.ndarray, first_target: int | None = None) -> Sample:
    """The text stream. Tokens from index `first_target` on are learnt, each at the token before it."""
    ids = np.asarray(tokens, np.int32)
    targets, mask = np.zeros_like(ids), np.zeros(len(ids), np.float32)
    if first_target is not None:
        targets[first_target - 1 : -1] = ids[first_target:]
        mask[first_target - 1 : -1] = 1
    return {"text_tokens": ids, "text_positions": positions.astype(np.int32), "text_targets": targets, "text_loss_mask": mask}


def _motion(latents: Float[np.ndarray, "n Z"], first_position: int) -> Sample:
    slots = len(latents) + 1
    padded = np.zeros((slots, latents.shape[1]), np.float32)
    padded[:-1] = latents
    start = np.zeros(slots, bool)
    start[0] = True
    positions = np.arange(first_position, first_position + slots, dtype=np.int32)
    return {"motion_latents": padded, "motion_start": start, "motion_positions": positions}


def packed_batches(samples: grain.IterDataset, *, rows: int, text_len: int, motion_len: int | None, seed: int) -> grain.IterDataset:
    """Batches of `rows` rows in which samples lie one after the other, first fit (Grain).

    Nothing is split, dropped or repeated: a sample that fits no open row closes the whole group of rows, which are then given out in
    random order. A sample longer than a row raises ValueError; whoever makes samples keeps to the budget.

    Args:
      samples: dataset of samples.
      rows: in a batch.
      text_len: text tokens in a row.
      motion_len: motion slots in a row; None for samples without a motion stream.
      seed: of the order of rows.

    Returns:
      Dataset of dicts of [rows, text_len] and [rows, motion_len] arrays: those of the samples with "text_segments" and
      "motion_segments" (int32; 0 is padding, else the sample's number in its row, from 1).
    """
    lengths = dict.fromkeys(TEXT_STREAM, text_len)
    if motion_len is not None:
        lengths |= dict.fromkeys(MOTION_STREAM, motion_len)
    # Grain adds segment ids to every field that is not "meta": one field a stream is enough.
    meta = [name for name in lengths if name not in ("text_tokens", "motion_latents")]
    packed = grain.experimental.FirstFitPackIterDataset(
        samples, length_struct=lengths, num_packing_bins=rows * BINS_PER_ROW, seed=seed, shuffle_bins=True, meta_features=meta
    )
    return packed.map(_with_segments).batch(rows, drop_remainder=True)


_SEGMENTS = {"text_tokens_segment_ids": "text_segments", "motion_latents_segment_ids": "motion_segments"}


def _with_segments(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Grain's own positions count within one stream; the samples bring theirs, which count over both.
    return {_SEGMENTS.get(name, name): array for name, array in row.items() if name not in _GRAIN_POSITIONS}


_GRAIN_POSITIONS = ("text_tokens_positions", "motion_latents_positions")


def efficiency(batch: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Share of a batch's text tokens and motion slots that are not padding."""
    return {stream: float((batch[f"{stream}_segments"] > 0).mean()) for stream in ("text", "motion") if f"{stream}_segments" in batch}
