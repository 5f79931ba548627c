"""Tables, cells and labels shared by the sections of a comparison report."""

from collections.abc import Sequence
from functools import partial

from ldarnet import markdown
from ldarnet.comparison.published import PublishedResult
from ldarnet.comparison.statistics import holm

AUTHORS = "LDARNet (authors)"
SUITES = {
    "nucleotide_transformer": "Nucleotide Transformer",
    "genomic_benchmarks": "Genomic Benchmarks",
    "gue": "GUE",
    "own": "Own tasks",
}


table = partial(markdown.table, align_right=False)


def cell(mean: tuple[float, float | None] | None, bold: bool = False) -> str:
    """Format a mean with the half-width of its confidence interval, if any: `0.812 ± 0.013`; `-` without a mean."""
    if mean is None:
        return "-"
    value, half = mean
    text = f"{value:.3f}" if half is None else f"{value:.3f} ± {half:.3f}"
    return f"**{text}**" if bold else text


def with_holm(rows: list[list], columns: Sequence[int]) -> list[list]:
    """Format the p-values in some columns of a table, and insert a column of corrected p-values after each of them.

    Holm's correction is applied to each column separately, over all rows.

    Args:
        rows: table rows; cells in `columns` are p-values or None.
        columns: indices of the columns with p-values, ascending.
    """
    corrected = {column: holm([row[column] for row in rows]) for column in columns}
    return [
        [
            text
            for column, content in enumerate(row)
            for text in ([_p(content), _p(corrected[column][number])] if column in columns else [content])
        ]
        for number, row in enumerate(rows)
    ]


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def model_label(number: PublishedResult) -> str:
    """Name of a published model, with `, from <publication>` if the publication did not introduce the model."""
    title = number.source.title
    if title.startswith("Best other"):
        return f"{number.model}, from the LDARNet authors"
    title = title.partition(",")[0]
    return number.model if number.model.startswith(title) else f"{number.model}, from {title}"
