"""Training batches of the motion VAE: random windows of motions, normalised."""

from collections.abc import Sequence

import grain
import numpy as np

from data_pipelines.sampling import SampleOrder, prefetched, record_weights, sample_stream
from data_pipelines.shards import MotionRecord
from data_pipelines.statistics import Statistics
from llamo_jax.errors import InputError
from llamo_jax.motion.representation import FEATURE_LIMIT, FEATURES, canonical_crop

Batch = dict[str, np.ndarray]


def window_batches(
    records: Sequence[MotionRecord],
    statistics: Statistics,
    *,
    rows: int,
    frames: int = 64,
    seed: int = 0,
    balance_by: str | None = None,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 4,
) -> grain.IterDataset[Batch]:
    """An endless Grain dataset of windows; its iterator can be saved and restored exactly.

    A window starts anywhere in its motion; its first frame is made canonical, and the features are normalised and clipped. Shorter
    motions fill the beginning of a window.

    Args:
      records: motions to draw from, one draw of each an epoch.
      statistics: of the features.
      rows: windows in a batch, on this host.
      frames: length of a window.
      seed: the same seed gives the same batches.
      balance_by: name of a label; records are drawn by count ** -0.5 of its values.
      process_index: which host this is.
      process_count: how many hosts there are.
      prefetch: batches that a thread prepares ahead; 0 for none.

    Returns:
      Batches {"features": float32 [rows, frames, 272], "mask": float32 [rows, frames], 1 where there is motion}.

    Raises:
      InputError: there are no records, or a record has no label `balance_by`.
    """
    if len(records) == 0:
        raise InputError("there are no motions to draw windows from; expected at least one in the train split")
    order = SampleOrder(record_weights(records, balance_by), seed, process_index, process_count)

    def window(draw: int, rng: np.random.Generator) -> Batch:
        features = records[order[draw]].features
        start = int(rng.integers(max(len(features) - frames, 0) + 1))
        stop = min(start + frames, len(features))
        row, mask = np.zeros((frames, FEATURES), np.float32), np.zeros(frames, np.float32)
        row[: stop - start] = statistics.normalise(canonical_crop(features, start, stop), FEATURE_LIMIT)
        mask[: stop - start] = 1
        return {"features": row, "mask": mask}

    dataset = sample_stream(window, seed, process_index).batch(rows, drop_remainder=True)
    return prefetched(dataset, prefetch)
