"""Training batches of the motion VAE: random windows of motions."""

from collections.abc import Sequence

import grain
import numpy as np

from data_pipelines.order import SampleOrder
from data_pipelines.records import MotionRecord
from data_pipelines.skipped import Reader, Skipped
from data_pipelines.streams import ShardedBatches, require_enough, rows_of_shard, sample_stream
from llamo_jax.errors import InputError
from llamo_jax.motion.representation import FEATURES, canonical_window

Windows = dict[str, np.ndarray]


class WindowBatches(ShardedBatches):
    """Endless batches of windows, in shards as any `ShardedBatches`.

    A window starts anywhere in its motion, and its first frame is made canonical. Shorter motions fill the beginning of
    a window. Batches are {"features": float32 [rows, frames, 272], un-normalised, "mask": float32 [rows, frames], 1
    where there is motion}. Motions that cannot be read are passed over.

    Args:
      records: motions to draw from, one draw of each an epoch.
      rows: windows in a global batch.
      frames: length of a window.
      seed: the same seed gives the same batches.
      prefetch: batches that a thread prepares ahead; 0 for none.
      shards: parts of a batch.

    Attributes:
      skipped: what was passed over, as far as it was drawn.

    Raises:
      InputError: there are fewer records than shards, or rows do not divide by the shards. While drawing: more than 1 %
        of the records are damaged.
    """

    def __init__(
        self,
        records: Sequence[MotionRecord],
        *,
        rows: int,
        frames: int = 64,
        seed: int = 0,
        prefetch: int = 4,
        shards: int = 1,
    ):
        if len(records) == 0:
            raise InputError("there are no motions to draw windows from; expected at least one in the train split")
        require_enough(len(records), shards, "motions")
        self._rows = rows_of_shard({"windows": rows}, shards)["windows"]
        self.shards, self.prefetch, self.skipped = shards, prefetch, Skipped()
        self._frames, self._seed = frames, seed
        self._order = SampleOrder(np.ones(len(records)), seed)
        self._reader = Reader(records, len(records), FEATURES, self.skipped)

    def _shard(self, shard: int) -> grain.IterDataset[Windows]:
        def window(draw: int, rng: np.random.Generator) -> Windows | None:
            record = self._reader.read(self._order[shard + draw * self.shards])
            return None if record is None else _window(record.features, self._frames, rng)

        return sample_stream(window, self._seed, shard).batch(self._rows, drop_remainder=True)


def _window(features: np.ndarray, frames: int, rng: np.random.Generator) -> Windows:
    start = int(rng.integers(max(len(features) - frames, 0) + 1))
    stop = min(start + frames, len(features))
    row, mask = np.zeros((frames, FEATURES), np.float32), np.zeros(frames, np.float32)
    row[: stop - start] = canonical_window(features, start, stop)
    mask[: stop - start] = 1
    return {"features": row, "mask": mask}
