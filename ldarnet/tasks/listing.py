"""The output of `ldarnet tasks`."""

from collections.abc import Iterator
from itertools import groupby

from ldarnet.errors import UserError
from ldarnet.tasks.registry import Task, all_tasks

_HEADER = ("task", "train", "valid", "test", "bases", "classes", "metric", "lr", "batch", "leakage")


def list_tasks(suite: str | None = None) -> Iterator[str]:
    """Yield the lines of the listing: one table of tasks per suite, then notes on known leakage.

    Each table shows numbers of rows, sequence length, number of classes, metric, published settings and a reference
    to the note on leakage, such as `[1]`.

    Args:
        suite: abbreviation of the suite to list; None for all.

    Raises:
        UserError: the suite does not exist.
    """
    notes: dict[str, int] = {}
    known = [task for task in all_tasks().values() if suite in (None, task.short)]
    if not known:
        raise UserError(f"{suite}: no such suite; use nt, gb or gue, or omit it to list all")
    for _, group in groupby(known, key=lambda task: task.suite):
        tasks = list(group)
        first = tasks[0]
        revision = f" at {first.revision}" if first.revision and first.revision not in first.source else ""
        yield f"{first.suite} ({first.short}/...)"
        yield f"  source: {first.source}{revision}"
        yield f"  license: {first.license}"
        yield f"  source of lr and batch: {first.settings}"
        rows = [_HEADER, *(_cells(task, notes) for task in tasks)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, *cells in rows:
            numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            yield "  ".join(("", name.ljust(widths[0]), *numbers)).rstrip()
        yield ""
    yield "known train/test leakage:"
    for sentence, number in notes.items():
        yield f"  [{number}] {sentence}"


def _cells(task: Task, notes: dict[str, int]) -> tuple[str, ...]:
    shortest, longest = task.length
    return (
        task.name,
        *(f"{task.rows[split]:,}" if split in task.rows else "-" for split in ("train", "valid", "test")),
        f"{longest:,}" if shortest == longest else f"{shortest:,}-{longest:,}",
        str(len(task.classes)),
        task.metric,
        f"{task.lr:g}" if task.lr else "-",
        str(task.batch or "-"),
        f"[{notes.setdefault(task.leakage, len(notes) + 1)}]" if task.leakage else "-",
    )
