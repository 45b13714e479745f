"""What all commands share: their options, their errors and their reports."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

from llamo_jax.errors import InputError
from llamo_jax.files import write_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Base of all commands. The docstring of a command is its help, and its fields are its options."""

    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        """Does the work."""
        raise NotImplementedError

    @classmethod
    def main(cls, prog: str, arguments: list[str] | None = None) -> None:
        """Reads the command line and runs the command."""
        run(read(cls, prog, arguments))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reporting(Command):
    """A command that reports figures."""

    json: Path | None = None
    """Write the figures to this file too."""

    def report(self, text: str, figures: Any) -> None:
        """Prints a text, and writes the figures where they were asked for."""
        print(text)
        if self.json is not None:
            write_json(self.json, figures)
            print(f"figures -> {self.json}")


def read(command: Any, prog: str, arguments: list[str] | None = None, description: str | None = None) -> Any:
    """A command, or one of a union of commands, from the command line."""
    return tyro.cli(command, prog=prog, args=arguments, description=description)


def run(command: Command) -> None:
    """Runs a command. A user's mistake becomes one line on standard error and exit code 2, or its traceback."""
    try:
        command.run()
    except InputError as error:
        if command.debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
