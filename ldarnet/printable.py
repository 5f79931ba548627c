"""Text from untrusted files, made safe to print and to draw."""

MAX_LABEL_CHARS = 60


def printable(text: str) -> str:
    """Replace control characters, such as terminal escape sequences, with visible escapes; keep everything else.

    Newlines and tabs are replaced too.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> str:
    """Apply `printable` to each line of a text."""
    return "\n".join(map(printable, text.split("\n")))


def figure_label(name: str) -> str:
    """Make a name safe to draw with matplotlib: on one line, cut to 60 characters, and visible in legends.

    A name that starts with ``_`` gets a leading space, because legends omit labels that start with ``_``. The caller
    must turn off ``text.parse_math``, so that ``$`` is drawn as it is.
    """
    text = printable(name)
    if len(text) > MAX_LABEL_CHARS:
        text = text[: MAX_LABEL_CHARS - 1] + "…"
    return f" {text}" if text.startswith("_") else text
