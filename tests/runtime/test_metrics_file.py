"""Resuming keeps every line of completed steps, and never deletes a damaged line without a copy and a warning."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.errors import UserError
from ldarnet.io import records
from ldarnet.runtime import metrics_file
from ldarnet.runtime.metrics_file import ALL_STEPS, MetricsFile, read_metrics


def text(steps):
    return "".join(json.dumps({"step": step, "split": "train", "loss": 1.5}) + "\n" for step in steps)


def opened(folder, completed):
    """Open and close the file; return its new content and the warnings."""
    warnings = []
    MetricsFile(folder, completed, warn=warnings.append).close()
    return (folder / "metrics.jsonl").read_bytes(), warnings


@pytest.mark.parametrize(
    ("before", "completed", "after"),
    [
        ("", 3, ""),
        (text([1, 2, 3]), 3, text([1, 2, 3])),
        (text([1, 2, 3, 4]), 2, text([1, 2])),
        (text([5, 6]), 2, ""),
        (text([1, 2]) + '{"step": 3, "spl', 3, text([1, 2])),
        (text([1, 2])[:-1], 2, text([1, 2])),
        (text([1, 2, 3])[:-1], 2, text([1, 2])),
        (text([1, 2]) + "\0" * 4096, 2, text([1, 2])),
        (text([1, 2]) + "\0" * 4096, 1, text([1])),
        ('{"step": 1, "loss": NaN, "norm": Infinity}\n', 1, '{"step": 1, "loss": NaN, "norm": Infinity}\n'),
        (text([1, 5, 2, 6]), 3, text([1, 2])),
    ],
)
def test_lines_of_completed_steps_are_kept(tmp_path, before, completed, after):
    (tmp_path / "metrics.jsonl").write_text(before)
    assert opened(tmp_path, completed) == (after.encode(), [])
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


DAMAGED = {
    "not JSON": b'{"step": 2, "lo\x00s": 1}\n',
    "not UTF-8": b'{"step": 2, "\xff": 1}\n',
    "a number": b"2\n",
    "no step": b'{"loss": 1}\n',
    "step of another type": b'{"step": "2"}\n',
    "fraction": b'{"step": 2.5}\n',
    "negative": b'{"step": -2}\n',
    "huge": b'{"step": 1' + b"0" * 400 + b"}\n",
    "deep": b'{"step": 2, "a": ' + b"[" * 10_000 + b"}\n",
    "empty line": b"\n",
    "two lines in one": b'{"step": 2}{"step": 3}\n',
    "NUL block": b"\0" * 512 + b"\n",
}


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_other_damaged_lines_are_reported_and_the_old_file_is_kept(tmp_path, line, place):
    lines = [one.encode() + b"\n" for one in text([1, 2, 3, 4]).splitlines()]
    lines.insert(place, line)
    path, copy = tmp_path / "metrics.jsonl", tmp_path / "metrics.jsonl.damaged-1"
    path.write_bytes(b"".join(lines))
    content, warnings = opened(tmp_path, 3)
    assert content.decode() == text([1, 2, 3])
    assert warnings == [f"{path}: 1 damaged line(s) removed: {place + 1}; the old file is kept as {copy}"]
    assert copy.read_bytes() == b"".join(lines)
    assert opened(tmp_path, 3) == (content, [])


def test_every_damaged_file_gets_its_own_copy(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for number in (1, 2):
        path.write_text(f"{number}\n" * 7 + text([1]))
        _, (warning,) = opened(tmp_path, 1)
        assert "7 damaged line(s) removed: 1, 2, 3, 4, 5, ...; the old file is kept as" in warning
        assert path.with_name(f"metrics.jsonl.damaged-{number}").read_text() == f"{number}\n" * 7 + text([1])


def test_copy_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr("os.link", no_links)
    (tmp_path / "metrics.jsonl").write_text("x\n" + text([1]))
    assert opened(tmp_path, 1)[0].decode() == text([1])
    assert (tmp_path / "metrics.jsonl.damaged-1").read_text() == "x\n" + text([1])


def test_lines_longer_than_any_of_ours_are_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_file, "MAX_LINE_BYTES", 100)
    for size, is_damaged in ((60, False), (100, True), (5000, True)):
        long = json.dumps({"step": 2, "a": "x" * size}) + "\n"
        (tmp_path / "metrics.jsonl").write_text(text([1]) + long + text([3]))
        content, warnings = opened(tmp_path, 3)
        assert content.decode() == (text([1, 3]) if is_damaged else text([1]) + long + text([3]))
        assert len(warnings) == is_damaged


@given(
    st.lists(st.one_of(st.integers(0, 9).map(lambda step: text([step]).encode()), st.binary(max_size=30)), max_size=12),
    st.integers(0, 9),
)
def test_nothing_is_lost(tmp_path_factory, parts, completed):
    """Every complete line of a completed step is kept; anything else is deleted, or in the copy of the old file."""
    folder = tmp_path_factory.mktemp("metrics")
    before = b"".join(parts)
    (folder / "metrics.jsonl").write_bytes(before)
    content, warnings = opened(folder, completed)

    def step(line):
        try:
            found = records.parse_record(line, metrics_file.StepLine, where="", hint="").step
        except UserError:
            return None
        return found

    *lines, last = before.split(b"\n")
    kept = [line for line in lines if step(line) is not None and step(line) <= completed]
    if step(last) is not None and step(last) <= completed:
        kept.append(last)
    assert content == b"".join(line + b"\n" for line in kept)
    assert (len(warnings) == 1) == any(step(line) is None for line in lines)
    copies = list(folder.glob("*.damaged-1"))
    assert [copy.read_bytes() for copy in copies] == [before] * len(warnings)


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for lines in (1_000, 20_000):
        (tmp_path / "metrics.jsonl").write_text(text(range(lines)))
        tracemalloc.start()
        MetricsFile(tmp_path, lines - 10).close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_a_launch_record_is_appended_after_a_truncated_one(tmp_path):
    path = tmp_path / "starts.jsonl"
    path.write_text('{"step": 5, "a": 1}\n{"step": 3}\n{"step": 7, "tor')
    file = MetricsFile(tmp_path, ALL_STEPS, "starts.jsonl", pytest.fail)
    file.write({"step": 9})
    file.close()
    assert [line["step"] for line in read_metrics(path)] == [5, 3, 9]


def test_readers_name_a_damaged_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(text([1]) + "x\n" + text([2]))
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2: damaged \(.*; delete this line"):
        read_metrics(tmp_path / "metrics.jsonl")
