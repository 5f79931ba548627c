"""Evaluation of variant scores: metrics, chromosomes, matched groups and label forms."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")


def write(path: Path, header: str, rows: list[tuple]) -> Path:
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines).replace(" ", "\t", header.count(" ")) + "\n")
    return path


@pytest.fixture
def results(ldarnet, tmp_path):
    def command(table: Path, *options) -> dict[tuple[str, str], dict]:
        status, _, errors = ldarnet("evaluate-variants", table, "--out", tmp_path / "out", "--resamples", 50, *options)
        assert (status, errors) == (0, "")
        content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        return {(row["score"], row["subset"]): row for row in content["results"]}

    return command


def pairs_by_hand(labels, values) -> float:
    """AUROC as the share of correctly ordered pairs."""
    wins = [
        (p > q) + (p == q) / 2
        for p, a in zip(values, labels, strict=True)
        if a
        for q, b in zip(values, labels, strict=True)
        if not b
    ]
    return float(np.mean(wins))


def rows_of(count: int) -> list[tuple]:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=count)
    llr = np.round(rng.normal(size=count) - labels, 2)
    return [
        (f"chr{1 + k % 3}", k + 1, "A", "C", label, k // 4, "" if k == 5 else value)
        for k, (label, value) in enumerate(zip(labels.tolist(), llr.tolist(), strict=True))
    ]


def test_metrics_equal_pairs_by_hand_overall_and_by_chromosome(results, tmp_path):
    rows = rows_of(60)
    found = results(
        write(tmp_path / "t.tsv", "chrom pos ref alt label match_group llr", rows), "--group", "match_group"
    )
    known = [row for row in rows if row[6] != ""]
    everything = found["-llr", "all"]
    assert everything["auroc"] == pytest.approx(pairs_by_hand([r[4] for r in known], [-r[6] for r in known]))
    assert (everything["variants"], everything["missing"]) == (59, 1)
    low, high = everything["intervals"]["auroc"]
    assert low < everything["auroc"] < high
    by_hand = {}
    for name in ("chr1", "chr2", "chr3"):
        inside = [row for row in known if row[0] == name]
        by_hand[name] = pairs_by_hand([r[4] for r in inside], [-r[6] for r in inside]), len(inside)
        assert found["-llr", name]["auroc"] == pytest.approx(by_hand[name][0])
    values, weights = zip(*by_hand.values(), strict=True)
    assert found["-llr", "mean of chromosomes"]["auroc"] == pytest.approx(np.average(values, weights=weights))


def test_the_sign_of_a_score_is_chosen(results, tmp_path):
    table = write(tmp_path / "t.tsv", "chrom label llr", [("1", 1, -3), ("1", 1, 2), ("1", 0, 1), ("1", 0, -0.5)])
    found = results(table, "--score", "llr", "--score=-llr", "--score", "abs(llr)")
    assert [found[name, "all"]["auroc"] for name in ("llr", "-llr", "abs(llr)")] == [0.5, 0.5, 1.0]


def test_resamples_keep_groups_together_and_depend_on_the_seed(results, tmp_path):
    rows = [("1", k % 2, k // 2, (k // 2) * 10 + k % 2) for k in range(20)]  # in each group, the positive is higher
    table = write(tmp_path / "t.tsv", "chrom label pair llr", rows)
    grouped = results(table, "--group", "pair", "--score", "llr")["llr", "all"]
    assert grouped == results(table, "--group", "pair", "--score", "llr")["llr", "all"]
    loose = results(table, "--score", "llr")["llr", "all"]
    other = results(table, "--score", "llr", "--seed", 1)["llr", "all"]
    assert loose["intervals"] != other["intervals"]
    widths = [np.ptp(entry["intervals"]["auroc"]) for entry in (grouped, loose)]
    assert widths[0] < widths[1] / 2  # pairs remain balanced, so the AUROC varies little


@pytest.mark.parametrize(
    ("column", "positive", "negative", "dropped"),
    [
        ("label", "True", "False", None),
        ("CLNSIG", "Likely pathogenic", "Benign/Likely_benign", "Uncertain_significance"),
        ("func.class", "LOF", "FUNC", "INT"),
    ],
)
def test_labels_of_published_sets_are_known(results, tmp_path, column, positive, negative, dropped):
    rows = [("1", positive, -2), ("1", negative, 0), ("2", positive, -1), *([("2", dropped, 9)] if dropped else [])]
    path = tmp_path / "t.tsv"
    path.write_text("\n".join("\t".join(map(str, row)) for row in [("chrom", column, "llr"), *rows]) + "\n")
    found = results(path, "--label", column.lower())
    assert (found["-llr", "all"]["variants"], found["-llr", "all"]["auroc"]) == (3, 1.0)
    assert found["-llr", "2"]["auroc"] is None


def test_parquet_with_boolean_labels_is_read(results, tmp_path):
    import pyarrow
    from pyarrow import parquet

    columns = {"chrom": ["1", "1"], "label": [True, False], "embedding_distance": [2.0, 1.0], "match_group": ["a", "a"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    found = results(tmp_path / "t.parquet", "--group", "match_group")
    assert found["embedding_distance", "all"]["auroc"] == 1.0
    (line,) = [text for text in (tmp_path / "out" / "evaluation.md").read_text().splitlines() if "| all |" in text]
    assert line.startswith("| embedding") and "| 1.0000 |" in line


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("1", 1, -1), ("1", 1, 0)], (), "column label has no negative label \\(its labels: 1\\)"),
        ([("1", "x", -1), ("1", "y", 0)], (), "no positive label \\(its labels: x, y\\)"),
        ([("1", 1, "no"), ("1", 0, 0)], (), "column llr has values that are not numbers"),
        ([("1", 1, -1), ("1", 0, 0)], ("--score", "lr"), "no column lr; did you mean 'llr'"),
        ([("1", 1, -1), ("1", 0, 0)], ("--group", "g"), "no column g"),
        ([("1", 1, -1), ("", 0, 0)], (), "line 3: chrom is empty"),
        ([("1", 1, -1), ("1", 0, 0)], ("--positive", "0"), "0 is in both"),
    ],
)
def test_bad_tables_are_one_error(ldarnet, tmp_path, rows, options, message):
    table = write(tmp_path / "t.tsv", "chrom label llr", rows)
    status, _, errors = ldarnet("evaluate-variants", table, "--out", tmp_path / "out", *options)
    assert status != 0 and errors.count("\n") == 1 and re.search(message, errors), errors
