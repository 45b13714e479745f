"""What a user got wrong: one exception type, and how commands tell it."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """A file, argument or configuration that cannot be used.

    The message is one line that says what was wrong, where, what was found, what was expected and what to do. The command line prints
    it without a traceback and exits with code 2; any other exception is a bug.
    """


def run_reporting_mistakes(run: Callable[[], object], *, debug: bool) -> None:
    """Calls `run`; a user's mistake becomes one line on standard error and exit code 2, or its traceback with `debug`."""
    try:
        run()
    except InputError as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
