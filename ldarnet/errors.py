"""Exceptions whose one-line message tells the user what to fix."""

from ldarnet.redaction import CREDENTIALS_HINT, has_credentials, redact


class UserError(ValueError):
    """An error that the user can fix: ``<what is wrong>: <where>; <what to do>``.

    Commands print it as ``error: ...`` without a traceback and exit with status 1. Credentials are removed from URLs in
    the message.

    Attributes:
        local: whether every rank that raises the error prints it. By default, only rank 0 prints errors. Set to True
            for an error that might not occur on rank 0.
    """

    local = False

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class TransientError(UserError):
    """An error that may go away: commands exit with status 70, and the same command may succeed later."""


def refuse_credentials(text: str, where: str) -> None:
    """Raise an error if a URL in the text contains credentials, because URLs are logged and stored.

    Args:
        text: text that may contain a URL.
        where: origin of the text. The error message states the origin, but does not quote the text.

    Raises:
        UserError: a URL contains a password, a token or a signature.
    """
    if has_credentials(text):
        raise UserError(f"{where}: the URL contains a password, token or signature; {CREDENTIALS_HINT}")
