"""What all HTML pages share: panels, their figures, and the templates."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader

from ldarnet.errors import UserError
from ldarnet.interpret.figures import DOTS_PER_INCH, styled_figure
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path
from ldarnet.redaction import redact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, NARROW = 11.0, 5.4
"""Panel widths in inches."""

Data = TypeVar("Data")


@dataclass(frozen=True)
class Panel(Generic[Data]):
    """A figure of a page.

    Attributes:
        title: heading above the figure.
        note: caption below the heading.
        draw: draws the panel into a figure and returns None; if the panel has no data, returns the reason.
        wide: whether the panel spans the width of the page.
        height: height in inches.
        file: name of the PNG and SVG files without suffix, for pages that write them.
    """

    title: str
    note: str
    draw: Callable[[Figure, Data], str | None]
    wide: bool = False
    height: float = 2.7
    file: str = ""


@dataclass(frozen=True)
class Drawn:
    """An image of a page.

    Attributes:
        title: heading above the image.
        note: caption below the heading.
        content: the image, base64-encoded.
        wide: whether the image spans the width of the page.
        kind: its format, as in ``image/svg+xml``.
        file: see `Panel`.
    """

    title: str
    note: str
    content: str
    wide: bool = False
    kind: str = "svg+xml"
    file: str = ""


def draw_panels(panels: Sequence[Panel[Data]], data: Data, folder: Path | None = None) -> dict[str, Any]:
    """Draw panels.

    Args:
        panels: the panels.
        data: argument of their functions.
        folder: folder for PNG and SVG files; None to write none.

    Returns:
        A dict with two entries. `figures` lists the panels that have data, as `Drawn`. `empty` maps each reason for
        missing data to the titles of the panels without data.
    """
    figures: list[Drawn] = []
    empty: dict[str, list[str]] = {}
    for panel in panels:
        with styled_figure(WIDE if panel.wide else NARROW, panel.height) as figure:
            reason = panel.draw(figure, data) or (
                None if _has_values(figure) else "all values are missing or not finite"
            )
            if reason:
                empty.setdefault(reason, []).append(panel.title)
                continue
            svg = _svg(figure)
            if folder is not None:
                with atomic_path(folder / f"{panel.file}.svg") as partial:
                    partial.write_bytes(svg)
                with atomic_path(folder / f"{panel.file}.png") as partial:
                    figure.savefig(partial, format="png", dpi=DOTS_PER_INCH)
            content = base64.b64encode(svg).decode("ascii")
            figures.append(Drawn(panel.title, panel.note, content, panel.wide, file=panel.file))
    return {"figures": figures, "empty": empty}


def as_svg(figure: Figure) -> str:
    """Save a figure as base64-encoded SVG; call it inside `styled_figure`."""
    return base64.b64encode(_svg(figure)).decode("ascii")


def _svg(figure: Figure) -> bytes:
    text = io.BytesIO()
    figure.savefig(text, format="svg", dpi=DOTS_PER_INCH, metadata={"Date": None})
    return text.getvalue()


def _has_values(figure: Figure) -> bool:
    """Whether a figure shows a finite value."""
    return any(
        axes.images or axes.collections or any(np.isfinite(line.get_ydata(orig=False)).any() for line in axes.lines)
        for axes in figure.axes
    )


def number(value: float | None, digits: int) -> str:
    """Format a number; `-` if it is undefined (None)."""
    return "-" if value is None else f"{value:.{digits}f}"


def template(name: str) -> Any:
    """Load a template of this folder."""
    environment = Environment(
        loader=PackageLoader("ldarnet.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"yaml": _yaml, "number": number}
    return environment.get_template(name)


def _yaml(value: Any) -> str:
    """Format a configuration value as one line of YAML, with credentials redacted."""
    try:
        text = yaml.safe_dump(value, default_flow_style=True, width=1_000_000)
        return redact(text.removesuffix("...\n").strip())
    except (RecursionError, ValueError):
        raise UserError(f"{run_files.CONFIG}: a value is too large or nested too deeply; fix the file") from None


def format_time(seconds: float) -> str:
    """Format a time in seconds since the epoch, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
