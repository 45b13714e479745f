"""Training by several processes, as `worker_hosts.py` and `test_hosts.py` run it."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llamo_jax import hosts
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init, shardings
from llamo_jax.models.parallel import Parallel
from llamo_jax.sharding import make_mesh
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
STEPS = 9


class Cut(Feed):
    """Asks this process to end before the fourth batch, and gives the notice time to reach the others."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.count = 0

    def __next__(self) -> Any:
        self.count += 1
        if self.count == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.count >= 4:
            time.sleep(1)
        return super().__next__()


def run(folder: Path, out: Path, *, stop: bool) -> dict[str, np.ndarray | None]:
    """All steps on a mesh of 2,2,2, whatever the processes; the parameters on process 0."""
    mesh = make_mesh(2, 2, 2)
    placed = shardings(llamo.Model, CONFIG, mesh)
    text = init(llamo.LLM, CONFIG.text, jax.random.key(0), {f"{path[5:]}": place for path, place in placed.items()
                                                            if path.startswith("text/")})  # fmt: skip
    params = flatten(llamo.init_motion(CONFIG, jax.random.key(1), text, placed))
    frozen = flatten({"text": text})
    optim = OptimConfig(1e-2, warmup_steps=2, ema_decay=0.5)
    config = RunConfig("test", STEPS, optim, ("motion/", "flow_head/", "exit_head/"), log_every=1)
    feed = (Cut if stop else Feed)(loader(folder), mesh, *ROWS.values())
    log = MetricsLog(out) if hosts.is_first() else None
    parallel = Parallel.of(placed, mesh, CONFIG.text)
    gradients = of_sum(LlamoLoss(CONFIG, LlamoLossConfig()), parallel)
    record = Record(log, out / "checkpoints", {"seed": 0})
    result = train(config, gradients, params, frozen, feed, mesh=mesh, shardings=placed, record=record)
    return {path: hosts.whole(leaf) for path, leaf in result.items()}
