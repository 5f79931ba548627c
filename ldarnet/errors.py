"""Exceptions whose one-line message tells the user what to fix."""


class UserError(ValueError):
    """An error that the user can fix: ``<what is wrong>: <where>; <what to do>``.

    Commands print it as ``error: ...`` without a traceback and exit with status 1.

    Attributes:
        local: True if the error may concern only this rank, which then prints it. If False, all ranks raise the same
            error and only rank 0 prints it.
    """

    local = False


class TransientError(UserError):
    """An error that may go away: commands exit with status 70, and the same command may succeed later."""
