"""Credentials in URLs: find them, and remove them from text that is printed or stored."""

import re
from urllib.parse import unquote_plus

CREDENTIALS_HINT = (
    "pass credentials in the environment or in files instead: AWS_* variables or ~/.aws for s3, ~/.netrc for http and "
    "https, FSSPEC_<PROTOCOL>_<OPTION> for other protocols"
)
"""How to pass credentials without writing them into a URL."""

# User information ends at the last @ before the path. Some libraries also accept a password that contains a slash, so
# a colon that is not followed by a port number starts a password, too. `Path` turns :// into :/.
_USER = re.compile(r":(//?)(?:([^/?#\s]*)@|([^/?#\s:@\[]*:(?!\d+(?:[/?#\s]|$))[^\s'\"]*)@)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}$")
_PARAMETER = re.compile(r"(?<=[?&#;])([^?&#;=\s]{1,100})=([^&#;\s'\"<>)\]]+)")
_SECRET_NAME = re.compile(
    r"sig$|signature|token(?!iz)|secret|passw|pwd|credential|jwt|hmac|authorization|(^|[-_.])auth$"
    r"|(^|[-_.]|api|access|account|pair)[-_]?key([-_]?(pair)?[-_]?id)?$"
)
_MASK = "***"

_USER_IS_PUBLIC = {"sftp", "ssh", "hdfs", "webhdfs", "smb", "abfs", "abfss", "wasb", "wasbs", "az", "oci", "hf"}
"""Schemes whose URLs need the name of a user or container, which is no secret without a password."""
_NO_USER = {"github", "git"}
"""fsspec schemes in whose URLs the text before @ names a repository."""


def redact(text: str) -> str:
    """Remove user names and passwords from the URLs in a text, and mask the values of secret query parameters.

    A user name without a password is kept for protocols whose URLs need a user name, such as sftp.
    """

    def user(match: re.Match[str]) -> str:
        found = _SCHEME.search(text, max(match.start() - 41, 0), match.start())
        scheme, name = found[0].lower() if found else "", match[2] if match[2] is not None else match[3]
        needs_name = scheme in _USER_IS_PUBLIC or (match[1] == "/" and not scheme.startswith("http"))
        public = scheme in _NO_USER or (needs_name and ":" not in name)
        return match[0] if public else f":{match[1]}"

    def parameter(match: re.Match[str]) -> str:
        is_secret = _SECRET_NAME.search(unquote_plus(match[1]).lower())
        return f"{match[1]}={_MASK}" if is_secret else match[0]

    return _PARAMETER.sub(parameter, _USER.sub(user, text))


def has_credentials(text: str) -> bool:
    """Whether a text contains a URL with a password, a token or a signature."""
    joined = "".join(text.split())
    return redact(joined) != joined
