"""Comparisons of runs with damaged files and hostile names: correct results, or one line that names the file."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from ldarnet.comparison.compare import find_results, write_comparison
from ldarnet.errors import UserError
from ldarnet.markdown import escape
from tests.support.damaged import ESCAPES, NESTED, damaged_bytes, damaged_values
from tests.support.made_results import make_predictions, make_run

LABELS = [0, 1] * 10


def runs(folder: Path) -> dict[str, list[Path]]:
    """Write two arms with three folds and predictions."""
    arms = {}
    for arm, values in (("a", [0.1, 0.2, 0.3]), ("b", [0.2, 0.2, 0.4])):
        arms[arm] = make_run(folder / arm, "nt/H3", values)
        make_predictions(folder / arm, LABELS, [LABELS, [0] * 20, [1] * 20])
    return arms


def outcome(arms: dict[str, list[Path]], out: Path) -> str:
    """Compare; returns the error message, or an empty string. Any other exception fails the test."""
    try:
        write_comparison(arms, out)
    except UserError as error:
        message = str(error)
        assert "\n" not in message and message.isprintable() and len(message) < 1000, message
        return message
    return ""


def test_damaged_results_are_one_line(tmp_path: Path) -> None:
    arms = runs(tmp_path)
    file = arms["b"][1]
    content = file.read_bytes()
    for kind, damaged in damaged_bytes(content).items():
        file.write_bytes(damaged)
        message = outcome(arms, tmp_path / "out")
        assert message.startswith(f"{file}: damaged ("), (kind, message)
        assert message.endswith("; delete it and rerun the command that wrote it")


@pytest.mark.parametrize("count", [12, pytest.param(80, marks=pytest.mark.slow)])
def test_wrong_values_in_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, out, **_: out.touch())
    arms = runs(tmp_path)
    file = arms["b"][1]
    record = json.loads(file.read_text())
    cases = list(damaged_values(record))
    accepted = 0
    for what, damaged in random.Random(1).sample(cases, count):
        file.write_text(json.dumps(damaged))
        try:
            accepted += not outcome(arms, tmp_path / "out")
        except Exception as error:
            raise AssertionError(what) from error
    assert accepted < count


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty", b""),
        ("no columns", b"a\tb\n"),
        ("cut at a line", b"name\tlabel\tpredicted\nr0\t0\t0\n"),
        ("cut within a line", b"name\tlabel\tpredicted\nr0\t0\t0\nr1\t0"),
        ("unknown class", b"name\tlabel\tpredicted\nr0\t0\t7\n"),
        ("NUL", b"name\tlabel\tpredicted\n" + b"\0" * 50),
        ("not UTF-8", b"name\tlabel\tpredicted\nr0\t\xff\t0\n"),
        ("one long line", b"x" * 2**20),
        ("JSON", NESTED),
    ],
)
def test_damaged_predictions_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    arms = runs(tmp_path)
    file = arms["b"][1].with_name("predictions.tsv")
    file.write_bytes(content)
    message = outcome(arms, tmp_path / "out")
    assert str(file) in message and "delete the folder of the fold" in message, name


def test_predictions_of_other_rows_are_one_line(tmp_path: Path) -> None:
    arms = runs(tmp_path)
    file = arms["b"][1].with_name("predictions.tsv")
    file.write_text(file.read_text().replace("r3\t", "other\t"))
    assert "have different test rows, so one of them is damaged; delete" in outcome(arms, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, r"sweep.json: damaged \(") for content in damaged_bytes(b'{"tasks": {}}').values()),
        (b'{"tasks": {}}', "no finished fold"),
        (b'{"tasks": {"t": {"results": ["../../outside/result.json"]}}}', "not a plain relative path"),
        (b'{"tasks": {"t": {"results": ["/etc/passwd"]}}}', "not a plain relative path"),
        (b'{"tasks": {"t": {"results": ["a\\\\b"]}}}', "not a plain relative path"),
        (b'{"tasks": {"t": {"results": [1]}}}', r"tasks.t.results.0: expected text"),
        (b'{"tasks": {"t": {}}}', "tasks.t.results: missing"),
    ],
)
def test_damaged_sweep_files_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "sweep.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_results(tmp_path)


@pytest.mark.parametrize("name", [ESCAPES, "_x", "$x$", "<script>", "a|b", "`c`", "*d*", "e\nf", "x" * 500])
def test_hostile_names_change_neither_report_nor_figure(tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {"task": name, "suite": name, "settings": {"data.train": name}}
    arms = {
        arm: make_run(tmp_path / str(index), "nt/H3", [0.1, 0.2], **changes | {"settings": {"data.train": arm}})
        for index, arm in enumerate((name, f"{name} 2"))
    }
    write_comparison(arms, tmp_path / "out")
    report = (tmp_path / "out" / "results.md").read_text()
    assert escape(name) in report
    assert "<script>" not in report.replace("\\<script\\>", "") and "\x1b" not in report
    tables = re.findall(r"(?:^\|.*\n)+", report, flags=re.MULTILINE)
    for table in tables:  # an unescaped | would add a cell
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    assert (tmp_path / "out" / "results.png").stat().st_size > 1000
