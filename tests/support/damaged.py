"""Damaged variants of JSON files: what disks, crashes, other programs and attackers leave."""

import copy
import json
from collections.abc import Iterator
from typing import Any

ESCAPES = "\x1b[31m$_^\\ $x$ <b>|`*"
VALUES = (None, True, -1, 0, 1e300, float("nan"), float("inf"), 10**30, "", ESCAPES, "x" * 10_000, [], [[]], {}, [None])
NESTED = b"[" * 100_000


def damaged_bytes(content: bytes) -> dict[str, bytes]:
    """Variants of a JSON document that no reader can accept."""
    half = len(content) // 2
    return {
        "empty": b"",
        "truncated": content[:half],
        "NUL": b"\0" * len(content),
        "NUL inside": content[:half] + b"\0" * 8 + content[half + 8 :],
        "not UTF-8": content.replace(b'"', b'"\xff', 1),
        "null": b"null",
        "list": b"[]",
        "number": b"1" + b"0" * 5000,
        "nested": NESTED,
        "nested value": content.rstrip()[:-1] + b', "later": ' + NESTED,
    }


def damaged_values(record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Variants of a record: each key removed, and each value, also of nested records and lists, replaced by another."""
    for path in _paths(record):
        for number, value in enumerate(("removed", *VALUES)):
            changed = copy.deepcopy(record)
            parent: Any = changed
            for key in path[:-1]:
                parent = parent[key]
            if number == 0:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
            yield f"{'.'.join(map(str, path))} {json.dumps(value)[:20] if number else 'removed'}", changed


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (key,)
        yield from ((key, *rest) for rest in _paths(entry))
