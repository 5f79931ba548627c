"""Exceptions that say in one line what a user can do."""


class UserError(ValueError):
    """A one-line message that names the file, the place in it and the remedy.

    Programs print it as ``error: ...`` without a traceback and exit with status 1.

    Attributes:
        own: whether this process tells it whichever rank it is; otherwise rank 0 tells it, and raises the same.
    """

    own = False


class TransientError(UserError):
    """A fault that may pass: training ends with status 70, and the same command may succeed later."""
