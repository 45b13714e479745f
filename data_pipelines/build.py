"""Builds data folders: python -m data_pipelines.build NAME --out DIR [--source DIR] [options]."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Union

import tyro

from data_pipelines.builders import DATASETS
from data_pipelines.builders.dataset import Dataset, build
from data_pipelines.folder import MotionFolder
from llamo_jax.commands import Reporting, read, run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build(Reporting):
    """What the command of every data set takes beside the data set's own options."""

    kind: ClassVar[type[Dataset]]
    out: Path
    """Data folder to write."""
    workers: int = 2
    """Processes. The result does not depend on their number."""

    def run(self) -> None:
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self.kind)}
        folder = build(self.kind(**options), self.out, workers=self.workers)
        self.report(summary(folder), folder.manifest)


def _command(kind: type[Dataset]) -> type[Dataset]:
    """The command of a data set: its own fields and those of `Build`."""
    own, shared = ({field.name for field in dataclasses.fields(each)} for each in (kind, Build))
    if own & shared:
        raise TypeError(
            f"{kind.__name__}: options {sorted(own & shared)} are those of every data set; name them otherwise"
        )
    made = dataclasses.make_dataclass(kind.__name__, (), bases=(kind, Build), frozen=True, kw_only=True)
    made.__doc__, made.kind = kind.__doc__, kind
    return made


COMMANDS = Union[tuple(Annotated[_command(kind), tyro.conf.subcommand(kind.name)] for kind in DATASETS)]  # noqa: UP007


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit code 0, or 2 for a user's mistake, told in one line."""
    run(read(COMMANDS, "python -m data_pipelines.build", arguments, __doc__))


def summary(folder: MotionFolder) -> str:
    """What was written and what was left out, in a few lines."""
    manifest = folder.manifest
    lines = [
        f"{split:<12}{count:>7} motions {manifest['hours'][split]:8.2f} h   frames "
        f"{_lengths(manifest['lengths'][split])}"
        for split, count in manifest["records"].items()
    ]
    rejected = manifest.get("rejected", {})
    lines.append(
        f"left out    {sum(rejected.values()):>7}"
        + "".join(f"\n  {count} {reason}" for reason, count in rejected.items())
    )
    for reason, names in manifest.get("rejected_names", {}).items():
        lines += [f"    {reason}: {name}" for name in names[:5]]
    if notes := manifest.get("notes"):
        lines += [f"notes       {notes['count']:>7}", *(f"    {note}" for note in notes["first"][:5])]
    return "\n".join([*lines, f"-> {folder.path}"])


def _lengths(lengths: dict[str, int]) -> str:
    return f"{lengths['min']} to {lengths['max']}, median {lengths['median']}"


if __name__ == "__main__":
    main()
