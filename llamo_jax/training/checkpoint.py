"""Checkpoints of a run: state, data position and config, saved and restored together (Orbax)."""

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from llamo_jax.errors import InputError
from llamo_jax.training.step import Guard, TrainState
from llamo_jax.trees import flatten


class Checkpoints:
    """The checkpoints of one stage, in a folder of their own.

    Args:
      folder: of the stage.
      keep_last: how many of the newest are kept.
      keep_best: how many of those with the lowest loss are kept beside them.
    """

    def __init__(self, folder: str | Path, *, keep_last: int = 2, keep_best: int = 0):
        # Orbax logs every save at INFO, every optional dependency as a warning, and what it raises as an error.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        sys.unraisablehook = _without_closed_loops
        policies = [preservation.LatestN(keep_last)]
        if keep_best:
            policies.append(
                preservation.BestN(get_metric_fn=lambda figures: figures["loss"], reverse=True, n=keep_best)
            )
        # What a run that was killed while it saved has left goes.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation.AnyPreservationPolicy(policies),
            create=True,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        self._folder = epath.Path(folder)
        self._folder = self._folder if "://" in str(folder) else epath.Path(Path(folder).absolute())
        with self._saving():
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=options,
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "data": ocp.JsonCheckpointHandler(),
                    "config": ocp.JsonCheckpointHandler(),
                },
            )

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: Any, config: dict[str, Any], *, seconds: float, loss: float) -> None:
        """Saves in the background; a save in progress is finished first. A step that is saved already is left as it is.

        Args:
          state: of the run, on any mesh.
          data: position of the data, as JSON.
          config: what makes the run what it is; `restore` refuses another.
          seconds: that the stage has trained so far, which count towards its limit after a resume too.
          loss: by which the best are told.

        Raises:
          InputError: this one, or the one in progress, cannot be saved.
        """
        if (step := int(state.step)) == self.latest_step:
            return
        items = {
            "state": ocp.args.StandardSave(_as_dict(state)),
            "data": ocp.args.JsonSave({"iterator": data, "seconds": seconds}),
            "config": ocp.args.JsonSave(config),
        }
        with self._saving():
            # Forced, since Orbax would ask JAX's service whether this step is one to stop after; the loop does.
            self._manager.save(step, args=ocp.args.Composite(**items), metrics={"loss": loss}, force=True)

    def restore(self, target: TrainState, config: dict[str, Any]) -> "Restored":
        """What the newest checkpoint holds, on any mesh.

        Args:
          target: shapes, types and shardings of the state (`TrainState.abstract`).
          config: what was saved with the state must be equal.

        Raises:
          InputError: the checkpoint belongs to another config, is of other shapes, or is damaged.
        """
        with self._saving():
            self._manager.wait_until_finished()  # a run that goes back may have one in progress
        saved = self._read(config=ocp.args.JsonRestore())["config"]
        require_same(saved, config, str(self._folder))
        self._require_shapes(target)
        restored = self._read(state=ocp.args.StandardRestore(_as_dict(target)), data=ocp.args.JsonRestore())
        state = restored["state"]
        structure = jax.tree.structure(target.opt_state)
        leaves = [state["opt_state"][str(index)] for index in range(structure.num_leaves)]
        opt_state = jax.tree.unflatten(structure, leaves)
        state = TrainState(state["step"], state["params"], opt_state, state.get("ema", {}), Guard(**state["guard"]))
        return Restored(state, restored["data"]["iterator"], restored["data"]["seconds"])

    def _require_shapes(self, target: TrainState) -> None:
        """Orbax would cut or fill arrays of another shape without a word."""
        step = self.latest_step
        with _told(f"{self._folder / str(step)}: damaged checkpoint", _DAMAGED):
            found = flatten(self._manager.item_metadata(step)["state"].tree)
        expected = flatten(_as_dict(target))
        if missing := sorted(found.keys() ^ expected.keys()):
            raise InputError(
                f"{self._folder / str(step)}: holds other arrays ({missing[0]}); train into another folder"
            )
        for path, leaf in expected.items():
            if tuple(found[path].shape) != tuple(leaf.shape):
                raise InputError(
                    f"{self._folder / str(step)}: {path} has shape {tuple(found[path].shape)}, the model "
                    f"{tuple(leaf.shape)}; resume it with its own LLM and sizes, or train into another folder"
                )

    def close(self) -> None:
        """Waits for a save in progress. Raises InputError where that fails."""
        with self._saving():
            self._manager.close()

    def _read(self, **items: Any) -> Any:
        """Items of the newest checkpoint."""
        step = self.latest_step
        with _told(f"{self._folder / str(step)}: damaged checkpoint", _DAMAGED):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """One line for what fails, and no half of a checkpoint left."""
        try:
            with _told(f"{self._folder}: no checkpoint can be written", "make room, and run the same command again"):
                yield
        except InputError:
            for half in self._folder.glob("*.orbax-checkpoint-tmp*"):
                with contextlib.suppress(OSError):
                    half.rmtree()
            raise


