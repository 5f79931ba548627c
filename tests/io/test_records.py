from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.errors import UserError
from ldarnet.io.names import FileName
from ldarnet.io.records import Count, parse_record, parse_yaml, read_record, read_records, read_yaml


@dataclass
class Entry:
    name: FileName
    size: Count
    tags: list[str] = field(default_factory=list)


GOOD = '{"name": "a.txt", "size": 3, "tags": ["x"], "later": 1}'
MALFORMED = {
    "not UTF-8": b'{"name": "\xff", "size": 3}',
    "NUL": b"\0\0\0\0",
    "empty": b"",
    "truncated": GOOD[:20].encode(),
    "trailing": (GOOD + "x").encode(),
    "list": b"[]",
    "null": b"null",
    "missing key": b'{"name": "a"}',
    "wrong type": b'{"name": "a", "size": "3"}',
    "boolean for a count": b'{"name": "a", "size": true}',
    "fraction": b'{"name": "a", "size": 3.5}',
    "negative": b'{"name": "a", "size": -1}',
    "huge": b'{"name": "a", "size": 1' + b"0" * 5000 + b"}",
    "infinite": b'{"name": "a", "size": 1e999}',
    "NaN": b'{"name": "a", "size": NaN}',
    "outside": b'{"name": "../a", "size": 1}',
    "deeply nested": b'{"name": ' + b"[" * 100_000,
    "lone surrogate": b'{"name": "\\ud800", "size": 1}',
}


def test_reads_a_record_and_ignores_keys_of_later_versions():
    assert parse_record(GOOD, Entry, where="f", hint="h") == Entry("a.txt", 3, ["x"])


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_records_are_one_line_that_names_the_file(content, tmp_path):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_record(tmp_path / "r.json", Entry, hint="write it again")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/r.json: damaged (") and message.endswith("; write it again")
    assert "\n" not in message and len(message) < 400 and message.isprintable()


def test_the_message_names_the_key():
    with pytest.raises(UserError, match=r"index: damaged \(1\.size: expected at least 0\)"):
        parse_record('[{"name": "a", "size": 1}, {"name": "b", "size": -2}]', list[Entry], where="index", hint="h")


def test_control_characters_in_keys_are_made_visible():
    with pytest.raises(UserError, match=r"index: damaged \(a\\x1b\\n: expected an integer\); h"):
        parse_record('{"a\\u001b\\n": "b"}', dict[str, int], where="index", hint="h")


def test_a_file_larger_than_expected_is_not_read(tmp_path):
    (tmp_path / "big").write_text(GOOD)
    with pytest.raises(UserError, match="larger than 10 bytes"):
        read_record(tmp_path / "big", Entry, hint="h", max_bytes=10)


def test_lines_are_numbered_and_a_truncated_last_line_is_skipped(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_text(f"{GOOD}\n{GOOD}\n{GOOD[:30]}")
    assert [number for number, _ in read_records(path, Entry, hint="h")] == [1, 2]
    path.write_text(f"{GOOD}\n{GOOD[:30]}\n{GOOD}\n")
    with pytest.raises(UserError, match="line 2: damaged"):
        list(read_records(path, Entry, hint="h"))


def bomb(levels: int = 9, width: int = 9) -> str:
    rows = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(rows)


YAML = {
    "alias bomb": (bomb(), "values after expanding"),
    "alias of itself": ("a: &a [*a]", "values after expanding"),
    "deeply nested": ("[" * 20_000, "nested too deeply"),
    "truncated": ("run: {a: 1", "not valid YAML"),
    "control characters": ("run: \0", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "object": ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    "date": ("a: 2020-99-99", "not valid YAML"),
    "huge number": ("a: " + "1" * 5000, "not valid YAML"),
    "list as key": ("? [1]\n: 2", "not valid YAML"),
}


@pytest.mark.parametrize(("text", "reason"), YAML.values(), ids=YAML)
def test_malformed_yaml_is_one_line_at_once(text, reason, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        read_yaml(tmp_path / "c.yaml")
    assert str(caught.value).startswith(str(tmp_path / "c.yaml")) and "\n" not in str(caught.value)


def test_yaml_keeps_aliases_and_ignores_a_byte_order_mark():
    assert parse_yaml(b"\xef\xbb\xbfa: &x {n: 1}\nb: *x\n", where="f") == {"a": {"n": 1}, "b": {"n": 1}}
    assert parse_yaml("", where="f") is None


def outcome(read, path) -> str:
    """Message of the error of `read(path)`; empty if it succeeds."""
    try:
        read(path)
    except UserError as error:
        return str(error)
    return ""


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_one_line(tmp_path_factory, content):
    path: Path = tmp_path_factory.mktemp("any") / "f"
    path.write_bytes(content)
    for read in (read_yaml, lambda path: read_record(path, Entry, hint="h")):
        assert outcome(read, path).isprintable()
