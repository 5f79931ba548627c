"""Figures of an enrichment study: overview, features, lengths and elements; see also `logos` and `locus_views`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ldarnet.genomics.enrichment.features import GENE_FEATURES, Loci
from ldarnet.genomics.enrichment.lengths import chunks, lengths_by_class
from ldarnet.genomics.enrichment.nulls import NULLS
from ldarnet.genomics.enrichment.results import ALPHA, StudyResults
from ldarnet.genomics.enrichment.study import EnrichmentRow, ProfileRow
from ldarnet.interpret.boundaries import LOCUS
from ldarnet.interpret.figures import DASHED, FAINT, INK, MUTED, STAGE_COLORS, short_number
from ldarnet.printable import figure_label
from ldarnet.report.panels import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CHUNK = 32
"""Chunk length of the last bin of a histogram, in bases; this bin also counts longer chunks."""
MORE, FEWER = STAGE_COLORS[0], STAGE_COLORS[1]
"""Colors of features with more, and with fewer boundaries than expected."""
WIDE_RANGE = 8
"""Ratio of values from which on an axis is logarithmic."""
LIMIT = 1.0
"""Effect in standard deviations at which the colors of the overview saturate."""


def null_label(null: str) -> str:
    """Name of a null model in figures and tables."""
    return null.replace("_", " ")


def draw_overview(figure: Figure, results: StudyResults) -> str | None:
    """Draw the standardized effect of each kind against each null model."""
    kinds = [loci.name for loci in results.kinds]
    rows = [results.of_kind(kind) for kind in kinds]
    values = np.array([[row[null].standardized for null in NULLS] for row in rows], dtype=float)
    axes = figure.subplots()
    image = axes.imshow(values, cmap="RdBu", vmin=-LIMIT, vmax=LIMIT, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        row = rows[y][list(NULLS)[x]]
        if not math.isnan(row.effect):
            axes.text(
                x,
                y,
                f"{row.effect:+.3f}{' *' if row.q < ALPHA else ''}",
                ha="center",
                va="center",
                color="white" if abs(value) > 0.7 * LIMIT else INK,
            )
    axes.set_xticks(range(len(NULLS)), [null_label(null) for null in NULLS])
    axes.set_yticks(range(len(kinds)), [f"{figure_label(loci.name)} (n = {len(loci):,})" for loci in results.kinds])
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=14, extend="both", label="standard deviations")
    bar.outline.set_visible(False)
    return None


def draw_kind(figure: Figure, results: StudyResults, kind: str) -> str | None:
    """Draw the profile of a kind, and its effect against each null model."""
    left, right = figure.subplots(1, 2, width_ratios=(2, 1.2))
    _draw_profile(left, [row for row in results.profiles if row.feature == kind], _mean(results))
    _draw_effects(right, results.of_kind(kind))
    return None


def _mean(results: StudyResults) -> float:
    return float(np.nanmean(results.context.landscape.probability, dtype=np.float64))


def _draw_profile(axes: Axes, rows: Sequence[ProfileRow], mean: float) -> None:
    offset = np.array([row.offset for row in rows])
    values = {
        name: np.array([getattr(row, name) for row in rows], dtype=float)
        for name in ("probability", "probability_low", "probability_high", "matched")
    }
    axes.axvline(0, color=LOCUS, linewidth=1.0, label="the feature")
    low, high = values["probability_low"], values["probability_high"]
    axes.fill_between(offset, low, high, color=MORE, alpha=0.25, linewidth=0, label="95% interval")
    axes.plot(offset, values["probability"], color=MORE, linewidth=1.3, label="mean at the feature")
    axes.plot(offset, values["matched"], color=MUTED, linewidth=1.0, label="at matched loci (null)")
    axes.axhline(mean, color=INK, linewidth=0.9, linestyle=DASHED, label="all bases")
    axes.set_xlabel("bases from the feature; negative: before it (5')")
    axes.set_ylabel("boundary probability")
    _legend(axes, 5)


def _draw_effects(axes: Axes, rows: dict[str, EnrichmentRow]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axvline(0, color=INK, linewidth=0.9)
    for y, null in enumerate(NULLS):
        row = rows[null]
        if math.isnan(row.effect):
            continue
        color = MORE if row.effect > 0 else FEWER
        axes.plot([row.effect_low, row.effect_high], [y, y], color=color, linewidth=1.6)
        axes.plot(row.effect, y, "o", color=color, markersize=6, markerfacecolor=color if row.q < ALPHA else "white")
    axes.set_yticks(range(len(NULLS)), [null_label(null) for null in NULLS])
    axes.set_ylim(len(NULLS) - 0.5, -0.5)
    axes.set_xlabel("difference from the null model")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    handles = [
        axes.plot([], [], "o", color=MORE, label="more")[0],
        axes.plot([], [], "o", color=FEWER, label="fewer")[0],
        axes.plot([], [], "o", color=MUTED, markerfacecolor="white", label=f"q ≥ {ALPHA:g}")[0],
    ]
    _legend(axes, 3, handles=handles)


def _legend(axes: Axes, columns: int, **options: Any) -> None:
    """Place the legend above the axes; a wide one must not make the axes narrow."""
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.0, ncols=columns, **options
    )
    legend.set_in_layout(False)
    axes.set_title(" ")  # room for the legend


def draw_lengths(figure: Figure, results: StudyResults) -> str | None:
    """Draw the distribution of chunk lengths, with that of random boundaries; and by class of bases."""
    _, lengths = chunks(results.context.landscape)
    if not len(lengths):
        return "the regions have no chunks"
    left, right = figure.subplots(1, 2)
    x = np.arange(1, MAX_CHUNK + 1)
    left.bar(x, _shares(lengths), width=0.8, color=STAGE_COLORS[0], label="chunks of the model")
    rate = 1 / lengths.mean()
    geometric = rate * (1 - rate) ** (x - 1)
    geometric[-1] = (1 - rate) ** (MAX_CHUNK - 1)
    left.plot(x, geometric, color=MUTED, marker="o", markersize=2.5, linewidth=1.0, label="random boundaries (null)")
    left.axvline(lengths.mean(), color=INK, linewidth=0.9, linestyle=DASHED, label=f"mean, {lengths.mean():.2f} bases")
    left.set_ylabel("share of chunks")
    for number, (name, values) in enumerate(lengths_by_class(results.context.landscape, results.transcripts).items()):
        color = INK if name == "all" else COLORS[(number - 1) % len(COLORS)]
        longer = np.array([(values >= length).mean() for length in x])
        right.step(x, longer, where="mid", color=color, linewidth=1.2, label=f"{name} (n = {len(values):,})")
    right.set_ylabel("share of chunks at least as long")
    for axes in (left, right):
        axes.set_xlabel("chunk length (bases)")
        ticks = [1, *range(8, MAX_CHUNK, 8)]
        axes.set_xticks([*ticks, MAX_CHUNK], [*map(str, ticks), f"{MAX_CHUNK}+"])
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
    left.legend(loc="upper right")
    right.legend(loc="upper right")
    return None


def _shares(lengths: np.ndarray) -> np.ndarray:
    counts = np.bincount(np.minimum(lengths, MAX_CHUNK), minlength=MAX_CHUNK + 1)[1:]
    return counts / len(lengths)


def draw_classes(figure: Figure, results: StudyResults) -> str | None:
    """Draw the mean chunk length of each class of bases, with its interval."""
    axes = figure.subplots()
    for y, row in enumerate(results.classes):
        axes.plot([row.low, row.high], [y, y], color=STAGE_COLORS[0], linewidth=1.6)
        axes.plot(row.bases_per_chunk, y, "o", color=STAGE_COLORS[0], markersize=5)
    axes.axvline(results.classes[0].bases_per_chunk, color=MUTED, linewidth=0.9, linestyle=DASHED)
    axes.set_yticks(range(len(results.classes)), [f"{row.region} ({row.bases:,} bases)" for row in results.classes])
    axes.set_ylim(len(results.classes) - 0.5, -0.5)
    axes.set_xlabel("bases per chunk")
    means = [row.bases_per_chunk for row in results.classes if math.isfinite(row.bases_per_chunk)]
    if means and max(means) > WIDE_RANGE * min(means):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(short_number)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    return None


def draw_kmers(figure: Figure, results: StudyResults) -> str | None:
    """Draw the share of the variance of the boundary probability that k-mers explain."""
    axes = figure.subplots()
    values = np.nan_to_num([row.r2 for row in results.kmers])
    axes.bar([row.k for row in results.kmers], values, color=STAGE_COLORS[0], width=0.7)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_ylim(min(0.0, values.min()), 1)
    axes.set_xlabel("k-mers of up to k bases")
    axes.set_ylabel("explained share of the variance")
    return None


def draw_fragments(figure: Figure, results: StudyResults) -> str | None:
    """Draw the number of chunks that elements overlap, and that random windows of the same lengths overlap."""
    rows = results.fragments
    if not rows:
        return "no feature is an interval of at most 100 bases"
    axes = figure.subplots()
    for y, row in enumerate(rows):
        color = STAGE_COLORS[0] if row.tokens == "model" else MUTED
        axes.plot([row.random, row.chunks], [y, y], color=FAINT, linewidth=2, zorder=0)
        axes.plot(row.random, y, "|", color=INK, markersize=9, label="random windows (null)" if y == 0 else None)
        axes.plot(row.chunks, y, "o", color=color, markersize=6, label="elements" if y == 0 else None)
    axes.set_yticks(range(len(rows)), [f"{figure_label(row.feature)}, {row.tokens} (n = {row.n:,})" for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("mean number of chunks or tokens")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    _legend(axes, 2)
    return None


def described(loci: Loci) -> str:
    """What a kind is, and its number of loci, as shown in captions."""
    place = "boundaries from the first to the last edge" if loci.elements else "5' end"
    place = GENE_FEATURES[loci.name][0] if loci.name in GENE_FEATURES else place
    skipped = f"; {loci.skipped:,} more are not used (duplicates, or outside of the regions)" if loci.skipped else ""
    return f"Position: {place}. n = {len(loci):,} loci{skipped}"
