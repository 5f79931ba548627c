"""Reports of runs with damaged files: a page, or one line that names the file."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ldarnet.errors import UserError
from ldarnet.report import page
from tests.report.test_report import run, train_line, valid_line, write  # noqa: F401
from tests.support.damaged import ESCAPES, damaged_bytes, damaged_values

FILES = ("metrics.jsonl", "boundaries.jsonl", "starts.jsonl")


def outcome(folder: Path, out: Path) -> str:
    """Write a report; returns the error message, or an empty string. Any other exception fails the test."""
    out.unlink(missing_ok=True)
    try:
        page.write_report(folder, out)
    except UserError as error:
        assert not out.exists()
        message = str(error)
        assert "\n" not in message and message.isprintable() and len(message) < 600, message
        return message
    assert out.stat().st_size > 2000
    return ""


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_line_is_named_by_its_number(run, tmp_path, name):  # noqa: F811
    folder = run(steps=20)
    file = folder / name
    lines = file.read_bytes().splitlines(keepends=True)
    for kind, line in damaged_bytes(lines[-1]).items():
        if b"\n" in line[:-1]:
            continue
        file.write_bytes(b"".join(lines) + line.rstrip() + b"\n" + lines[-1])
        message = outcome(folder, tmp_path / "page.html")
        assert message.startswith(f"{file}: line {len(lines) + 1}: "), (kind, message)
        assert message.endswith("; delete this line")


def test_config_of_another_kind_is_one_line(run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(page, "draw_panels", lambda *_: {"figures": [], "empty": {}})
    folder, out = run(steps=5), tmp_path / "page.html"
    config = folder / "config.yaml"
    wrong = (b"[1]", b"a: [", b"\0", b"\xff", b"[" * 100_000, b"x: &a [*a]", b"1", b"", b"a: 0x" + b"f" * 9000)
    for content in wrong:
        config.write_bytes(content)
        assert "config.yaml: " in outcome(folder, out), content[:20]
    for content in (b"task: x", b"training:\n  steps: many", b"training: [1]"):
        config.write_bytes(content)
        assert outcome(folder, out) == "", content


def cases() -> list[tuple[str, str, dict[str, Any]]]:
    """File, description and damaged last line."""
    sample = {"step": 20, "contig": "chrI", "start": 500, "bases": "ACGT", "probability": [100, 3, 70, 20]}
    sample["boundaries"] = [[0, 2], [0]]
    launch = {"step": 0, "time": "2026-01-02T03:04:05+00:00", "ranks": 2, "device": "cpu", "zero_stage": 1}
    launch |= {
        "ldarnet": "0.1",
        "commit": None,
        "python": "3",
        "torch": "2",
        "deepspeed": "0",
        "kernels": {"ssd": "torch"},
    }
    lines = [("metrics.jsonl", train_line(21, 2)), ("metrics.jsonl", valid_line(21, 2))]
    lines += [("boundaries.jsonl", sample), ("starts.jsonl", launch)]
    return [(name, what, line) for name, record in lines for what, line in damaged_values(record)]


def append(folder: Path, lines: dict[str, list[dict[str, Any]]]) -> dict[Path, bytes]:
    """Append lines to files; returns the previous contents."""
    before = {folder / name: (folder / name).read_bytes() for name in lines}
    for file, content in before.items():
        file.write_bytes(content + b"".join(json.dumps(line).encode() + b"\n" for line in lines[file.name]))
    return before


def accepted(folder: Path, chosen: list[tuple[str, str, dict[str, Any]]], out: Path) -> list[tuple[str, str, Any]]:
    """Append each damaged line alone, and write a page without figures; returns the cases that are not an error."""
    found = []
    for name, what, line in chosen:
        before = append(folder, {name: [line]})
        try:
            message = outcome(folder, out)
        except Exception as error:
            raise AssertionError(f"{name}: {what}") from error
        assert not message or str(folder / name) in message, (what, message)
        if not message:
            found.append((name, what, line))
        for file, content in before.items():
            file.write_bytes(content)
    return found


def merged(found: list[tuple[str, str, dict[str, Any]]]) -> list[dict[str, list[dict[str, Any]]]]:
    """Merge accepted lines that differ in different keys, so that a page shows one damaged value of every key."""
    by_key: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for name, what, line in found:
        by_key.setdefault((name, line.get("split", ""), what.partition(" ")[0].partition(".")[0]), []).append(line)
    pages: list[dict[str, list[dict[str, Any]]]] = []
    for number in range(max(map(len, by_key.values()))):
        lines: dict[tuple[str, str], dict[str, Any]] = {}
        for (name, split, key), variants in by_key.items():
            variant = variants[number % len(variants)]
            line = lines.setdefault((name, split), dict(variant))
            line.pop(key, None)
            line |= {key: variant[key]} if key in variant else {}
        pages.append({name: [line for (file, _), line in lines.items() if file == name] for name, _ in lines})
    return pages


@pytest.mark.parametrize(("values", "pages"), [(60, 1), pytest.param(600, 3, marks=pytest.mark.slow)])
def test_wrong_values(run, tmp_path, monkeypatch, values, pages):  # noqa: F811
    monkeypatch.setattr(page, "template", cache(page.template))
    folder, out = run(steps=20, stages=2), tmp_path / "page.html"
    chosen = random.Random(0).sample(cases(), values)
    with monkeypatch.context() as patch:
        patch.setattr(page, "draw_panels", lambda *_: {"figures": [], "empty": {}})
        found = accepted(folder, chosen, out)
    assert 0 < len(found) < values
    # Draw, but do not render to SVG: rendering takes most of the time.
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, out, **_: figure.draw_without_rendering())
    for lines in merged(found)[:pages]:
        before = append(folder, lines)
        assert outcome(folder, out) == "", lines
        for file, content in before.items():
            file.write_bytes(content)


def test_names_from_outside_are_drawn_and_escaped(run, tmp_path):  # noqa: F811
    folder = run(steps=20)
    metrics = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line in lines:
        if "regions" in line:
            line["regions"] = dict.fromkeys((ESCAPES, "$", "$a$", "a_{b", "_x", "x" * 10**5), line["regions"]["gene"])
        else:
            line["gradient_norms"] = line["lr"] = line["phase_share"] = {ESCAPES: 1.0, "$x_$": 0.5, "\x00": 0.1}
    write(metrics, lines)
    samples = [json.loads(line) for line in (folder / "boundaries.jsonl").read_text().splitlines()]
    write(folder / "boundaries.jsonl", [line | {"contig": ESCAPES} for line in samples])
    assert outcome(folder, tmp_path / "page.html") == ""
    text = (tmp_path / "page.html").read_text()
    assert "<b>|" not in text and "&lt;b&gt;|" in text
