"""A run that `test_survive.py` kills: python -m tests.training.worker_survive FOLDER OUT. FOLDER has `latents`."""

import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init, shardings
from llamo_jax.sharding import data_mesh
from llamo_jax.training.feed import Feed
from llamo_jax.training.gradients import of_sum
from llamo_jax.training.loop import Record, RunConfig, train
from llamo_jax.training.losses import LlamoLoss, LlamoLossConfig
from llamo_jax.training.metrics import MetricsLog
from llamo_jax.training.optim import OptimConfig
from llamo_jax.trees import flatten
from tests.training.latents import ROWS, loader

CONFIG = LlamoConfig(
    LLMConfig(304, 16, 2, 4, 2, 4, 24), MotionTowerConfig(16, 32), FlowHeadConfig(16, 1), latent_channels=4
)
STEPS = 60


class Slow(Feed):
    """Batches that take a while, so that a run can be killed between any two things that it does."""

    def __next__(self) -> Any:
        time.sleep(0.05)
        return super().__next__()


def main(folder: Path, out: Path) -> None:
    mesh = data_mesh(1)
    text = init(llamo.LLM, CONFIG.text, jax.random.key(0))
    params = flatten(llamo.init_motion(CONFIG, jax.random.key(1), text))
    optim = OptimConfig(1e-2, warmup_steps=2, ema_decay=0.9)
    run = RunConfig("test", STEPS, optim, ("motion/", "flow_head/", "exit_head/"), log_every=1, checkpoint_every=3,
                    keep_best=1)  # fmt: skip
    with MetricsLog(out) as log:
        result = train(
            run,
            of_sum(LlamoLoss(CONFIG, LlamoLossConfig())),
            params,
            flatten({"text": text}),
            Slow(loader(folder), mesh, *ROWS.values()),
            mesh=mesh,
            shardings=shardings(llamo.Model, CONFIG, mesh),
            record=Record(log, out / "checkpoints", {"seed": 0}),
        )
    np.savez(out / "params.npz", **{path: np.asarray(leaf) for path, leaf in result.items()})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
