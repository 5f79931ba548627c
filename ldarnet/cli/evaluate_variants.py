"""`ldarnet evaluate-variants`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldarnet.cli.score_variants import SetCache
from ldarnet.errors import UserError

if TYPE_CHECKING:
    import pyarrow

    from ldarnet.genomics.variants.evaluation import Labeled


def evaluate_variants(
    scored: Annotated[
        Path, typer.Argument(metavar="TABLE", help="Table (.parquet, .tsv, .csv) with chrom, labels and scores.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for evaluation.md and evaluation.json.")],
    published: Annotated[
        str | None,
        typer.Option(
            "--set", metavar="NAME", help="Published set whose labels and groups to use; see ldarnet variant-sets."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column with the labels. Default: label.")] = None,
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
    cache: SetCache = None,
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
    if published and (label or positive or negative or group):
        raise UserError(f"--set {published}: has its own labels; leave out --label, --positive, --negative and --group")
    rows, numbers = read_table(scored)
    if published:
        labeled, origin = _labels_of_set(scored, rows, numbers, published, cache)
    else:
        labeled = evaluation.read_labels(
            scored, rows, numbers, label or "label", positive=positive or (), negative=negative or (), group=group
        )
        origin = {"rows with another label": labeled.dropped}
    scores = score or evaluation.default_scores(rows)
    if not scores:
        raise UserError(f"{scored}: no column of ldarnet score-variants; choose a column with --score")
    with busy("evaluating"):
        results = evaluation.evaluate(scored, rows, labeled, scores, resamples=resamples, seed=seed)
    settings = {
        "table": scored.name,
        "positives": int(labeled.labels.sum()),
        "negatives": int((~labeled.labels).sum()),
        **origin,
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


def _labels_of_set(
    scored: Path, rows: pyarrow.Table, numbers: Sequence[int], name: str, cache: Path | None
) -> tuple[Labeled, dict[str, Any]]:
    """Labels of a published set for a table, and entries of the report about the set."""
    from ldarnet.genomics.variants.labeled import labels_of, open_set
    from ldarnet.genomics.variants.sets import find_set

    chosen = find_set(name)
    labeled, absent = labels_of(scored, rows, numbers, open_set(chosen, cache))
    return labeled, {
        "set": f"{chosen.name} ({chosen.source})",
        "variants of the set that are not in the table": absent,
        "rows that are not in the set": labeled.dropped,
    }
