"""Text from untrusted files, made safe to print."""


def printable(text: str) -> str:
    """Replace control characters, such as terminal escape sequences, with visible escapes; keep everything else.

    Newlines and tabs are replaced too.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
