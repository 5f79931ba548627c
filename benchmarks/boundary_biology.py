"""Ask `ldarnet enrich` whether a model's boundaries coincide with genes and motifs, and say in words what holds.

    python -m benchmarks.boundary_biology yeast RUN --data FOLDER
    python -m benchmarks.boundary_biology human-chr20 RUN --data FOLDER

The program writes the features of the study as files with the contig names of the genome, runs `ldarnet enrich` on
them, and summarizes its tables on one page, with the same numbers as JSON. `benchmarks/biology.py` describes the
studies and the files that they read.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.biology import STUDIES, StudyInputs
from benchmarks.record import (
    ProgramParser,
    add_result_options,
    provenance,
    result_file,
    run_program,
    write_result,
    write_text,
)
from ldarnet.errors import UserError
from ldarnet.genomics.enrichment.classes import ClassRow
from ldarnet.genomics.enrichment.fragmentation import FragmentationRow
from ldarnet.genomics.enrichment.nulls import NULLS
from ldarnet.genomics.enrichment.report import verdict
from ldarnet.genomics.enrichment.results import ALPHA, read_rows
from ldarnet.genomics.enrichment.robustness import RobustnessRow
from ldarnet.genomics.enrichment.study import EnrichmentRow, KmerRow
from ldarnet.model import LDARNetLanguageModel, load_model
from ldarnet.model.folder import window_length

SMALL = 0.2
"""Effects below this number of standard deviations over loci are called small (Cohen 1988)."""
KMERS = "kmer_regression"


@dataclass(frozen=True)
class Tables:
    """Tables that `ldarnet enrich` wrote."""

    effects: list[EnrichmentRow]
    kmers: list[KmerRow]
    classes: list[ClassRow]
    fragments: list[FragmentationRow]
    robustness: list[RobustnessRow]

    @classmethod
    def read(cls, folder: Path) -> Tables:
        """Read the tables of a folder."""
        return cls(
            read_rows(folder / "enrichment.csv", EnrichmentRow),
            read_rows(folder / "kmers.csv", KmerRow),
            read_rows(folder / "classes.csv", ClassRow),
            read_rows(folder / "fragmentation.csv", FragmentationRow),
            read_rows(folder / "robustness.csv", RobustnessRow),
        )

    @property
    def kinds(self) -> dict[str, dict[str, EnrichmentRow]]:
        """Kind -> null model -> comparison."""
        found: dict[str, dict[str, EnrichmentRow]] = {}
        for row in self.effects:
            found.setdefault(row.feature, {})[row.null] = row
        return found

    @property
    def mean(self) -> float:
        """Mean boundary probability of all bases."""
        return next(row.probability for row in self.classes if row.region == "all")


def outcome(rows: Mapping[str, EnrichmentRow]) -> str:
    """Class of a kind, a key of `OUTCOMES`: what is left of it after the controls."""
    known = {null: row for null, row in rows.items() if not math.isnan(row.effect)}
    found = {null: row.effect > 0 for null, row in known.items() if row.q < ALPHA}
    if not found:
        return "nothing"
    if len(found) == len(known) and len({*found.values()}) == 1:
        return "holds"
    return "mixed" if KMERS in found or KMERS not in known else "k-mers"


OUTCOMES = {
    "holds": "Hold after all controls, with the same direction against every null model",
    "mixed": "Differ from local k-mers, but not from every null model, or not in one direction",
    "k-mers": "Explained by local k-mers: differ from another null model, but not from the k-mers",
    "nothing": "No difference from any null model",
}


def sentences(rows: Mapping[str, EnrichmentRow], mean: float) -> str:
    """Verdict on a kind in words: the null models, the size of the effect, and what k-mers explain of it."""
    _, text = verdict(rows)
    parts = [f"{text[0].upper()}{text[1:]}."]
    matched, kmers = rows["matched"], rows[KMERS]
    if not math.isnan(matched.effect):
        size = abs(matched.standardized)
        small = " (small)" if size < SMALL else ""
        parts.append(
            f"Boundary probability {matched.observed:.3f}, and {matched.expected:.3f} at matched loci: "
            f"{_effect(matched)}, {size:.2f} standard deviations{small}."
        )
    if not math.isnan(kmers.effect):
        total, predicted = kmers.observed - mean, kmers.expected - mean
        share = f", {predicted / total:.0%} of it" if total and 0 <= predicted / total <= 2 else ""
        unclear = "" if kmers.q < ALPHA else ", which is no detectable difference"
        parts.append(
            f"Of the difference from all bases, {total:+.3f}, local k-mers predict {predicted:+.3f}{share}; "
            f"{_effect(kmers)} remains{unclear}."
        )
    return " ".join(parts)


def _effect(row: EnrichmentRow) -> str:
    interval = "" if math.isnan(row.effect_low) else f" (95% interval {row.effect_low:+.4f} to {row.effect_high:+.4f})"
    return f"{row.effect:+.4f}{interval}"


def summary(tables: Tables) -> list[str]:
    """Findings over all kinds, as list items."""
    every = next(row for row in tables.classes if row.region == "all")
    found = [
        f"The model starts a chunk every {_number(every.bases_per_chunk, 2)} bases; mean boundary probability "
        f"{tables.mean:.3f}.",
        "Share of the variance of the boundary probability that a linear regression on local k-mers explains: "
        + ", ".join(f"{_percent(row.r2)} with k ≤ {row.k}" for row in tables.kmers)
        + ".",
    ]
    kinds = tables.kinds
    for name, text in OUTCOMES.items():
        members = [kind for kind, rows in kinds.items() if outcome(rows) == name]
        found.append(f"{text}: {len(members)} of {len(kinds)} kinds{': ' if members else ''}{', '.join(members)}.")
    large = [kind for kind, rows in kinds.items() if abs(rows[KMERS].standardized) >= SMALL and rows[KMERS].q < ALPHA]
    found.append(
        f"Kinds where context beyond k-mers adds at least {SMALL} standard deviations: {', '.join(large) or 'none'}."
    )
    for row in tables.robustness:
        if row.measure.endswith("Jaccard index"):
            word = "above" if row.low > row.chance else "below" if row.high < row.chance else "no better than"
            found.append(
                f"Agreement of boundaries, {row.measure}: {row.value:.3f} ({_range(row.low, row.high)}), {word} chance "
                f"({_number(row.chance)})."
            )
    return found


def _range(low: float, high: float, digits: int = 3) -> str:
    return "-" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(study: str, inputs: StudyInputs, tables: Tables, facts: Sequence[str], note: str) -> str:
    """Markdown of the results file."""
    kinds = tables.kinds
    lost = [f"{kind}: fewer than 10 loci in the regions" for kind in inputs.meanings if kind not in kinds]
    named = {
        kind: f"{inputs.meanings.get(kind, 'hits of the motif')}; n = {max(row.n for row in rows.values()):,}"
        for kind, rows in kinds.items()
    }
    effects = [
        [
            *(row.feature, row.null.replace("_", " "), f"{row.n:,}", _number(row.observed), _number(row.expected)),
            *("-" if math.isnan(row.effect) else _effect(row), _number(row.standardized, 2)),
            *(_number(row.p), _number(row.q)),
        ]
        for row in tables.effects
    ]
    classes = [
        [
            *(row.region, f"{row.bases:,}", _number(row.bases_per_chunk, 2), _range(row.low, row.high, 2)),
            *(_number(row.probability), _number(row.kmers), f"{row.gc:.0%}"),
        ]
        for row in tables.classes
    ]
    fragments = [
        [row.feature, row.tokens, f"{row.n:,}", _number(row.chunks, 2), _number(row.random, 2)]
        for row in tables.fragments
    ]
    robustness = [
        [row.measure, f"{row.n:,}", _number(row.value), _range(row.low, row.high), _number(row.chance)]
        for row in tables.robustness
    ]
    sections = [
        f"# Boundaries against biology: {study}",
        *([note] if note else []),
        "\n".join(f"- {fact}" for fact in facts),
        "## In short",
        "\n".join(f"- {line}" for line in summary(tables)),
        f"A difference counts if its false discovery rate is below {ALPHA}; below {SMALL} standard deviations over "
        "loci it is called small, however many loci make it detectable.",
        "## By kind of feature",
        "\n".join(f"- **{kind}** ({named[kind]}). {sentences(rows, tables.mean)}" for kind, rows in kinds.items()),
        "## Not in this study",
        "\n".join(f"- {line}" for line in [*inputs.missing, *lost]) or "Nothing is missing.",
        "## Null models",
        _table(["null model", "a feature is compared with"], [[n.replace("_", " "), v[1]] for n, v in NULLS.items()]),
        _table(["kind", "null model", "n", "observed", "expected", "effect", "SD", "p", "q"], effects),
        "## Chunks by class of bases",
        _table(["bases", "number", "bases per chunk", "95%", "probability", "from k-mers", "GC"], classes),
        "## Chunks per element",
        _table(["kind", "tokens", "n", "chunks", "random windows"], fragments),
        "## Robustness",
        _table(["measure", "n", "value", "95%", "by chance"], robustness),
    ]
    return "\n\n".join(sections) + "\n"


def run_enrich(words: Sequence[str]) -> None:
    """Run `ldarnet enrich` in a child process.

    Raises:
        UserError: it failed; its error is on stderr.
    """
    if subprocess.run([sys.executable, "-m", "ldarnet", "enrich", *words], check=False).returncode:
        raise UserError(f"ldarnet enrich {shlex.join(words)}: failed; see the error above")


def model_facts(model: Path) -> list[str]:
    """Size of the model and length of its windows."""
    network = load_model(model, LDARNetLanguageModel)
    count = sum(parameter.numel() for parameter in network.parameters())
    length = window_length(model)
    windows = "windows of unknown length" if length is None else f"windows of {length:,} bases"
    return [f"Model: {model}, {count / 1e6:.2f} million parameters, {windows}"]


def as_json(tables: Tables, facts: Sequence[str]) -> str:
    """Tables and facts as JSON, with null for undefined numbers."""
    outcomes = {kind: outcome(rows) for kind, rows in tables.kinds.items()}
    content = {"facts": list(facts), "outcomes": outcomes, **asdict(tables)}
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = ProgramParser("boundary_biology", __doc__)
    parser.add_argument("study", choices=sorted(STUDIES), help="genome and features")
    parser.add_argument("model", type=Path, help="model folder, checkpoint or run folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with the genomes and annotations")
    parser.add_argument("--other", action="append", default=[], help="model of another seed; may be repeated")
    parser.add_argument("--region", action="append", help="contig or interval; may be repeated (default: the study's)")
    parser.add_argument("--study-folder", type=Path, help="keep the page and tables of `ldarnet enrich` in this folder")
    parser.add_argument("--enrich", default="", help="more options of `ldarnet enrich`, as one text")
    add_result_options(parser, "boundary-biology")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study and write the results files."""
    options = _options(arguments)
    file = result_file(f"{options.name}-{options.study}", options.out)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = STUDIES[options.study](options.data, Path(scratch))
        folder = options.study_folder or Path(scratch) / "study"
        regions = options.region or inputs.regions
        words = [str(options.model), str(inputs.genome), "--out", str(folder), *inputs.words()]
        words += [word for region in regions for word in ("--region", region)]
        words += [word for other in options.other for word in ("--other", other)]
        run_enrich([*words, *shlex.split(options.enrich)])
        tables = Tables.read(folder)
    facts = [
        *model_facts(options.model),
        f"Genome: {inputs.genome.name}, {', '.join(regions)}",
        f"Models of other seeds: {', '.join(options.other) or 'none, so agreement between seeds is not measured'}",
    ]
    command = options.command.replace(shlex.quote(options.note), "NOTE") if options.note else options.command
    facts = [*facts, *(line.removeprefix("- ") for line in provenance(command).splitlines())]
    write_text(file.with_suffix(".json"), as_json(tables, facts))
    write_result(file, page(options.study, inputs, tables, facts, options.note))


if __name__ == "__main__":
    run_program(main)
