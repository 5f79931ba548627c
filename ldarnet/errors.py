"""The one exception for mistakes that a user can mend."""


class UserError(ValueError):
    """A one-line message that names the file, the place in it and the remedy.

    Programs print it as ``error: ...`` without a traceback and exit with status 1.
    """
