"""`ldarnet tasks`."""

from __future__ import annotations

from typing import Annotated

import typer


def tasks(
    suite: Annotated[str | None, typer.Argument(metavar="SUITE", help="nt, gb or gue. Default: all suites.")] = None,
) -> None:
    """List the fine-tuning tasks: rows, lengths, classes, metric, published settings, known leakage."""
    from ldarnet.tasks.listing import list_tasks

    print("\n".join(list_tasks(suite)))
