"""Malformed variants of a metadata file: JSON, JSON Lines, YAML, TSV and binary."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

Build = Callable[[], bytes]
Mutation = tuple[str, Build]
"""Description, and a function that builds the content of the malformed file: most are never needed."""

DEPTH = 100_000
DEEP: Any = json.loads("[" * 150 + "]" * 150)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    10**30,
    1e300,
    float("nan"),
    "",
    "x",
    "../../escaped",
    "a\0\x1b[31m\n",
    [],
    {},
    ["x"],
    {"x": [1]},
    DEEP,
)
TOPS = (b"", b"null", b"[]", b"{}", b"3", b'"x"', b"[" * DEPTH, b'{"a":' * DEPTH, b"[" * DEPTH + b"]" * DEPTH)


def mutations(path: Path, outside: Path) -> Iterator[Mutation]:
    """Yield malformed variants of a file, always in the same order.

    Args:
        path: the file.
        outside: absolute path of a file that must not be written.
    """
    content = path.read_bytes()
    yield from _bytes(content)
    values = (*VALUES, str(outside))
    if path.suffix == ".json":
        yield from _tops()
        yield from _records(json.loads(content or b"null"), values, _json)
    elif path.suffix == ".jsonl":
        yield from _lines(content, values)
    elif path.suffix == ".yaml":
        yield from _tops()
        yield "alias bomb", _alias_bomb
        yield from _records(yaml.safe_load(content), values, lambda tree: yaml.safe_dump(tree).encode())
    elif path.suffix == ".tsv":
        yield from _cells(content)


def _bytes(content: bytes) -> Iterator[Mutation]:
    size = len(content)
    yield "empty", bytes
    for stop in sorted({1, size // 4, size // 2, 3 * size // 4, size - 1} - {0, size}):
        yield f"truncated to {stop} of {size} bytes", partial(content.__getitem__, slice(stop))
    rng = random.Random(size)
    for _ in range(12 if size else 0):
        at, bit = rng.randrange(size), rng.randrange(8)
        yield f"bit {bit} of byte {at} flipped", partial(_replaced, content, at, bytes([content[at] ^ 1 << bit]), 1)
    for name, piece in (("NUL", b"\0\0"), ("not UTF-8", b"\xff\xfe\xc3"), ("BOM", b"\xef\xbb\xbf"), ("CR", b"\r")):
        for at in (0, size // 2, size):
            yield f"{name} at byte {at}", partial(_replaced, content, at, piece, 0)


def _replaced(content: bytes, at: int, piece: bytes, size: int) -> bytes:
    return content[:at] + piece + content[at + size :]


def _tops() -> Iterator[Mutation]:
    for top in TOPS:
        yield f"only {top[:12]!r} ({len(top)} bytes)", partial(bytes, top)


def _alias_bomb() -> bytes:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12)]
    return "\n".join(lines).encode()


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _records(tree: Any, values: tuple[Any, ...], dump: Callable[[Any], bytes]) -> Iterator[Mutation]:
    """Remove each key, and replace each value."""

    def removed(keys: tuple[Any, ...]) -> bytes:
        changed = copy.deepcopy(tree)
        del _parent(changed, keys)[keys[-1]]
        return dump(changed)

    def replaced(keys: tuple[Any, ...], value: Any) -> bytes:
        changed = copy.deepcopy(tree)
        _parent(changed, keys)[keys[-1]] = value
        return dump(changed)

    for keys in _paths(tree):
        name = ".".join(map(str, keys))
        yield f"{name} removed", partial(removed, keys)
        for value in values:
            yield f"{name}={str(value)[:20]!r}", partial(replaced, keys, value)


def _paths(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys of all values; of a list, only of its first entry."""
    entries = tree.items() if isinstance(tree, dict) else list(enumerate(tree))[:1] if isinstance(tree, list) else ()
    for key, value in entries:
        yield (*above, key)
        yield from _paths(value, (*above, key))


def _parent(tree: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys[:-1]:
        tree = tree[key]
    return tree


def _lines(content: bytes, values: tuple[Any, ...]) -> Iterator[Mutation]:
    lines = content.splitlines(keepends=True)
    for number in sorted({0, len(lines) // 2, len(lines) - 1} if lines else ()):
        for name, build in (*_tops(), *_records(json.loads(lines[number]), values, _json)):
            yield f"line {number + 1}: {name}", partial(_with_line, lines, number, build)
        yield f"line {number + 1} removed", partial(b"".join, [*lines[:number], *lines[number + 1 :]])
        yield f"line {number + 1} repeated", partial(b"".join, [*lines[: number + 1], *lines[number:]])


def _with_line(lines: list[bytes], number: int, build: Build) -> bytes:
    return b"".join([*lines[:number], build() + b"\n", *lines[number + 1 :]])


def _cells(content: bytes) -> Iterator[Mutation]:
    rows = [line.split("\t") for line in content.decode().splitlines()]

    def changed(number: int, column: int, cells: list[str]) -> bytes:
        row = [*rows[number][:column], *cells, *rows[number][column + 1 :]]
        return _table([*rows[:number], row, *rows[number + 1 :]])

    for number in (0, 1):
        for column in range(len(rows[0])):
            for cell in ("", "x", "-1", "nan", "inf", "1" * 400, "../../escaped", "a\0b", '"'):
                yield f"row {number}, column {column}={cell[:20]!r}", partial(changed, number, column, [cell])
            yield f"row {number}: column {column} removed", partial(changed, number, column, [])
    yield "only the header", partial(_table, rows[:1])
    yield "last row removed", partial(_table, rows[:-1])


def _table(rows: list[list[str]]) -> bytes:
    return "".join("\t".join(row) + "\n" for row in rows).encode()
