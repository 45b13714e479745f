"""The training loop: one for the VAE, for every stage, for the judges of evaluation, for the demo and the full
recipes."""

import contextlib
import dataclasses
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

import jax
import numpy as np
import tyro
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from llamo_jax import hosts, sharding
from llamo_jax.commands import RESUMABLE, Stopped, stop_later
from llamo_jax.config import Config, require
from llamo_jax.training.bits import sums_of_bits
from llamo_jax.training.checkpoint import Checkpoints, checkpoints
from llamo_jax.training.gradients import Gradients
from llamo_jax.training.metrics import Meter, MetricsLog, Work, progress_line
from llamo_jax.training.optim import FlatParams, OptimConfig
from llamo_jax.training.step import GuardConfig, TrainState, compile_step, make_step

_steps_of_all_stages = itertools.count(1)

MAX_ROLLBACKS = 3
"""How often a run goes back to its last checkpoint, without getting further than it was, before it gives up."""


class DataIterator(Protocol):
    """An iterator over batches whose position can be saved (Grain's are)."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class RunConfig(Config):
    """How long a stage trains and how."""

    name: tyro.conf.Suppress[str]
    steps: int
    optim: OptimConfig = OptimConfig()
    trainable: tuple[str, ...] = ("",)
    """Path prefixes of the parameters that train; "" is all of them."""
    time_limit: float | None = None
    """Seconds after which the stage ends, annealed; None for no limit."""
    seed: tyro.conf.Suppress[int] = 0
    guard: GuardConfig = GuardConfig()
    log_every: int = 25
    checkpoint_every: int = 1000
    keep_last: int = 2
    """Checkpoints that are kept: the newest."""
    keep_best: int = 0
    """And those with the lowest mean loss since the one before."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep_last"):
            require(getattr(self, name) > 0, f"RunConfig.{name} is {getattr(self, name)}; expected more than 0")
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
      log: of its figures; None on processes that write none.
      folder: of the stage's checkpoints; may be a remote one.
      settings: everything that makes this run what it is, as JSON; a checkpoint with others is refused.
      profile: folder that a trace of a few steps is written to; None for none.
      saved: called when a checkpoint was saved; the log, where it is a copy, is not to fall behind.
    """

    log: MetricsLog | None
    folder: str | Path
    settings: dict[str, Any]
    profile: str | None = None
    saved: Callable[[], None] | None = None


def train(
    config: RunConfig,
    gradients: Gradients,
    params: FlatParams,
    frozen: FlatParams,
    data: Iterator[Any] | DataIterator,
    *,
    mesh: Mesh,
    shardings: dict[str, NamedSharding],
    record: Record | None,
    work: Work | None = None,
) -> FlatParams:
    """Trains one stage and returns its parameters, or their averages where the optimizer keeps them.

    Init and resume: a checkpoint of this stage is continued, bitwise as if never interrupted (where there is no time
    limit); else training starts from `params`. With a record, Ctrl-C, requests to end and notices of preemption are met
    after the step at hand, which is saved; a second one at once. Where too many steps in a row are skipped (`Guard`),
    the run goes back to its last checkpoint, and on with the data that comes next.

    Args:
      config: steps, optimizer and seed of the stage.
      gradients: of the loss over what trains, of the whole tree.
      params: flat tree of all that may train in any stage.
      frozen: flat tree that never trains.
      data: batches. With a record, their position is saved.
      mesh: to run on.
      shardings: of every path.
      record: log and checkpoints; None keeps none, for what is quickly trained anew.
      work: what a step does, for rates.

    Raises:
      InputError: the folder of checkpoints holds another run or a damaged one, or the disk is full.
      Stopped: by a signal.
      FloatingPointError: steps are skipped without end.
      RuntimeError: a frozen parameter is no longer bitwise what it was.
    """
    frozen = {path: jax.device_put(leaf, shardings[path]) for path, leaf in frozen.items()}
    bits_before = sums_of_bits(frozen)
    placement = (config.optim, config.trains, mesh, shardings)
    rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    step = make_step(gradients, config.optim, config.trains, shardings, seed=config.seed, guard=config.guard)
    compiled, metrics, rollbacks, failed = None, {}, 0, 0
    with _stop_signal(record) as asked, _checkpoints(record, config) as saved:
        seconds, stop = 0.0, 0
        target = TrainState.abstract(params, *placement)
        if saved is not None and saved.latest_step is not None:
            state, position, seconds = saved.restore(target, record.settings)
            data.set_state(position)
        else:
            state = TrainState.init(params, *placement)
        first = count = int(state.step)
        log = record.log if record is not None else None
        if log is not None:
            log.rewind(config.name, count)
        started = time.monotonic() - seconds
        meter, losses, due = Meter(work or Work(), count), [], False
        with (
            progress_line(config.name, config.steps, count, shown=hosts.is_first()) as line,
            _trace(record) as trace,
        ):
            while not stop and (progress := _progress(config, count, seconds)) < 1:
                with meter.waiting("data"):
                    batch = jax.device_put(next(data), rows)
                if compiled is None:
                    with meter.waiting("compile"):
                        compiled = compile_step(step, state, frozen, batch, mesh)
                # Not device_put, by which hosts wait for each other to compare what they bring.
                now = np.float32(progress)
                progress = jax.make_array_from_callback((), everywhere, lambda _, now=now: now)
                with jax.transfer_guard("disallow"):
                    state, metrics = compiled(state, frozen, batch, progress)
                count += 1
                trace(metrics)
                logged = count % config.log_every == 0 or count == first + 1
                if logged or count % config.guard.patience == 0:
                    figures = {name: float(value) for name, value in metrics.items()}
                    if figures["skipped_in_a_row"] == 0:
                        losses.append(figures["loss"])
                        rollbacks = rollbacks if count <= failed else 0
                    if logged and log is not None:
                        log.write(config.name, count, figures | meter.rates(count, figures))
                    if figures["skipped_in_a_row"] >= config.guard.patience:
                        rollbacks, failed = rollbacks + 1, count
                        state = _rolled_back(config, saved, state, target, record, rollbacks, figures, count)
                        count, metrics, losses, due = int(state.step), {}, [], True
                    if logged:
                        meter.restart(count)
                        line.update(count, figures)
                seconds = time.monotonic() - started
                # What is saved is what the run may go back to: after a good step. One that has just gone back is saved
                # again at once, with the data behind what made it fail.
                due |= count % config.checkpoint_every == 0
                if saved is not None and due and metrics and int(metrics["skipped_in_a_row"]) == 0:
                    with meter.waiting("checkpoint"):
                        _save(saved, state, data, record, seconds, losses)
                    losses, due = [], False
                stop = _stop_asked(asked(), count, config)
        if metrics and int(metrics["skipped_in_a_row"]) >= config.guard.patience:
            _give_up(config, {name: float(value) for name, value in metrics.items()}, count)
        if saved is not None:
            _save(saved, state, data, record, seconds, losses or [float(metrics.get("loss", 0.0))])
    if bits_before != (bits_after := sums_of_bits(frozen)):
        changed = [path for path in frozen if bits_before[path] != bits_after[path]]
        raise RuntimeError(f"{config.name}: frozen parameters changed during training: {', '.join(changed)}")
    if stop := stop or hosts.agree(asked()):
        where = f" after step {count} of {config.name}, which is saved; the same command goes on from it"
        raise Stopped(stop, where, code=None if record is None or stop == signal.SIGINT else RESUMABLE)
    return state.result


def _save(
    saved: Checkpoints, state: TrainState, data: DataIterator, record: Record, seconds: float, losses: list[float]
) -> None:
    loss = float(np.mean(losses)) if losses and np.all(np.isfinite(losses)) else float("inf")
    saved.save(state, data.get_state(), record.settings, seconds=seconds, loss=loss)
    if record.saved is not None:
        record.saved()


def _rolled_back(
    config: RunConfig,
    saved: Checkpoints | None,
    failed: TrainState,
    target: TrainState,
    record: Record | None,
    rollbacks: int,
    figures: dict[str, float],
    count: int,
) -> TrainState:
    """The last checkpoint's state; the data is where it was, so that what made the steps fail is not seen again."""
    if saved is None or saved.latest_step is None or rollbacks > MAX_ROLLBACKS:
        _give_up(config, figures, count)
    state = saved.restore(target, record.settings).state
    # What was skipped stays counted.
    state = dataclasses.replace(state, guard=dataclasses.replace(state.guard, skipped=failed.guard.skipped))
    back = int(state.step)
    if record.log is not None:
        print(f"{_skipped(config, figures, count)}; back to step {back}, with other data")
        record.log.rewind(config.name, back)
        record.log.write(config.name, back, {"rolled_back_from": count, "rollbacks": rollbacks})
    return state