class Restored(NamedTuple):
    """What a checkpoint held: the state, the position of the data, and the seconds trained."""

    state: TrainState
    data: Any
    seconds: float


_DAMAGED = "move this folder away: the run then goes on from the one before it, or anew where there is none"


def require_same(saved: dict[str, Any], config: dict[str, Any], where: str) -> None:
    """Raises InputError with what differs where a run is to be continued with other settings."""
    old, new = _flat(saved), _flat(config)
    different = [name for name in sorted(old.keys() | new.keys()) if old.get(name, _ABSENT) != new.get(name, _ABSENT)]
    if different:
        shown = [f"{name}: {old.get(name, _ABSENT)} -> {new.get(name, _ABSENT)}" for name in different[:6]]
        more = f", and {len(different) - 6} more" if len(different) > 6 else ""
        raise InputError(
            f"{where}: holds a run with other settings ({'; '.join(shown)}{more}); "
            "resume it with its own settings, or train into another folder"
        )


_ABSENT = "not there"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """{"stage2": {"rows": {"t2m": 4}}} -> {"stage2.rows.t2m": 4}."""
    if not isinstance(value, dict | list | tuple):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    flat: dict[str, Any] = {}
    for key, each in items:
        flat |= _flat(each, f"{name}.{key}" if name else str(key))
    return flat


@contextlib.contextmanager
def _told(what: str, advice: str) -> Iterator[None]:
    """One line for errors of Orbax, TensorStore and JSON, each of which has types of its own."""
    try:
        yield
    except jax.errors.JaxRuntimeError:  # devices without memory are no fault of the disk
        raise
    except Exception as error:
        # TensorStore's go from what was done to the cause, and on to all settings, in brackets.
        reason = " ".join(str(error).partition(" [")[0].split()) or type(error).__name__
        reason = reason if len(reason) < 160 else f"... {reason[-150:]}"
        raise InputError(f"{what} ({reason}); {advice}") from error


_report_unraisable = sys.unraisablehook


def _without_closed_loops(found: Any) -> None:
    # Where one array fails, TensorStore tells of the end of each of the others, in its own time.
    if str(found.exc_value) != "Event loop is closed":
        _report_unraisable(found)


@contextlib.contextmanager
def checkpoints(folder: str | Path, *, keep_last: int = 2, keep_best: int = 0) -> Iterator[Checkpoints]:
    """`Checkpoints` that are closed when the block ends."""
    manager = Checkpoints(folder, keep_last=keep_last, keep_best=keep_best)
    try:
        yield manager
    finally:
        manager.close()


def _as_dict(state: TrainState) -> dict[str, Any]:
    # Optimizer states nest named tuples whose classes come and go with optax versions: leaves by number do not.
    leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(state.opt_state))}
    named = {"step": state.step, "params": dict(state.params), "opt_state": leaves}
    guard = {field.name: getattr(state.guard, field.name) for field in dataclasses.fields(state.guard)}
    return named | {"guard": guard} | ({"ema": dict(state.ema)} if state.ema else {})
