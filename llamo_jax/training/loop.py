"""The training loop: one for the VAE, for every stage, for the judges of evaluation, for the demo and the full
recipes."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from llamo_jax import sharding
from llamo_jax.commands import Stopped, stop_later
from llamo_jax.config import Config, require
from llamo_jax.training.bits import sums_of_bits
from llamo_jax.training.checkpoint import Checkpoints, DataIterator, checkpoints
from llamo_jax.training.metrics import MetricsLog, progress_bar
from llamo_jax.training.optim import FlatParams, OptimConfig
from llamo_jax.training.step import Loss, TrainState, compile_step, make_step


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
        require(
            self.time_limit is None or self.time_limit > 0,
            f"RunConfig.time_limit is {self.time_limit}; expected more than 0 s",
        )

    def trains(self, path: str) -> bool:
        """Whether the parameter at a path trains."""
        return any(path.startswith(prefix) for prefix in self.trainable)


@dataclasses.dataclass(frozen=True)
class Record:
    """Where a run leaves its traces.

    Attributes:
      log: of its figures.
      folder: of the stage's checkpoints.
      settings: everything that makes this run what it is, as JSON; a checkpoint with others is refused.
    """

    log: MetricsLog
    folder: Path
    settings: dict[str, Any]


def train(
    config: RunConfig,
    loss: Loss,
    params: FlatParams,
    frozen: FlatParams,
    data: Iterator[Any] | DataIterator,
    *,
    mesh: Mesh,
    shardings: dict[str, NamedSharding],
    record: Record | None,
) -> FlatParams:
    """Trains one stage and returns its parameters.

    Init and resume: a checkpoint of this stage is continued, bitwise as if never interrupted (where there is no time
    limit); else training starts from `params`. With a record, Ctrl-C and requests to end are met after the step at
    hand, which is saved; a second one at once.

    Args:
      config: steps, optimizer and seed of the stage.
      loss: the loss of the whole tree.
      params: flat tree of all that may train in any stage.
      frozen: flat tree that never trains.
      data: batches. With a record, their position is saved.
      mesh: to run on.
      shardings: of every path.
      record: log and checkpoints; None keeps none, for what is quickly trained anew.

    Raises:
      InputError: the folder of checkpoints holds another run or a damaged one, or the disk is full.
      Stopped: by a signal.
      FloatingPointError: the loss is no longer finite.
      RuntimeError: a frozen parameter is no longer bitwise what it was.
    """
    frozen = {path: jax.device_put(leaf, shardings[path]) for path, leaf in frozen.items()}
    bits_before = sums_of_bits(frozen)
    placement = (config.optim, config.trains, mesh, shardings)
    rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    step = make_step(loss, config.optim, config.trains, shardings, seed=config.seed)
    compiled, metrics = None, {}
    with _stop_signal(record) as asked, _checkpoints(record) as saved:
        seconds, stop = 0.0, 0
        if saved is not None and saved.latest_step is not None:
            target = TrainState.abstract(params, *placement)
            state, seconds = saved.restore(target, data, record.settings)
        else:
            state = TrainState.init(params, *placement)
        first = count = int(state.step)
        if record is not None:
            record.log.rewind(config.name, count)
        started = time.monotonic() - seconds
        logged = (count, time.monotonic())
        with progress_bar(config.name, config.steps, count) as bar:
            while not stop and (progress := _progress(config, count, seconds)) < 1:
                batch = jax.device_put(next(data), rows)
                if compiled is None:
                    compiled = compile_step(step, state, frozen, batch, mesh)
                state, metrics = compiled(state, frozen, batch, jax.device_put(np.float32(progress), everywhere))
                count += 1
                bar.update()
                if count % config.log_every == 0 or count == first + 1:
                    figures = {name: float(value) for name, value in metrics.items()}
                    _require_finite(figures, config.name, count)
                    figures["steps_per_second"] = (count - logged[0]) / (time.monotonic() - logged[1])
                    logged = (count, time.monotonic())
                    if record is not None:
                        record.log.write(config.name, count, figures)
                    bar.set_postfix({k: f"{v:.3g}" for k, v in figures.items() if k != "learning_rate"}, refresh=False)
                seconds = time.monotonic() - started
                if saved is not None and count % config.checkpoint_every == 0:
                    saved.save(state, data, record.settings, seconds)
                if count % config.log_every == 0 or jax.process_count() == 1:
                    stop = _agreed(asked())
        _require_finite({name: float(value) for name, value in metrics.items()}, config.name, count)
        if saved is not None:
            saved.save(state, data, record.settings, seconds)
    if bits_before != (bits_after := sums_of_bits(frozen)):
        changed = [path for path in frozen if bits_before[path] != bits_after[path]]
        raise RuntimeError(f"{config.name}: frozen parameters changed during training: {', '.join(changed)}")
    if stop := stop or asked():
        raise Stopped(stop, f" after step {count} of {config.name}, which is saved; the same command goes on from it")
    return state.params


@contextlib.contextmanager
def _checkpoints(record: Record | None) -> Iterator[Checkpoints | None]:
    if record is None:
        yield None
        return
    with checkpoints(record.folder) as saved:
        yield saved


def _stop_signal(record: Record | None) -> contextlib.AbstractContextManager[Callable[[], int]]:
    """Says which signal asks to stop, or 0. Without a record there is nothing to save: signals act at once."""
    return contextlib.nullcontext(lambda: 0) if record is None else stop_later()


def _agreed(asked: int) -> int:
    """The signal that asks some process to stop, or 0: the same on all, since all save a checkpoint together."""
    return int(multihost_utils.process_allgather(np.int32(asked)).max()) if jax.process_count() > 1 else asked


def _progress(config: RunConfig, step: int, seconds: float) -> float:
    by_time = seconds / config.time_limit if config.time_limit else 0.0
    return max(step / config.steps, by_time)


def _require_finite(figures: dict[str, float], stage: str, step: int) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{stage}, step {step}: {name} is {value}; lower the learning rate or the clipping norm"
            )
