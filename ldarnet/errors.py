"""Exceptions whose one-line message tells the user what to fix."""

from ldarnet.redaction import CREDENTIALS_HINT, has_credentials, redact


class UserError(ValueError):
    """An error that the user can fix: ``<what is wrong>: <where>; <what to do>``.

    Commands print it as ``error: ...`` without a traceback and exit with status 1. Credentials in URLs are removed from
    the message, because it may quote URLs and the errors of libraries.

    Attributes:
        local: True if the error may concern only this rank, which then prints it. If False, all ranks raise the same
            error and only rank 0 prints it.
    """

    local = False

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class TransientError(UserError):
    """An error that may go away: commands exit with status 70, and the same command may succeed later."""


def refuse_credentials(text: str, where: str) -> None:
    """Refuse text with a URL that contains credentials: URLs are stored with runs and shard sets, and are logged.

    Args:
        text: text that may contain a URL.
        where: origin of the text, for the error message, which does not repeat the text.

    Raises:
        UserError: a URL contains a password, a token or a signature.
    """
    if has_credentials(text):
        raise UserError(f"{where}: the URL contains a password, token or signature; {CREDENTIALS_HINT}")
