"""Training batches of the motion VAE: random windows of motions."""

from collections.abc import Sequence

import grain
import numpy as np

from data_pipelines.order import SampleOrder
from data_pipelines.records import MotionRecord
from data_pipelines.streams import prefetched, sample_stream
from llamo_jax.errors import InputError
from llamo_jax.motion.representation import FEATURES, canonical_window

Windows = dict[str, np.ndarray]


def window_batches(
    records: Sequence[MotionRecord], *, rows: int, frames: int = 64, seed: int = 0, prefetch: int = 4
) -> grain.IterDataset[Windows]:
    """An endless Grain dataset of windows; its iterator can be saved and restored exactly.

    A window starts anywhere in its motion, and its first frame is made canonical. Shorter motions fill the beginning of
    a window.

    Args:
      records: motions to draw from, one draw of each an epoch.
      rows: windows in a batch.
      frames: length of a window.
      seed: the same seed gives the same batches.
      prefetch: batches that a thread prepares ahead; 0 for none.

    Returns:
      Batches {"features": float32 [rows, frames, 272], un-normalised, "mask": float32 [rows, frames], 1 where there is
      motion}.

    Raises:
      InputError: there are no records.
    """
    if len(records) == 0:
        raise InputError("there are no motions to draw windows from; expected at least one in the train split")
    order = SampleOrder(np.ones(len(records)), seed)

    def window(draw: int, rng: np.random.Generator) -> Windows:
        features = records[order[draw]].features
        start = int(rng.integers(max(len(features) - frames, 0) + 1))
        stop = min(start + frames, len(features))
        row, mask = np.zeros((frames, FEATURES), np.float32), np.zeros(frames, np.float32)
        row[: stop - start] = canonical_window(features, start, stop)
        mask[: stop - start] = 1
        return {"features": row, "mask": mask}

    dataset = sample_stream(window, seed, 0).batch(rows, drop_remainder=True)
    return prefetched(dataset, prefetch)
