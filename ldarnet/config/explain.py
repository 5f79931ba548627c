"""One-line error messages about configurations. Keys are written in full, as in `optimizer.lr=2`."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ldarnet.config.fields import field_of, item_section, known_keys, main_key, nullable_section, range_of, section_of
from ldarnet.config.sections import Config, Section
from ldarnet.io.reasons import BOUNDS, reason
from ldarnet.printable import printable

MIN_SIMILARITY, MIN_FULL_SIMILARITY = 0.6, 0.8
"""Minimum similarity, from 0 to 1, of a suggested key in the same section, and of a whole dotted key."""
MAX_SHOWN = 60
"""Maximum number of characters of a value in an error message."""

_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "int_parsing_size")
_MISSING = object()


def explain(error: ValidationError, tree: dict[str, Any], schema: type[Config]) -> str:
    """Convert the errors of a configuration to one line.

    Args:
        error: raised by `schema.model_validate(tree)`.
        tree: the configuration.
        schema: class of the configuration.
    """
    expected: dict[tuple[str, str], list[str]] = {}  # a value of a union has one error for each type
    messages: list[str] = []
    for detail in error.errors():
        keys = list(_keys(detail, tree))
        message, why = _message(detail, keys, tree, schema), reason(detail)
        start = message.removesuffix(why)
        if start != message and why.startswith("expected "):
            expected.setdefault((".".join(keys), start), []).append(why.removeprefix("expected "))
        else:
            messages.append(message)
    for (key, start), kinds in expected.items():
        if not any(other.startswith(f"{key}.") for other, _ in expected):
            messages.append(f"{start}expected {' or '.join(dict.fromkeys(kinds))}")
    return "; ".join(messages)


def suggestion(key: str, schema: type[Config]) -> str:
    """Format the end of an error message about an unusable dotted key, such as `; did you mean KEY?`.

    Suggests the main key of the section with this name, a key of the same name in another section, or a key with a
    similar spelling.
    """
    sections = {known: section for known in known_keys(schema) if (section := section_of(field_of(schema, known)))}
    split = {known: known.rpartition(".")[::2] for known in known_keys(schema) if known not in sections}
    section, name = key.rpartition(".")[::2]
    near = [f"{known}.{main_key(sections[known])}" for known in sections if known == name]
    near += [known for known, (_, other) in split.items() if other == name and known != key]
    siblings = {other: known for known, (parent, other) in split.items() if parent == section}
    near += [siblings[match] for match in difflib.get_close_matches(name, siblings, 1, MIN_SIMILARITY)]
    near += difflib.get_close_matches(key, [known for known in split if "." in known], 1, MIN_FULL_SIMILARITY)
    if not section:
        close = difflib.get_close_matches(name, sections, 1, MIN_SIMILARITY)
        near += [f"{known}.{main_key(sections[known])}" for known in close]
    return f"; did you mean {near[0]}?" if near else "; `ldarnet settings` lists all keys"


def short(value: object) -> str:
    """Format a value on one line, and cut it after `MAX_SHOWN` characters."""
    text = printable(str(value))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _message(detail: ErrorDetails, keys: list[str], tree: dict[str, Any], schema: type[Config]) -> str:
    key, kind, why = ".".join(keys), detail["type"], reason(detail)
    if kind == "extra_forbidden":
        return f"unknown key {key}{_suggestion_at(keys, schema)}"
    if kind == "missing":
        return _missing(keys, tree, schema)
    if kind in _OUT_OF_RANGE:
        return f"{key}={short(detail['input'])} is out of range: {_range(detail, key, schema)}"
    if kind == "value_error":
        return _qualified(why, key, schema) if key else why
    if kind == "invalid_key":
        return f"{key}: keys must be text; quote it"
    return f"{key}={_value(detail['input'])}: {why}"


def _keys(detail: ErrorDetails, tree: Any) -> Iterator[str]:
    """Yield the parts of the dotted key of an error, without the names that pydantic gives to the types of a union."""
    value, last = tree, len(detail["loc"]) - 1
    for number, part in enumerate(detail["loc"]):
        child = _child(value, part)
        if child is _MISSING and not (number == last and detail["type"] in ("missing", "invalid_key")):
            continue
        value = child
        yield short(part)


def _child(value: Any, part: int | str) -> Any:
    """Value at a key or index; at a dotted key, if there is no such key, the value in nested mappings."""
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    if not isinstance(value, Mapping):
        return _MISSING
    if part not in value and isinstance(part, str) and "." in part:
        name, _, rest = part.partition(".")
        return _child(_child(value, name), rest)
    return value.get(part, _MISSING)


def _missing(keys: list[str], tree: dict[str, Any], schema: type[Config]) -> str:
    """Message about a missing key, or about a tuple with too few items."""
    *parents, name = keys
    if name.isdecimal():
        value: Any = tree
        for parent in parents:
            value = _child(value, parent)
        return f"{'.'.join(parents)}={_value(value)}: expected more items"
    key = ".".join(keys)
    if section := section_of(field_of(schema, key)):
        key = f"{key}.{main_key(section)}"
    in_list = any(part.isdecimal() for part in keys)
    return f"{key} is missing; " + ("add it" if in_list else f"set it in the file or with {key}=...")


def _range(detail: ErrorDetails, key: str, schema: type[Config]) -> str:
    field = field_of(schema, key)
    own = any(name in detail.get("ctx", {}) for name in BOUNDS) and any(part.isdecimal() for part in key.split("."))
    return (not own and range_of(field)) or reason(detail).removeprefix("expected ")


def _suggestion_at(keys: list[str], schema: type[Config]) -> str:
    """End of a message about an unknown key, which may be a key of an item of a list."""
    if len(keys) > 2 and keys[-2].isdecimal():
        section = item_section(field_of(schema, ".".join(keys[:-2])))
        return f"; use {' or '.join(section.model_fields)}" if section else ""
    if len(keys) == 1 and (near := difflib.get_close_matches(keys[0], schema.model_fields, 1, MIN_SIMILARITY)):
        return f"; did you mean {near[0]}?"
    return suggestion(".".join(keys), schema)


def _qualified(message: str, key: str, schema: type[Config]) -> str:
    """Write the keys in the message of a section's validator, such as `warmup=0.5`, in full."""
    section: type[Section] | None = section_of(field := field_of(schema, key)) or nullable_section(field)
    names = "|".join(section.model_fields) if section else ""
    text, count = re.subn(rf"(?<![\w.])({names})(?=[=:])", rf"{key}.\1", message) if names else (message, 0)
    return text if count else f"{key}: {message}"


def _value(value: object) -> str:
    names: dict[object, str] = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else short(repr(value))
