"""What programs print: lines above something live on a terminal, and numbers in readable units."""

import sys
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import Progress


def console_of(shown: bool) -> Console:
    """A console that does not break lines; a silent one for a rank that may not print."""
    return Console(quiet=not shown, highlight=False, soft_wrap=True)


class Printer:
    """Prints lines, above something live inside its `with` block where there is a terminal.

    Args:
        console: to print on.
        live: what is shown there.

    Attributes:
        console: to print on.
        on_terminal: whether `live` is shown.
    """

    def __init__(self, console: Console, live: Live | Progress) -> None:
        self.console, self._live = console, live
        self.on_terminal = console.is_terminal and not console.quiet

    def __enter__(self) -> Self:
        if self.on_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print one line, above what is live."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print one line that should not be overlooked."""
        self.console.print(f"warning: {text}", markup=False, style="yellow")


def chunks(bases_per_chunk: Sequence[float]) -> str:
    """Bases per chunk by stage; nothing for a model without chunks."""
    values = "/".join(f"{value:.2f}" for value in bases_per_chunk)
    return f"  bases/chunk {values}" if values else ""


def speed(bases_per_second: float) -> str:
    """Bases per second in a readable unit."""
    return scaled(bases_per_second, "bases/s")


def scaled(value: float, unit: str) -> str:
    """A number in thousands, millions or more of its unit, such as `12.3 kB`."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
