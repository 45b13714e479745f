"""What a user got wrong: one exception type."""


class InputError(ValueError):
    """A file, argument or configuration that cannot be used.

    The message is one line that says what was wrong, where, what was found, what was expected and what to do. The
    command line prints it without a traceback and exits with code 2; any other exception is a bug.
    """


class MotionWarning(UserWarning):
    """Something about a motion that a person should know: how it was read where more than one way was possible, or that
    no body moves like that."""
