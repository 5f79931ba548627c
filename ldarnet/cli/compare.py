"""`ldarnet compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ldarnet.console import percent_bar
from ldarnet.errors import UserError


def compare(
    arms: Annotated[
        list[str], typer.Argument(metavar="NAME=FOLDER", help="Name of an arm, and folder with its fine-tuning runs.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for results.md, results.csv and results.png.")],
) -> None:
    """Compare fine-tuning runs with each other and with published results; write a report, a table and a figure."""
    from ldarnet.comparison.compare import find_results, write_comparison

    folders: dict[str, Path] = {}
    for arm in arms:
        name, separator, folder = arm.partition("=")
        if not (name and separator and folder) or name in folders:
            raise UserError(f"{arm}: not NAME=FOLDER, or a duplicate name; give each arm once, as NAME=FOLDER")
        folders[name] = Path(folder)
    results = {name: find_results(folder) for name, folder in folders.items()}
    with percent_bar("comparing", 2 * sum(map(len, results.values()))) as advance:
        write_comparison(results, out, advance=advance)
    print(f"wrote {out / 'results.md'}, {out / 'results.csv'} and {out / 'results.png'}")
