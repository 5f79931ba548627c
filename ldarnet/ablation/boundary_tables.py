"""Tables of the report about boundaries: agreement between seeds, strands, masked bases, and stability under edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ldarnet import markdown
from ldarnet.ablation.links import RunLinks
from ldarnet.ablation.pretraining_tables import Row
from ldarnet.ablation.records import AgreementRecord, Number, StageRecord, StatisticsRecord, pretraining_folder
from ldarnet.ablation.results import AblationResults
from ldarnet.markdown import escape

FAR, NEAR = "8", "1"
"""Distances in bases from an edit, and from a masked base, that the tables show."""
NOTE = """\
Positions in bases; the first base of a window is not counted. **Agreement** is the Jaccard index of two sets of \
boundaries. *Random* is its expected value for as many boundaries at random bases, *shuffled* its value after the \
chunks of one side are put in random order, *corrected* is (agreement - random) / (1 - random): 0 is the chance level. \
**Near masks**: share of the boundaries within 1 base of a masked base, then the same share of all bases, which is \
what boundaries that do not see the mask have. **Strands**: agreement of a window with its reverse complement."""
EDITS_NOTE = """\
**Edits** of single bases: share of the edits after which a base more than 8 bases away becomes or ceases to be a \
boundary; in parentheses, the mean number of such bases. Methods that draw boundaries from the whole sequence change \
everywhere."""


def boundary_section(results: AblationResults, links: RunLinks) -> str:
    """Two tables with one row per arm and router; means over seeds, or over pairs of seeds."""
    agreement_rows, edit_rows = [], []
    for name, arm in results.arms.items():
        found = arm.statistics
        if found is None:
            continue
        for stage in range(_routers(found)):
            stages = [of_seed[stage] for of_seed in found["seeds"].values() if stage < len(of_seed)]
            pairs = [pair["stages"][stage] for pair in found["pairs"] if stage < len(pair["stages"])]
            runs = {seed: pretraining_folder(results.folder, name, seed) for seed in found["seeds"]}
            head = [f"{escape(name)} {links.numbered(runs)}", stage + 1]
            agreement_rows.append(
                [*head, _mean(stages, lambda one: one["bases_per_chunk"]), *_agreement(pairs, stages)]
            )
            edit_rows.append([*head, *_edits(stages)])
    if not agreement_rows:
        return "No arm has statistics of its boundaries."
    windows = {(arm.statistics["windows"], arm.statistics["length"]) for arm in results.arms.values() if arm.statistics}
    sizes = " and ".join(f"{count} windows of {length:,} bases" for count, length in sorted(windows))
    first = [
        "arm",
        "router",
        "bases per chunk",
        "pairs of seeds",
        "agreement (range)",
        "random",
        "shuffled",
        "corrected",
    ]
    first += ["near masks", "of all bases", "strands", "corrected", "correlation"]
    return "\n\n".join(
        [
            f"On {sizes} of the validation split.",
            NOTE,
            markdown.table(first, agreement_rows),
            EDITS_NOTE,
            markdown.table(["arm", "router", "edits of each kind", *KINDS], edit_rows),
        ]
    )


KINDS = ("substitution", "insertion", "deletion")


def _routers(found: StatisticsRecord) -> int:
    return max((len(stages) for stages in found["seeds"].values()), default=0)


def _values(records: Sequence, value: Callable[..., Number]) -> list[float]:
    return [number for record in records if (number := value(record)) is not None]


def _mean(records: Sequence, value: Callable[..., Number], digits: int = 3) -> str:
    found = _values(records, value)
    return f"{np.mean(found):.{digits}f}" if found else "-"


def _agreement(pairs: list[AgreementRecord], stages: list[StageRecord]) -> list[object]:
    between = _values(pairs, lambda one: one["jaccard"])
    cell = f"{np.mean(between):.3f} ({min(between):.3f} to {max(between):.3f})" if between else "-"
    strands = [stage["strands"] for stage in stages]
    leaks = [next(iter(stage["leak"].values())) for stage in stages if stage["leak"]]
    return [
        len(pairs),
        cell,
        *(_mean(pairs, lambda one, key=key: one[key]) for key in ("random", "permuted", "corrected")),
        *(_mean(leaks, lambda one, side=side: one["within"].get(NEAR, [None, None])[side]) for side in (0, 1)),
        *(_mean(strands, lambda one, key=key: one[key]) for key in ("jaccard", "corrected", "correlation")),
    ]


def _edits(stages: list[StageRecord]) -> list[object]:
    cells: list[object] = []
    edits = [one["edits"] for stage in stages for one in list(stage["stability"].values())[:1]]
    for kind in KINDS:
        found = [stage["stability"][kind] for stage in stages if kind in stage["stability"]]
        affected = _values(found, lambda one: one["affected"].get(FAR))
        changed = _mean(found, lambda one: one["changed"].get(FAR), 2)
        cells.append(f"{np.mean(affected):.1%} ({changed})" if affected else "-")
    return [sum(edits) or "-", *cells]


def csv_rows(results: AblationResults, links: RunLinks) -> list[Row]:
    """One row per number: agreement of each pair of seeds, and all other statistics of each seed."""
    rows: list[Row] = []
    for name, arm in results.arms.items():
        if arm.statistics is None:
            continue
        for pair in arm.statistics["pairs"]:
            for stage, record in enumerate(pair["stages"]):
                head = {"arm": name, "seeds": "-".join(pair["seeds"]), "router": stage + 1, "run": ""}
                rows += [head | {"quantity": key, "value": value} for key, value in _flat("agreement", record)]
        for seed, stages in arm.statistics["seeds"].items():
            for stage, record in enumerate(stages):
                url = links.url(pretraining_folder(results.folder, name, seed))
                head = {"arm": name, "seeds": seed, "router": stage + 1, "run": url}
                rows += [head | {"quantity": key, "value": value} for key, value in _flat("", record)]
    return rows


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _flat(f"{name}.{key}".lstrip("."), entry)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _flat(f"{name}.{index}", entry)
    else:
        yield name, value
