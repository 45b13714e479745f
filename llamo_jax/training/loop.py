"""The training loop: one for the VAE, for every stage, for the demo and for the full recipes."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from llamo_jax import sharding
from llamo_jax.config import Config, require
from llamo_jax.training.checkpoint import DataIterator, checkpoints
from llamo_jax.training.metrics import MetricsLog, progress_bar
from llamo_jax.training.optim import FlatParams, OptimConfig
from llamo_jax.training.step import Loss, TrainState, make_step


@dataclasses.dataclass(frozen=True)
class RunConfig(Config):
    """How long a stage trains and how."""

    name: str
    steps: int
    optim: OptimConfig = OptimConfig()
    trainable: tuple[str, ...] = ("",)
    """Path prefixes of the parameters that train; "" is all of them."""
    time_limit: float | None = None
    """Seconds after which the stage ends, annealed; None for no limit."""
    seed: int = 0
    log_every: int = 25
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        require(self.steps > 0, f"RunConfig.steps is {self.steps}; expected more than 0")
        require(self.time_limit is None or self.time_limit > 0, f"RunConfig.time_limit is {self.time_limit}; expected more than 0 s")

    def trains(self, path: str) -> bool:
        """Whether the parameter at a path trains."""
        return any(path.startswith(prefix) for prefix in self.trainable)


def train(
    config: RunConfig,
    loss: Loss,
    params: FlatParams,
    frozen: FlatParams,
    data: DataIterator,
    *,
    mesh: Mesh,
    shardings: dict[str, NamedSharding],
    log: MetricsLog,
    folder: Path,
    settings: dict[str, Any],
    on_metrics: Callable[[int, dict[str, float]], None] | None = None,
) -> FlatParams:
    """Trains one stage and returns its parameters.

    Init and resume: a checkpoint of this stage in `folder` is continued, bitwise as if never interrupted (where there is no time
    limit); else training starts from `params`.

    Args:
      config: of the stage.
      loss: of the whole tree.
      params: flat tree of all that may train in any stage.
      frozen: flat tree that never trains.
      data: batches.
      mesh: to run on.
      shardings: of every path.
      log: for the figures.
      folder: of the stage's checkpoints.
      settings: everything that makes this run what it is, as JSON; a checkpoint with others is refused.
      on_metrics: called with every logged record.

    Raises:
      InputError: `folder` holds a checkpoint of another run.
      FloatingPointError: the loss is no longer finite.
      RuntimeError: a frozen parameter is no longer bitwise what it was.
    """
    frozen = {path: jax.device_put(leaf, shardings[path]) for path, leaf in frozen.items()}
    bits_before = _sums_of_bits(frozen)
    state = TrainState.create(params, config.optim, config.trains, mesh, shardings)
    step = make_step(loss, config.optim, config.trains, mesh, shardings, config.seed)
    rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    with checkpoints(folder) as saved:
        seconds = 0.0
        if saved.latest_step is not None:
            state, seconds = saved.restore(state, data, settings)
        first = count = int(state.step)
        started = time.monotonic() - seconds
        logged = (count, time.monotonic())
        bar = progress_bar(config.name, config.steps, count)
        while (progress := _progress(config, count, seconds)) < 1:
            batch = jax.device_put(next(data), rows)
            state, metrics = step(state, frozen, batch, jax.device_put(np.float32(progress), everywhere))
            count += 1
            bar.update()
            if count % config.log_every == 0 or count == first + 1:
                figures = {name: float(value) for name, value in metrics.items()}
                _require_finite(figures, config.name, count)
                figures["steps_per_second"] = (count - logged[0]) / (time.monotonic() - logged[1])
                logged = (count, time.monotonic())
                log.write(config.name, count, figures)
                bar.set_postfix({k: f"{v:.3g}" for k, v in figures.items() if k != "learning_rate"}, refresh=False)
                if on_metrics:
                    on_metrics(count, figures)
            seconds = time.monotonic() - started
            if count % config.checkpoint_every == 0:
                saved.save(state, data, settings, seconds)
        bar.close()
        if count > first:
            _require_finite({name: float(value) for name, value in metrics.items()}, config.name, count)
        saved.save(state, data, settings, seconds)
    if bits_before != (bits_after := _sums_of_bits(frozen)):
        changed = [path for path in frozen if bits_before[path] != bits_after[path]]
        raise RuntimeError(f"{config.name}: frozen parameters changed during training: {', '.join(changed)}")
    return state.params


@jax.jit
def _device_sums(tree: FlatParams) -> FlatParams:
    def of(leaf: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(leaf, {2: np.uint16, 4: np.uint32}[leaf.dtype.itemsize]).astype(np.uint32).sum()

    return {path: of(leaf) for path, leaf in tree.items()}


def _sums_of_bits(tree: FlatParams) -> dict[str, int]:
    """A checksum of each array, made where it lies, however it is split."""
    return {path: int(total) for path, total in _device_sums(tree).items()}


def _progress(config: RunConfig, step: int, seconds: float) -> float:
    by_time = seconds / config.time_limit if config.time_limit else 0.0
    return max(step / config.steps, by_time)


def _require_finite(figures: dict[str, float], stage: str, step: int) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{stage}, step {step}: {name} is {value}; lower the learning rate or the clipping norm")
