"""Plots of `sharding.stats`, in the color-blind-safe palette of Okabe and Ito."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from ldarnet.data.index import Index
from ldarnet.io.files import atomic_path
from ldarnet.printable import figure_label
from sharding.composition import GC_BINS, GC_WINDOW

_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_GRAY = "#999999"
_LETTER_COLORS = {
    "A": "#009E73",
    "C": "#0072B2",
    "G": "#E69F00",
    "T": "#D55E00",
    "N": "#BBBBBB",
    "other": "#000000",
}
_MAX_BARS = 25
_MAX_LINES = len(_COLORS)


def draw(out: Path, stats: dict[str, Any], index: Index) -> list[Path]:
    """Plot composition, GC, contig lengths and splits to PNG files in a folder; return the paths of the files.

    Only the largest species are shown individually.

    Raises:
        UserError: the disk is full.
    """
    # Names may contain $, and Text reads this setting when it is created.
    with rc_context({"text.parse_math": False, "text.usetex": False}):
        return _draw(out, stats, index)


def _draw(out: Path, stats: dict[str, Any], index: Index) -> list[Path]:
    species = stats["species"]
    largest = sorted(species, key=lambda name: -species[name]["bases"])
    plots = {
        "composition": _composition(species, largest[:_MAX_BARS]),
        "gc": _gc(species, largest[:_MAX_LINES]),
        "contigs": _contigs(index, species, largest[:_MAX_LINES]),
        "splits": _splits(stats, largest[: _MAX_LINES - 1]),
    }
    paths = []
    for name, figure in plots.items():
        paths.append(out / f"{name}.png")
        with atomic_path(paths[-1]) as partial:
            figure.savefig(partial, format="png", dpi=150)
    return paths


def _composition(species: dict[str, Any], names: Sequence[str]) -> Figure:
    """Plot bars of the base composition and of the soft-masked fraction of each species."""
    figure = Figure(figsize=(8, 1.8 + 0.35 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    rows = np.arange(len(names))[::-1]
    before = np.zeros(len(names))
    for letter, color in _LETTER_COLORS.items():
        shares = np.array([species[name]["letters"][letter] / species[name]["bases"] for name in names])
        left.barh(rows, shares, left=before, color=color, label=letter, edgecolor="white", linewidth=0.5)
        for row, share, begin in zip(rows, shares, before, strict=True):
            if share > 0.06:
                center, ink = begin + share / 2, "black" if letter in "GN" else "white"
                left.text(center, row, f"{100 * share:.0f}", ha="center", va="center", color=ink, size=8)
        before += shares
    masked = [species[name]["masked_share"] for name in names]
    right.barh(rows, masked, color=_COLORS[3])
    for row, share in zip(rows, masked, strict=True):
        if not share:
            right.text(0, row, " none", va="center", size=8)
    left.set_yticks(rows, list(map(figure_label, names)))
    right.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    _title(left, "Base composition", "fraction of bases")
    _title(right, "Soft-masked", "fraction of bases")
    for axes, limit in ((left, 1), (right, max(0.1, *(1.05 * share for share in masked)))):
        axes.set_xlim(0, limit)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure


def _gc(species: dict[str, Any], names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    edges = np.arange(GC_BINS + 1) / GC_BINS
    for name, color in zip(names, _COLORS, strict=False):
        windows = np.array(species[name][f"gc_of_{GC_WINDOW}_base_windows"])
        if windows.any():
            label = f"{figure_label(name)}, {species[name]['gc']:.1%}"
            axes.stairs(windows / windows.sum(), edges, color=color, linewidth=1.8, label=label)
    shown = np.sum([species[name][f"gc_of_{GC_WINDOW}_base_windows"] for name in names], axis=0)
    if shown.any():
        inside = np.flatnonzero(shown)
        axes.set_xlim(max(0, edges[inside[0]] - 0.03), min(1, edges[inside[-1] + 1] + 0.03))
        axes.legend(frameon=False, title="species, overall GC")
    axes.set_ylim(0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _title(axes, f"GC content in {GC_WINDOW // 1000} kb windows", "GC content", "fraction of windows")
    return figure


def _contigs(index: Index, species: dict[str, Any], names: Sequence[str]) -> Figure:
    """Plot a histogram of contig lengths and, for each species, the fraction of bases in contigs above each length."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    histogram, shares = figure.subplots(1, 2)
    lengths = index.contigs.length
    low, high = np.floor(8 * np.log10(lengths.min())), np.ceil(8 * np.log10(lengths.max()) + 1e-9)
    bins = 10 ** (np.arange(low, high + 1) / 8)
    histogram.hist(lengths, bins=bins.tolist(), color=_COLORS[0], edgecolor="white", linewidth=0.5)
    for name, color in zip(names, _COLORS, strict=False):
        own = np.sort(lengths[index.contigs.species == list(species).index(name)])[::-1]
        held = np.cumsum(own) / own.sum()
        axes_x, axes_y = np.repeat(own, 2), np.concatenate(([0], np.repeat(held, 2)[:-1]))
        shares.plot(axes_x, axes_y, color=color, linewidth=1.8, label=figure_label(name))
        shares.plot(species[name]["n50"], 0.5, "o", color=color, markeredgecolor="white", markersize=7)
    for axes in (histogram, shares):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter("b", places=0, sep=" "))
    if len(lengths) > 1000:
        histogram.set_yscale("log")
        histogram.yaxis.set_major_formatter(EngFormatter(sep=" "))
    else:
        histogram.yaxis.set_major_locator(MaxNLocator(integer=True))
    shares.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    shares.legend(frameon=False)
    _title(histogram, "Contig lengths", "length", "contigs")
    _title(shares, "Bases in contigs of at least this length (dot: N50)", "length", "fraction of bases")
    return figure


def _splits(stats: dict[str, Any], names: Sequence[str]) -> Figure:
    """Plot the sizes of the splits as bars, stacked by species."""
    splits, species = stats["splits"], stats["species"]
    figure = Figure(figsize=(8, 1.8 + 0.5 * len(splits)), layout="constrained")
    axes = figure.subplots()
    rows, before = np.arange(len(splits))[::-1], np.zeros(len(splits))
    others = [name for name in species if name not in names]
    parts = [([name], figure_label(name), color) for name, color in zip(names, _COLORS, strict=False)]
    if others:
        parts.append((others, f"{len(others)} other species", _GRAY))
    for members, label, color in parts:
        bases = np.array(
            [sum(species[name]["splits"].get(split, {"bases": 0})["bases"] for name in members) for split in splits]
        )
        axes.barh(rows, bases, left=before, color=color, label=label, edgecolor="white", linewidth=0.5)
        before += bases
    for row, total in zip(rows, before, strict=True):
        share = total / stats["total"]["bases"]
        axes.text(total, row, f"  {total / 1e6:,.1f} Mb, {share:.1%}", va="center", size=9)
    axes.set_yticks(rows, list(map(figure_label, splits)))
    axes.set_xlim(0, 1.25 * before.max())
    axes.xaxis.set_major_formatter(EngFormatter("b", sep=" "))
    _title(axes, "Split sizes", "bases")
    if len(parts) > 1:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _title(axes: Axes, title: str, x: str, y: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
