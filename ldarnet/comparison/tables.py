"""What the sections of a comparison share: tables in Markdown, cells, and the order of arms and tasks."""

from collections.abc import Sequence
from functools import partial

from ldarnet import markdown
from ldarnet.comparison.published import Number
from ldarnet.comparison.statistics import holm

AUTHORS = "LDARNet, its authors"
SUITES = {
    "nucleotide_transformer": "Nucleotide Transformer",
    "genomic_benchmarks": "Genomic Benchmarks",
    "gue": "GUE",
    "own": "Own tasks",
}


table = partial(markdown.table, align_right=False)


def cell(mean: tuple[float, float | None] | None, bold: bool = False) -> str:
    """A mean with what stands behind ±, if there is any."""
    if mean is None:
        return "-"
    value, half = mean
    text = f"{value:.3f}" if half is None else f"{value:.3f} ± {half:.3f}"
    return f"**{text}**" if bold else text


def with_holm(rows: list[list], columns: Sequence[int]) -> list[list]:
    """Rows with p as text and, behind each p, Holm's correction over the rows.

    Args:
        rows: cells; in `columns` a p, or None.
        columns: in ascending order.
    """
    corrected = {column: holm([row[column] for row in rows]) for column in columns}
    return [
        [
            text
            for place, content in enumerate(row)
            for text in ([_p(content), _p(corrected[place][number])] if place in columns else [content])
        ]
        for number, row in enumerate(rows)
    ]


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def named(number: Number) -> str:
    """A published model, and whose number it is if not its own authors'."""
    title = number.source.title
    if title.startswith("Best other"):
        return f"{number.model}, as LDARNet's authors say"
    title = title.partition(",")[0]
    return number.model if number.model.startswith(title) else f"{number.model}, in {title}"
