"""Checkpoints of a run: state, data position and config, saved and restored together (Orbax)."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import orbax.checkpoint as ocp

from llamo_jax.errors import InputError
from llamo_jax.training.step import TrainState


class DataIterator(Protocol):
    """An iterator over batches whose position can be saved (Grain's are)."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


class Checkpoints:
    """The checkpoints of one stage, the newest two, in a folder of their own."""

    def __init__(self, folder: str | Path):
        # Orbax logs every save at INFO, every optional dependency as a warning, and what it raises as an error.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        sys.unraisablehook = _without_closed_loops
        # What a run that was killed while it saved has left goes.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, create=True, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._folder = Path(folder).absolute()
        with self._saving():
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: DataIterator, config: dict[str, Any], seconds: float) -> None:
        """Saves in the background; a save in progress is finished first. A step that is saved already is left as it is.

        `seconds` is the time that the stage has trained so far, which counts towards its limit after a resume too.

        Raises:
          InputError: this one, or the one in progress, cannot be saved.
        """
        if (step := int(state.step)) == self.latest_step:
            return
        items = {
            "state": ocp.args.StandardSave(_as_dict(state)),
            "data": ocp.args.JsonSave({"iterator": data.get_state(), "seconds": seconds}),
            "config": ocp.args.JsonSave(config),
        }
        with self._saving():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, target: TrainState, data: DataIterator, config: dict[str, Any]) -> tuple[TrainState, float]:
        """The newest state, on any mesh, and the seconds trained; sets `data` to the position it had.

        Args:
          target: shapes, types and shardings of the state (`TrainState.abstract`).
          data: whose position is set.
          config: what was saved with the state must be equal.

        Raises:
          InputError: the checkpoint belongs to another config, or is damaged.
        """
        saved = self._read(config=ocp.args.JsonRestore())["config"]
        if saved != config:
            different = sorted(key for key in saved.keys() | config.keys() if saved.get(key) != config.get(key))
            raise InputError(
                f"{self._folder}: holds a run with other settings ({', '.join(different)} differ); "
                "resume it with its own settings, or train into another folder"
            )
        restored = self._read(state=ocp.args.StandardRestore(_as_dict(target)), data=ocp.args.JsonRestore())
        data.set_state(restored["data"]["iterator"])
        state = restored["state"]
        structure = jax.tree.structure(target.opt_state)
        leaves = [state["opt_state"][str(index)] for index in range(structure.num_leaves)]
        opt_state = jax.tree.unflatten(structure, leaves)
        return TrainState(state["step"], state["params"], opt_state), restored["data"]["seconds"]

    def close(self) -> None:
        """Waits for a save in progress. Raises InputError where that fails."""
        with self._saving():
            self._manager.close()

    def _read(self, **items: Any) -> Any:
        """Items of the newest checkpoint."""
        step = self.latest_step
        advice = "move this folder away: the run then goes on from the one before it, or anew where there is none"
        with _told(f"{self._folder / str(step)}: damaged checkpoint", advice):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """One line for what fails, and no half of a checkpoint left."""
        try:
            with _told(f"{self._folder}: no checkpoint can be written", "make room, and run the same command again"):
                yield
        except InputError:
            for half in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(half, ignore_errors=True)
            raise


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
def checkpoints(folder: str | Path) -> Iterator[Checkpoints]:
    """`Checkpoints` that are closed when the block ends."""
    manager = Checkpoints(folder)
    try:
        yield manager
    finally:
        manager.close()


def _as_dict(state: TrainState) -> dict[str, Any]:
    # Optimizer states nest named tuples whose classes come and go with optax versions: leaves by number do not.
    leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(state.opt_state))}
    return {"step": state.step, "params": dict(state.params), "opt_state": leaves}
