"""Checkpoints of a run: state, data position and config, saved and restored together (Orbax)."""

import contextlib
import logging
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
        # Orbax and absl log every save at INFO and every optional dependency as a warning.
        logging.getLogger("absl").setLevel(logging.ERROR)
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: DataIterator, config: dict[str, Any], seconds: float) -> None:
        """Saves in the background; a save in progress is finished first. A step that is saved already is left as it is.

        `seconds` is the time that the stage has trained so far, which counts towards its limit after a resume too.
        """
        if (step := int(state.step)) == self.latest_step:
            return
        items = {
            "state": ocp.args.StandardSave(_as_dict(state)),
            "data": ocp.args.JsonSave({"iterator": data.get_state(), "seconds": seconds}),
            "config": ocp.args.JsonSave(config),
        }
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, target: TrainState, data: DataIterator, config: dict[str, Any]) -> tuple[TrainState, float]:
        """The newest state, on any mesh, and the seconds trained; sets `data` to the position it had.

        Args:
          target: shapes, types and shardings of the state (`TrainState.abstract`).
          data: whose position is set.
          config: what was saved with the state must be equal.

        Raises:
          InputError: the checkpoint belongs to another config.
        """
        step = self.latest_step
        items = {"config": ocp.args.JsonRestore()}
        saved = self._manager.restore(step, args=ocp.args.Composite(**items))["config"]
        if saved != config:
            different = sorted(key for key in saved.keys() | config.keys() if saved.get(key) != config.get(key))
            raise InputError(
                f"{self._manager.directory}: holds a run with other settings ({', '.join(different)} differ); "
                "resume it with its own settings, or train into another folder"
            )
        items = {"state": ocp.args.StandardRestore(_as_dict(target)), "data": ocp.args.JsonRestore()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        data.set_state(restored["data"]["iterator"])
        state = restored["state"]
        structure = jax.tree.structure(target.opt_state)
        leaves = [state["opt_state"][str(index)] for index in range(structure.num_leaves)]
        opt_state = jax.tree.unflatten(structure, leaves)
        return TrainState(state["step"], state["params"], opt_state), restored["data"]["seconds"]

    def close(self) -> None:
        """Waits for a save in progress."""
        self._manager.close()


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
