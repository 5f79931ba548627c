"""Console output of all commands: plain lines, progress bars on a terminal, numbers in readable units."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import StringIO
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from ldarnet.printable import printable_lines

REFRESH_SECONDS = 0.1


class PlainConsole(Console):
    """A rich console that replaces control characters in plain strings with visible escapes, also in table cells.

    Otherwise, names in untrusted files could send escape sequences to the terminal.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to rich text, and replace its control characters with visible escapes."""
        return super().render_str(printable_lines(text), **options)


def make_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """Create a console that escapes control characters, and neither wraps lines nor interprets markup."""
    return PlainConsole(quiet=quiet, stderr=stderr, highlight=False, markup=False, soft_wrap=True)


def render_lines(content: RenderableType, width: int) -> list[str]:
    """Render a table or other rich content as plain text, at most `width` characters wide, without trailing spaces."""
    console = PlainConsole(file=StringIO(), width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as printed:
        console.print(content)
    return [line.rstrip() for line in printed.get().splitlines()]


def progress_bar(console: Console, *columns: ProgressColumn, transient: bool = False, thread: bool = True) -> Progress:
    """Create a progress bar, which is shown only if `console` is a terminal and not quiet.

    Args:
        console: console to draw the bar on.
        columns: columns of the bar, left to right.
        transient: whether to erase the bar at the end.
        thread: whether a thread redraws the bar. If False, the caller must call `refresh`. Use False if the process
            forks.
    """
    shown = console.is_terminal and not console.quiet
    return Progress(*columns, console=console, transient=transient, auto_refresh=thread, disable=not shown)


@contextmanager
def percent_bar(
    description: str, total: int, *, quiet: bool = False, delay: float = 0.0
) -> Iterator[Callable[[int], None]]:
    """Show a percentage bar if stderr is a terminal; yield a function that advances the bar.

    No thread redraws the bar, so the process may fork.

    Args:
        description: text before the bar.
        total: amount at 100%.
        quiet: if True, the bar is not shown.
        delay: seconds before the bar appears. Work that ends earlier shows no bar.
    """
    columns = (TextColumn(description), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    bar = progress_bar(make_console(quiet=quiet, stderr=True), *columns, transient=True, thread=False)
    task, throttle, waiting = bar.add_task("", total=total), Throttle(REFRESH_SECONDS), Throttle(delay)

    def advance(amount: int) -> None:
        bar.advance(task, amount)
        if not bar.live.is_started:
            if waiting.ready():
                bar.start()
        elif throttle.ready():
            bar.refresh()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def busy(description: str) -> Iterator[None]:
    """Show a spinner inside the block if stderr is a terminal."""
    console = make_console(stderr=True)
    with console.status(description) if console.is_terminal else nullcontext():
        yield


class Throttle:
    """Limits how often something is printed or redrawn."""

    def __init__(self, seconds: float) -> None:
        """Set the interval to `seconds`, and start the first interval now."""
        self._seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Restart the interval."""
        self._last = time.monotonic()

    def ready(self, *, force: bool = False) -> bool:
        """Return whether the interval has passed or `force` is set; if so, restart the interval."""
        if not force and time.monotonic() - self._last < self._seconds:
            return False
        self.reset()
        return True


class Printer:
    """Prints lines. Inside its `with` block, a terminal also shows a live display, which stays below the lines.

    Attributes:
        console: console to print to.
        on_terminal: whether the live display is shown.
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

    def info(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print one line in yellow, prefixed with `warning:`."""
        self.console.print(f"warning: {text}", markup=False, style="yellow")


def format_count(count: int, noun: str) -> str:
    """Format a count with its noun, whose plural ends in `s`: `1 fold`, `1,024 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_chunks(bases_per_chunk: Sequence[float]) -> str:
    """Format the bases per chunk of each stage, as `  bases/chunk 3.10/2.95`; return "" for a model without chunks."""
    values = "/".join(f"{value:.2f}" for value in bases_per_chunk)
    return f"  bases/chunk {values}" if values else ""


def format_speed(bases_per_second: float) -> str:
    """Format throughput with an SI prefix, such as `1.2 Mbases/s`."""
    return format_si(bases_per_second, "bases/s")


def format_si(value: float, unit: str) -> str:
    """Format a number with an SI prefix, such as `12.3 kB`."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def format_duration(seconds: float) -> str:
    """Format seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
