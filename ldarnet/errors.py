"""Exceptions whose message is one line that tells the user what to fix."""


class UserError(ValueError):
    """An error that the user can fix: ``<what is wrong>: <where>; <what to do>``.

    Commands print it as ``error: ...`` without a traceback and exit with status 1.

    Attributes:
        local: True if only this rank has the error and must print it; otherwise all ranks raise the same error and
            rank 0 prints it.
    """

    local = False


class TransientError(UserError):
    """An error that may pass: commands exit with status 70, and the same command may succeed later."""
