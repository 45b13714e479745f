"""What commands that train share: where they run, what they leave, and how several processes find each other."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax

from experiments.recipes import identity, told, with_recipe
from llamo_jax import commands, hosts, remote
from llamo_jax.commands import Command, require_seed
from llamo_jax.files import read_json
from llamo_jax.remote import AnyPath
from llamo_jax.training.checkpoint import require_same
from llamo_jax.training.loop import Record
from llamo_jax.training.metrics import MetricsLog


@dataclasses.dataclass(frozen=True)
class Traces:
    """Where a run leaves its traces, stage by stage.

    Attributes:
      out: folder of the run; may be a remote one.
      profile: whether a trace of a few steps of each stage is written.
      wandb: project of Weights & Biases that figures are sent to as well; None for none.
      recipe: what makes the run what it is, as JSON, which is kept in `out` once it trains.
      recipe_name: of its file.
    """

    out: AnyPath
    profile: bool = False
    wandb: str | None = None
    recipe: dict[str, Any] | None = None
    recipe_name: str = "recipe.json"

    @property
    def recipe_file(self) -> AnyPath:
        """Where the recipe is kept."""
        return self.out / self.recipe_name

    def require_recipe(self) -> None:
        """Raises InputError, with what differs, where the folder holds a run with another recipe."""
        if self.recipe_file.exists():
            require_same(read_json(self.recipe_file), self.recipe, str(self.recipe_file))

    @contextlib.contextmanager
    def record(self, stage: str, settings: dict[str, Any]) -> Iterator[Record]:
        """The record of a stage with these settings. Process 0 alone writes the log."""
        with contextlib.ExitStack() as stack:
            log = saved = None
            if hosts.is_first():
                if self.recipe is not None and not self.recipe_file.exists():
                    with remote.published(self.recipe_file) as temporary:
                        temporary.write_text(json.dumps(self.recipe, indent=2) + "\n", encoding="utf-8")
                mirror = stack.enter_context(remote.Mirror(self.out, "metrics.jsonl"))
                log = stack.enter_context(
                    MetricsLog(mirror.folder, name=str(self.out), wandb=self.wandb, settings=settings)
                )
                saved = mirror.try_to_flush
            profile = str(self.out / "profile" / stage) if self.profile else None
            yield Record(log, self.out / "checkpoints" / stage, settings, profile, saved)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running(Command):
    """Base of commands that train."""

    out: AnyPath
    """Folder of the run. A run that is there already is continued, and refused where its recipe differs."""
    seed: int = 0
    """Of initial weights, batches and noise."""
    profile: bool = False
    """Write a trace of five steps of each stage into the folder profile, for TensorBoard and Perfetto."""
    wandb: str | None = None
    """Send figures to this project of Weights & Biases too; needs the package wandb."""
    compilation_cache: str | None = None
    """Folder of compiled programs: a run that starts again compiles nothing twice. May be a remote one."""
    coordinator: str | None = None
    """Of several processes that neither Cloud TPU nor Slurm started: address of process 0, as 10.0.0.1:1234."""
    num_processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Number of this one."""

    recipe_name: ClassVar[str] = "recipe.json"
    """Of the file in the run's folder; several commands may share a folder."""
    recipe: Any

    def traces(self) -> Traces:
        """Prints the effective recipe; where this run leaves its traces.

        Raises:
          InputError: a run with another recipe is there.
        """
        say(told(self.recipe))
        kept = {"recipe": identity(self.recipe), "seed": self.seed}
        traces = Traces(self.out, self.profile, self.wandb, kept, self.recipe_name)
        traces.require_recipe()
        return traces

    def start(self) -> None:
        """Joins the other processes. First of all."""
        require_seed(self.seed)
        remote.require_reachable(self.out)
        if self.compilation_cache:
            jax.config.update("jax_compilation_cache_dir", self.compilation_cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
        hosts.start(self.coordinator, self.num_processes, self.process_id)


def say(text: str) -> None:
    """Prints, once for all processes."""
    if hosts.is_first():
        print(text, flush=True)


def writable(folder: AnyPath) -> contextlib.AbstractContextManager[Path]:
    """A folder that something writes whole by itself: the path, or one of this machine that is copied to it."""
    return remote.published(folder, directory=True) if remote.is_remote(folder) else contextlib.nullcontext(folder)


def main(command: type[Running], recipes: Mapping[str, Any], prog: str) -> None:
    """Reads the command line, whose first word names the recipe, and runs the command."""
    commands.main(lambda: with_recipe(command, recipes, prog))