def _give_up(config: RunConfig, figures: dict[str, float], count: int) -> NoReturn:
    raise FloatingPointError(f"{_skipped(config, figures, count)}; lower the learning rate or the clipping norm")


def _skipped(config: RunConfig, figures: dict[str, float], count: int) -> str:
    return (
        f"{config.name}, step {count}: {int(figures['skipped_in_a_row'])} steps in a row were skipped, the last with "
        f"loss {figures['loss']:.3g} and gradient norm {figures['gradient_norm']:.3g}"
    )


@contextlib.contextmanager
def _checkpoints(record: Record | None, config: RunConfig) -> Iterator[Checkpoints | None]:
    if record is None:
        yield None
        return
    with checkpoints(record.folder, keep_last=config.keep_last, keep_best=config.keep_best) as saved:
        yield saved


def _stop_signal(record: Record | None) -> contextlib.AbstractContextManager[Callable[[], int]]:
    """Says which signal asks to stop, or 0. Without a record there is nothing to save: signals act at once."""
    if record is None:
        return contextlib.nullcontext(lambda: 0)
    # Among several processes JAX's service takes SIGTERM, and has all of them stop after the same step.
    return stop_later(*([signal.SIGTERM] if jax.process_count() > 1 else []))


def _stop_asked(asked: int, count: int, config: RunConfig) -> int:
    """The signal that asks some process to stop, or 0: the same on all, since all save a checkpoint together."""
    if jax.process_count() == 1:
        return asked
    # A notice of preemption reaches the others by JAX's own service, which names the step that all stop after. It wants
    # numbers that only rise, in all stages and whatever a run goes back to.
    if multihost_utils.reached_preemption_sync_point(next(_steps_of_all_stages)):
        return signal.SIGTERM
    return hosts.agree(asked) if count % config.log_every == 0 else 0


@contextlib.contextmanager
def _trace(record: Record | None) -> Iterator[Callable[[Any], None]]:
    """Traces the steps from the tenth on, five of them, where that is asked for."""
    folder = None if record is None else record.profile
    if folder is None:
        yield lambda metrics: None
        return
    tracing, done = False, 0

    def after(metrics: Any) -> None:
        nonlocal tracing, done
        done += 1
        if done == 10:
            jax.profiler.start_trace(str(folder))
            tracing = True
        elif done == 15:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            tracing = False

    try:
        yield after
    finally:
        if tracing:
            jax.profiler.stop_trace()


def _progress(config: RunConfig, step: int, seconds: float) -> float:
    if not config.time_limit:
        return step / config.steps
    if jax.process_count() > 1:  # one clock for all
        seconds = float(multihost_utils.broadcast_one_to_all(np.float32(seconds)))
    return max(step / config.steps, seconds / config.time_limit)
