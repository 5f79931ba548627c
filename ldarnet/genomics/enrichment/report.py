"""Files of an enrichment study: tables, figure and report."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldarnet.genome.annotation import Transcript
from ldarnet.genomics.enrichment.classes import ClassRow, class_rows
from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.fragmentation import FragmentationRow, fragmentation_rows
from ldarnet.genomics.enrichment.nulls import NULLS
from ldarnet.genomics.enrichment.nulls.base import NullContext
from ldarnet.genomics.enrichment.robustness import RobustnessRow
from ldarnet.genomics.enrichment.study import EnrichmentRow, ProfileRow, enrichment_rows, kmer_r2, profile_rows
from ldarnet.interpret.figures import FAINT, INK, MUTED, STAGE_COLORS, png_figure
from ldarnet.io.files import atomic_path
from ldarnet.markdown import escape, table
from ldarnet.printable import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ldarnet.tokenization.base import Tokenization

ROBUSTNESS = "robustness.csv"
ENRICHMENT, PROFILES, CLASSES, FRAGMENTATION, REPORT, FIGURE = (
    "enrichment.csv",
    "profiles.csv",
    "classes.csv",
    "fragmentation.csv",
    "report.md",
    "profiles.png",
)
COLUMNS = 3
MAX_PANELS = 24
"""Kinds in the figure; the tables have all of them."""


def write_rows(path: Path, kind: type, rows: Sequence[Any]) -> None:
    """Write dataclass instances as CSV, one column per field; NaN becomes an empty cell, numbers have six digits."""
    names = [field.name for field in fields(kind)]
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            values = asdict(row)
            writer.writerow([_cell(values[name]) for name in names])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def draw_profiles(path: Path, rows: Sequence[ProfileRow]) -> None:
    """Plot mean boundary probability by offset, one panel per kind, with its interval and the mean at matched loci."""
    kinds = list(dict.fromkeys(row.feature for row in rows))[:MAX_PANELS]
    columns = min(COLUMNS, len(kinds))
    lines = math.ceil(len(kinds) / columns)
    with png_figure(path, 3.4 * columns + 0.4, 2.4 * lines + 0.6) as figure:
        panels = figure.subplots(lines, columns, squeeze=False)
        for axes in panels.ravel()[len(kinds) :]:
            axes.set_axis_off()
        for kind, axes in zip(kinds, panels.ravel(), strict=False):
            _draw_panel(axes, kind, [row for row in rows if row.feature == kind])
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)


def _draw_panel(axes: Axes, kind: str, rows: Sequence[ProfileRow]) -> None:
    offset = np.array([row.offset for row in rows])
    mean, low, high, matched = (
        np.array([getattr(row, name) for row in rows])
        for name in ("probability", "probability_low", "probability_high", "matched")
    )
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.fill_between(offset, low, high, color=STAGE_COLORS[0], alpha=0.25, linewidth=0, label="95% interval")
    axes.plot(offset, mean, color=STAGE_COLORS[0], linewidth=1.2, label="at the feature")
    axes.plot(offset, matched, color=MUTED, linewidth=1.0, label="at matched loci")
    axes.set_title(f"{figure_label(kind)} (n = {max(row.n for row in rows):,})", color=INK)
    axes.set_xlabel("bases from the feature")
    axes.set_ylabel("boundary probability")


def report_text(
    facts: Mapping[str, str],
    rows: Sequence[EnrichmentRow],
    r2: Mapping[int, float],
    notes: Sequence[str],
) -> str:
    """Report in Markdown.

    Args:
        facts: name -> value: model, genome and settings.
        rows: the comparisons.
        r2: k -> share of the variance that k-mers explain.
        notes: remarks, such as kinds that were not compared.
    """
    alpha = 0.05
    kinds = list(dict.fromkeys(row.feature for row in rows))
    parts = [
        "# Boundaries at features\n",
        table(("", ""), [(escape(k), escape(v)) for k, v in facts.items()], align_right=False),
    ]
    parts += ["\n" + "\n".join(f"- {note}" for note in notes)] if notes else []
    parts.append(
        "\n## Effects\n\nDifference between the mean at the loci and the mean under each null model, with its 95% "
        "interval (bootstrap over blocks of the contigs). Bold: q below 0.05. Boundaries that follow composition or "
        "local sequence are enriched too: only features with an effect under every null model are more than that.\n"
    )
    by_key = {(row.feature, row.null): row for row in rows}
    body = [[escape(kind), *(_effect(by_key[kind, null], alpha) for null in NULLS)] for kind in kinds]
    parts.append(table(("feature", *(null.replace("_", " ") for null in NULLS)), body))
    parts.append(f"\n![Profiles]({FIGURE})\n\nMean boundary probability by distance, in the direction of the strand.")
    parts.append("\n## Null models\n")
    parts.append(
        table(
            ("null model", "compared with"),
            [(n.replace("_", " "), w) for n, (_, w, _) in NULLS.items()],
            align_right=False,
        )
    )
    parts.append(
        "\n## Local sequence\n\nShare of the variance of the boundary probability that a linear regression on k-mers "
        "explains, on bases that it was not fitted to. The rest is longer context, or effects that are not additive.\n"
    )
    parts.append(table(("k", *map(str, r2)), [("share", *map(float, r2.values()))]))
    return "\n".join(parts) + "\n"


def _effect(row: EnrichmentRow, alpha: float) -> str:
    if math.isnan(row.effect):
        return "-"
    interval = "" if math.isnan(row.effect_low) else f" ({row.effect_low:+.4f} to {row.effect_high:+.4f})"
    effect = f"{row.effect:+.4f}"
    return (f"**{effect}**" if row.q < alpha else effect) + interval


def class_text(rows: Sequence[ClassRow]) -> str:
    """Section of the report on chunk lengths by class."""
    header = (
        "class",
        "bases",
        "bases per chunk",
        "95% interval",
        "boundary probability",
        "predicted from k-mers",
        "GC",
    )
    body = [
        (
            row.region,
            f"{row.bases:,}",
            f"{row.bases_per_chunk:.2f}",
            "-" if math.isnan(row.low) else f"{row.low:.2f} to {row.high:.2f}",
            row.probability,
            row.kmers,
            row.gc,
        )
        for row in rows
    ]
    return f"\n## Chunk length by class of bases\n\nClasses may overlap.\n\n{table(header, body)}\n"


def fragmentation_text(rows: Sequence[FragmentationRow]) -> str:
    """Section of the report on the chunks of elements; empty without elements."""
    if not rows:
        return ""
    header = ("feature", "tokens", "n", "bases", "chunks", "in random windows", "difference", "95% interval", "q")
    body = [
        (
            escape(row.feature),
            row.tokens,
            f"{row.n:,}",
            f"{row.bases:.1f}",
            f"{row.chunks:.2f}",
            f"{row.random:.2f}",
            f"{row.effect:+.2f}",
            "-" if math.isnan(row.effect_low) else f"{row.effect_low:+.2f} to {row.effect_high:+.2f}",
            row.q,
        )
        for row in rows
    ]
    text = (
        "Mean number of chunks or tokens that an element overlaps, and that random windows of the same length overlap."
    )
    return f"\n## Fragmentation of elements\n\n{text}\n\n{table(header, body)}\n"


def robustness_text(rows: Sequence[RobustnessRow]) -> str:
    """Section of the report on strands, edits and other models; empty without rows."""
    if not rows:
        return ""
    header = ("measure", "n", "value", "95% interval", "by chance")
    body = [
        (
            escape(row.measure),
            f"{row.n:,}",
            row.value,
            "-" if math.isnan(row.low) else f"{row.low:.4f} to {row.high:.4f}",
            row.chance,
        )
        for row in rows
    ]
    text = "Random windows of one strand. A Jaccard index of 1 means equal boundaries."
    return f"\n## Robustness\n\n{text}\n\n{table(header, body)}\n"


def write_study(
    out: Path,
    context: NullContext,
    kinds: Sequence[Loci],
    transcripts: Sequence[Transcript],
    bpe: Tokenization | None,
    robustness: Sequence[RobustnessRow],
    flank: int,
    facts: Mapping[str, str],
    notes: Sequence[str],
    advance: Callable[[str], None],
) -> list[str]:
    """Compute and write all files of a study; returns their names.

    Args:
        out: folder to write.
        context: inputs of the null models.
        kinds: loci of each kind.
        transcripts: transcripts of all annotations, for the classes of bases.
        bpe: byte-pair encoding to compare with.
        robustness: measures of robustness.
        flank: bases on both sides in profiles.
        facts: see `report_text`.
        notes: see `report_text`.
        advance: called with the name of each null model, before it is computed.
    """
    rows = enrichment_rows(context, kinds, advance)
    profiles = [row for loci in kinds for row in profile_rows(context, loci, flank)]
    r2 = kmer_r2(context)
    classes, fragments = class_rows(context, transcripts), fragmentation_rows(context, kinds, bpe)
    write_rows(out / ROBUSTNESS, RobustnessRow, robustness)
    write_rows(out / CLASSES, ClassRow, classes)
    write_rows(out / FRAGMENTATION, FragmentationRow, fragments)
    write_rows(out / ENRICHMENT, EnrichmentRow, rows)
    write_rows(out / PROFILES, ProfileRow, profiles)
    draw_profiles(out / FIGURE, profiles)
    text = report_text(facts, rows, r2, notes) + class_text(classes) + fragmentation_text(fragments)
    with atomic_path(out / REPORT) as partial:
        partial.write_text(text + robustness_text(robustness), encoding="utf-8")
    return [ENRICHMENT, PROFILES, CLASSES, FRAGMENTATION, ROBUSTNESS, FIGURE, REPORT]
