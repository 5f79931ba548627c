"""Report of an enrichment study: an HTML page, and its figures as PNG and SVG files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ldarnet.genomics.enrichment import figures, locus_views, logos
from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.nulls import NULLS
from ldarnet.genomics.enrichment.nulls.kmers import MAX_K
from ldarnet.genomics.enrichment.results import ALPHA, StudyResults
from ldarnet.genomics.enrichment.robustness import RobustnessRow
from ldarnet.genomics.enrichment.study import EnrichmentRow
from ldarnet.io.files import atomic_path, make_folder
from ldarnet.printable import printable
from ldarnet.report.drawing import Panel, draw_panels, template

REPORT, FIGURES = "report.html", "figures"
MAX_KINDS = 24
"""Kinds with figures of their own; the tables have all of them."""
NO_UTR = 0.5
"""Share of transcripts without untranslated regions from which on the page has a note."""
MAX_VIEWS = 6
"""Kinds with a view of a locus."""
Panels = list[Panel[StudyResults]]


def write_report(out: Path, results: StudyResults, facts: Mapping[str, str], notes: Sequence[str]) -> list[str]:
    """Write the page and its figures, and return their names.

    Args:
        out: folder to write.
        results: results of the study.
        facts: name -> value: model, genome and settings.
        notes: remarks, such as kinds that were not compared.
    """
    make_folder(out / FIGURES)
    shown = _shown(results)
    groups = {name: draw_panels(_filed(name, panels), shown, out / FIGURES) for name, panels in _groups(shown).items()}
    page = template("enrichment.html.jinja").render(
        name="Boundaries at features",
        subtitle=f"{facts['model']} · {facts['genome']}",
        folder=facts["model"],
        facts=_facts(results),
        notes=[*notes, *_annotation_notes(results), *_figure_notes(results)],
        verdicts=[
            (f"{printable(loci.name)} (n = {len(loci):,})", *verdict(results.of_kind(loci.name)))
            for loci in results.kinds
        ],
        nulls=[(figures.null_label(name), compared) for name, (_, compared, _) in NULLS.items()],
        groups=groups,
        files=FIGURES,
        head=["feature", "n", *map(figures.null_label, NULLS)],
        rows=[_effect_cells(loci, results.of_kind(loci.name)) for loci in results.kinds],
        robustness=[_robustness_cells(row) for row in results.robustness],
        settings=facts,
    )
    with atomic_path(out / REPORT) as partial_file:
        partial_file.write_text(page, encoding="utf-8", errors="backslashreplace")
    return [REPORT, f"{FIGURES}/"]


def verdict(rows: Mapping[str, EnrichmentRow]) -> tuple[str, str]:
    """Direction (`more`, `fewer`, `mixed` or `none`), and a sentence on the null models that a kind differs from."""
    known = [null for null, row in rows.items() if not math.isnan(row.effect)]
    above, below = (
        [null for null in known if rows[null].q < ALPHA and sign * rows[null].effect > 0] for sign in (1, -1)
    )
    parts = []
    for found, word in ((above, "more"), (below, "fewer")):
        if len(found) == len(known) and known:
            parts.append(f"{word} boundaries than under all {len(known)} null models")
        elif found:
            parts.append(f"{word} boundaries than under {len(found)} of {len(known)} null models ({_list(found)})")
    same = [null for null in known if null not in above + below]
    if not parts:
        parts.append("no difference from any null model")
    elif same:
        parts.append(f"no difference from {_list(same)}")
    direction = "mixed" if above and below else "more" if above else "fewer" if below else "none"
    return direction, "; ".join(parts)


def _list(nulls: Sequence[str]) -> str:
    return ", ".join(map(figures.null_label, nulls))


def _shown(results: StudyResults) -> StudyResults:
    """Results with the kinds and motifs that have figures."""
    kinds, motifs = results.kinds[:MAX_KINDS], results.motifs[:MAX_KINDS]
    names = {loci.name for loci in kinds}
    fragments = [row for row in results.fragments if row.feature in names]
    return replace(results, kinds=kinds, motifs=motifs, fragments=fragments)


def _figure_notes(results: StudyResults) -> list[str]:
    count = len(results.kinds)
    if count <= MAX_KINDS:
        return []
    return [f"Figures show the first {MAX_KINDS} of {count} kinds; the tables have all of them."]


def _annotation_notes(results: StudyResults) -> list[str]:
    """Warn that an annotation has no untranslated regions, so that transcripts begin and end with their codons."""
    if {loci.name for loci in results.kinds}.isdisjoint(("tss", "transcript_end")):
        return []
    genes = [gene for gene in results.transcripts if gene.exons and gene.coding]
    ends = ((gene.exons[0][0], gene.exons[-1][1], gene.coding[0][0], gene.coding[-1][1]) for gene in genes)
    same = sum((low, high) == (first, last) for low, high, first, last in ends)
    if same < NO_UTR * max(len(genes), 1):
        return []
    return [
        f"{same / len(genes):.0%} of the transcripts with coding bases have no untranslated regions in the annotation: "
        "tss is their start codon, and transcript_end their stop codon."
    ]


def _facts(results: StudyResults) -> list[tuple[str, str, str]]:
    every, r2 = results.classes[0], results.kmers[-1].r2
    share = "-" if math.isnan(r2) else f"{r2:.0%}"
    return [
        ("bases", f"{every.bases:,}", "with a boundary probability"),
        ("boundaries", f"{every.boundaries:,}", "that the model selects"),
        ("bases per chunk", _number(every.bases_per_chunk, 2), _interval(every.low, every.high, 2)),
        ("kinds of features", str(len(results.kinds)), f"{sum(map(len, results.kinds)):,} loci"),
        ("k-mers explain", share, f"of the variance, with up to {MAX_K} bases"),
        ("transcripts", f"{len(results.transcripts):,}", "in the annotations"),
    ]


def _number(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _interval(low: float, high: float, digits: int = 4) -> str:
    return "" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def _effect_cells(loci: Loci, rows: Mapping[str, EnrichmentRow]) -> list[str]:
    return [printable(loci.name), f"{len(loci):,}", *(_effect(rows[null]) for null in NULLS)]


def _robustness_cells(row: RobustnessRow) -> list[str]:
    interval = _interval(row.low, row.high)
    return [printable(row.measure), f"{row.n:,}", f"{row.value:.4f}", interval, _number(row.chance)]


def _effect(row: EnrichmentRow) -> str:
    if math.isnan(row.effect):
        return "-"
    interval = "" if math.isnan(row.effect_low) else f" ({row.effect_low:+.4f} to {row.effect_high:+.4f})"
    return f"{row.effect:+.4f}{'*' if row.q < ALPHA else ''}{interval}"


def _filed(group: str, panels: Panels) -> Panels:
    """Name the files of panels: group, number and title."""
    return [
        replace(panel, file=f"{_slug(group)}-{number:02d}-{_slug(panel.title)}")
        for number, panel in enumerate(panels, start=1)
    ]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:40]


def _groups(results: StudyResults) -> dict[str, Panels]:
    return {
        "Overview": [_overview(results)],
        "Features": [_kind(loci) for loci in results.kinds],
        "Loci": [_view(results, loci) for loci in results.kinds[:MAX_VIEWS]],
        "Sequence": _sequence(results),
        "Chunks": _chunks(results),
    }


def _overview(results: StudyResults) -> Panel[StudyResults]:
    return Panel(
        "Features against null models",
        "n: loci of each kind. Numbers: difference of the boundary probability, or of the share of boundaries, from "
        f"the null model; * means q < {ALPHA:g}. How to read: a feature whose whole row is blue and starred has more "
        "boundaries than any of the null models explains; red means fewer. Colors: the difference in standard "
        "deviations over loci.",
        figures.draw_overview,
        wide=True,
        height=1.3 + 0.34 * len(results.kinds),
    )


def _kind(loci: Loci) -> Panel[StudyResults]:
    return Panel(
        printable(loci.name),
        f"{figures.described(loci)}. How to read: left, a peak of the blue line above the gray one at 0 means more "
        "boundaries there than at loci with the same composition. Right, the difference from each null model with its "
        f"95% interval: filled points differ (q < {ALPHA:g}); points right of 0 have more boundaries than expected.",
        partial(figures.draw_kind, kind=loci.name),
        wide=True,
        height=3.0,
    )


def _view(results: StudyResults, loci: Loci) -> Panel[StudyResults]:
    view = locus_views.random_view(results, loci)
    where = f"{printable(view.contig)}:{view.start + 1:,}-{view.end:,}"
    return Panel(
        f"{printable(loci.name)} at {where}",
        f"n = 1 of {len(loci):,} loci, chosen at random; {'reverse' if view.strand < 0 else 'forward'} strand. How to "
        "read: boxes are chunks, bars are boundary probabilities, and blue bars are boundaries; compare the red line, "
        "the feature, with the genes. One locus shows what chunks look like, not whether "
        "they are enriched.",
        partial(locus_views.draw_view, view=view),
        wide=True,
        height=locus_views.view_height(results, view),
    )


def _sequence(results: StudyResults) -> Panels:
    boundaries = len(logos.boundary_positions(results))
    read = "How to read: the higher a letter, the more often its base occurs here than in the regions (in bits)."
    panels = [
        Panel(
            "Bases at boundaries",
            f"n = {boundaries:,} boundaries of the forward strand; the red line is the boundary. {read}",
            logos.draw_boundary_logo,
            height=2.4,
        ),
        Panel(
            "Local sequence",
            f"n = {results.classes[0].bases:,} bases. How to read: share of the differences in boundary probability "
            "that k-mers next to a base predict, on bases that the regression was not fitted to; the rest is longer "
            "context, or not additive.",
            figures.draw_kmers,
            height=2.4,
        ),
        Panel(
            "Bases at features",
            f"n: loci of each kind; the red line is the feature, 5' to the left. {read}",
            logos.draw_feature_logos,
            wide=True,
            height=0.4 + 1.9 * logos.logo_rows(len(results.kinds)),
        ),
    ]
    if results.motifs:
        panels.append(
            Panel(
                "Motifs",
                f"n = {len(results.motifs)}: matrices as given in the file. {read}",
                logos.draw_motif_logos,
                wide=True,
                height=0.4 + 1.6 * logos.logo_rows(len(results.motifs)),
            )
        )
    return panels


def _chunks(results: StudyResults) -> Panels:
    count = len(figures.chunks(results.context.landscape)[1])
    every = results.classes[0]
    panels = [
        Panel(
            "Chunk lengths",
            f"n = {count:,} chunks. How to read: left, where bars are higher than the gray line, chunks of this length "
            "are more frequent than with random boundaries. Right, a class whose line is higher has longer chunks; "
            "chunks count where their first and last base are in the class.",
            figures.draw_lengths,
            wide=True,
            height=3.4,
        ),
        Panel(
            "Chunk length by class of bases",
            f"n = {every.bases:,} bases; classes may overlap. How to read: points right of the dashed line (all bases) "
            "are cut less often; lines are 95% intervals.",
            figures.draw_classes,
            height=3.0,
        ),
    ]
    if results.fragments:
        panels.append(
            Panel(
                "Fragmentation of elements",
                "n: elements. How to read: a point left of its black mark means that the element is cut into fewer "
                "pieces than random windows of the same length.",
                figures.draw_fragments,
                height=1.2 + 0.24 * len(results.fragments),
            )
        )
    return panels
