"""`ldarnet evaluate-variants`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ldarnet.errors import UserError


def evaluate_variants(
    scored: Annotated[
        Path, typer.Argument(metavar="TABLE", help="Table (.parquet, .tsv, .csv) with chrom, labels and scores.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for evaluation.md and evaluation.json.")],
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column with the labels.")] = "label",
    positive: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Label of positives; may be repeated. Default: 1, pathogenic, LOF."),
    ] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Label of negatives; may be repeated. Default: 0, benign, FUNC."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with matched groups. Default: no groups.")
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Score; -COLUMN ranks low values first, abs(COLUMN) by magnitude; may be repeated. Default: all.",
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, metavar="N", help="Bootstrap resamples of groups.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the resamples.")] = 0,
) -> None:
    """Evaluate variant scores on labeled variants: AUROC and AUPRC, overall and by chromosome."""
    from ldarnet.console import busy
    from ldarnet.extras import optional_imports
    from ldarnet.genomics.variants import evaluation
    from ldarnet.genomics.variants.table import SUFFIXES, is_table, read_table
    from ldarnet.io.files import atomic_path, make_folder, write_json_atomic
    from ldarnet.version import __version__

    with optional_imports("ldarnet evaluate-variants"):
        import sklearn  # noqa: F401
    if not is_table(scored):
        raise UserError(f"{scored}: unknown format; choose a file that ends with one of {', '.join(SUFFIXES)}")
    rows, numbers = read_table(scored)
    labeled = evaluation.read_labels(
        scored, rows, numbers, label, positive=positive or (), negative=negative or (), group=group
    )
    scores = score or evaluation.default_scores(rows)
    if not scores:
        raise UserError(f"{scored}: no column of ldarnet score-variants; choose a column with --score")
    with busy("evaluating"):
        results = evaluation.evaluate(scored, rows, labeled, scores, resamples=resamples, seed=seed)
    settings = {
        "table": scored.name,
        "positives": int(labeled.labels.sum()),
        "negatives": int((~labeled.labels).sum()),
        "rows with another label": labeled.dropped,
        "groups": int(labeled.groups.max()) + 1,
        "resamples": resamples,
        "seed": seed,
        "ldarnet": __version__,
    }
    text = evaluation.report(results, settings)
    make_folder(out)
    write_json_atomic(out / "evaluation.json", evaluation.as_json(results, settings), indent=2)
    with atomic_path(out / "evaluation.md") as partial:
        partial.write_text(text, encoding="utf-8")
    print(text, end="")
    print(f"\nwrote {out}: evaluation.md, evaluation.json")
