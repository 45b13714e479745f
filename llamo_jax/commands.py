"""What all commands share: their options, their errors, their reports, and how they are stopped."""

import contextlib
import dataclasses
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import tyro

from llamo_jax.errors import InputError, MotionWarning
from llamo_jax.files import DISK_ERRORS, cannot_write, write_json


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
        main(lambda: read(cls, prog, arguments))


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


def require_seed(seed: int, least: int = 0) -> None:
    """Raises InputError where JAX cannot start from a seed; called before long work."""
    most = 2**63 - 1
    if not least <= seed <= most:
        raise InputError(f"--seed {seed}; expected a seed of {least} or more, and {most} at most")


def read(command: Any, prog: str, arguments: list[str] | None = None, description: str | None = None) -> Any:
    """A command, or one of a union of commands, from the command line."""
    return tyro.cli(command, prog=prog, args=arguments, description=description)


def main(read: Callable[[], Command]) -> None:
    """Reads a command and runs it; numbers that do not fit together are a mistake like any other."""
    try:
        command = read()
    except InputError as error:
        _leave(f"error: {error}", 2)
    run(command)


def run(command: Command) -> None:
    """Runs a command. A user's mistake becomes one line on standard error and exit code 2, or its traceback; being
    stopped by a signal one line, and 128 and its number, or `RESUMABLE`; a warning of a motion one line."""
    for stream in (sys.stdout, sys.stderr):
        # A locale without the letters of a caption or a path stops nobody.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with on_signals(_raise_stopped), warnings.catch_warnings():
            warnings.simplefilter("always", MotionWarning)
            warnings.showwarning = _show_warning
            command.run()
    except InputError as error:
        if command.debug:
            raise
        _leave(f"error: {error}", 2)
    except OSError as error:
        # Where nothing knows better: a full disk is told, not debugged.
        if command.debug or error.errno not in DISK_ERRORS:
            raise
        _leave(f"error: {cannot_write(error.filename or 'output', error.strerror)}", 2)
    except Stopped as stopped:
        _leave(str(stopped), stopped.code)


_default_showwarning = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    if issubclass(category, MotionWarning):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
    else:
        _default_showwarning(message, category, *where)


def _leave(line: str, code: int) -> None:
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(code)


class Stopped(KeyboardInterrupt):
    """A signal asked to stop. What waits for Ctrl-C to clean up, here and in libraries, does so for the others too.

    Attributes:
      number: of the signal.
      code: that the command exits with: 128 and the number, or `RESUMABLE`.
    """

    def __init__(self, number: int, where: str = "", *, code: int | None = None):
        super().__init__(f"stopped by {signal.Signals(number).name}{where}")
        self.number = number
        self.code = 128 + number if code is None else code


RESUMABLE = 75
"""Exit code of a run that was asked to end and has saved where it is: the same command goes on (EX_TEMPFAIL)."""


# Windows has no SIGHUP.
_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def on_signals(handler: Handler, *besides: int) -> Iterator[None]:
    """Has Ctrl-C, a request to end and a terminal that closes handled so in the block, but for the signals `besides`.

    Where a signal is ignored (`nohup`) it stays so, and outside of the main thread nothing changes.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _STOPPING if number not in besides}
    handled = [number for number, old in before.items() if old not in (signal.SIG_IGN, None)]
    try:
        for number in handled:
            signal.signal(number, handler)
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    del frame
    for other in _STOPPING:
        signal.signal(other, signal.SIG_IGN)  # cleaning up is short, and is not stopped halfway
    raise Stopped(number)


@contextlib.contextmanager
def stop_later(*besides: int) -> Iterator[Callable[[], int]]:
    """Holds a first signal back in the block, so that work ends where it can go on; a second one stops at once.

    Gives a function that says which signal came, or 0. Signals `besides` are left as they are.
    """
    came: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if came:
            _raise_stopped(number, frame)
        came.append(number)

    with on_signals(handler, *besides):
        yield lambda: came[0] if came else 0
