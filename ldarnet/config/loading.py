"""Load configurations from YAML files and command-line overrides, with errors that say what to fix."""

import difflib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, overload

import annotated_types
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ldarnet.config.schema import RunConfig
from ldarnet.config.sections import Config, Section
from ldarnet.errors import UserError
from ldarnet.io import records
from ldarnet.packaged import find_config
from ldarnet.printable import printable

BOUND_WORDS = {
    annotated_types.Gt: ("gt", "more than"),
    annotated_types.Ge: ("ge", "at least"),
    annotated_types.Lt: ("lt", "less than"),
    annotated_types.Le: ("le", "at most"),
}

RENAMED_KEYS = {"training.recompute": "training.activation_checkpointing"}
"""Deprecated config key -> current key. Files (including configs saved in checkpoints) and overrides accept both."""

MIN_SIMILARITY, MIN_FULL_SIMILARITY = 0.6, 0.8
"""Minimum similarity, from 0 to 1, of a suggested key in the same section, and of a whole dotted key."""
MAX_SHOWN = 60
"""Maximum number of characters of a value in an error message."""

C = TypeVar("C", bound=Config)


@overload
def load_config(path: Path | str, overrides: list[str] | None = None) -> RunConfig: ...
@overload
def load_config(path: Path | str, overrides: list[str] | None = None, *, schema: type[C]) -> C: ...
def load_config(path: Path | str, overrides: list[str] | None = None, *, schema: type[Config] = RunConfig) -> Config:
    """Load a YAML file, apply `section.key=value` overrides (parsed as YAML) and validate the result.

    Args:
        path: path of the file, or name of a packaged configuration.
        overrides: applied in order; for keys outside a section, write `key=value`.
        schema: configuration class to validate against.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (the message suggests the nearest one), or a value
            has the wrong type or is out of range (the message states the range).
    """
    path = find_config(path)
    tree = read_yaml(path)
    _rename_deprecated(tree, schema, path)
    for override in overrides or []:
        _apply_override(tree, override, schema)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        source = f"{path} with overrides" if overrides else str(path)
        raise UserError(f"{source}: " + "; ".join(_explain(detail, schema) for detail in error.errors())) from None


def flatten(config: Config) -> dict[str, Any]:
    """Flatten a configuration to a dict that maps dotted keys, such as `optimizer.lr`, to values."""

    def walk(prefix: str, tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict) and value:
                yield from walk(f"{prefix}{key}.", value)
            else:
                yield prefix + key, value

    return dict(walk("", config.model_dump(mode="json")))


def fixed_keys(config: Config) -> list[str]:
    """List the dotted keys that must not change when a run is resumed, because they affect the result."""
    return [key for key in flatten(config) if not may_change(type(config), key)]


def differences(old: Config, new: Config) -> list[str]:
    """List the differences that prevent a run from being resumed, as `key: old -> new`."""
    before, after = flatten(old), flatten(new)
    keys = dict.fromkeys([*fixed_keys(old), *fixed_keys(new)])
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file without validation.

    Raises:
        UserError: the file cannot be read, is not valid YAML, or is not a mapping with text keys.
    """
    tree = records.read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError(
            f"{path}: expected sections such as `run:` and `data:`, found {type(tree).__name__}; is it a configuration?"
        )
    return tree


def _current_key(key: str, schema: type[Config]) -> str:
    """Translate a deprecated key to its current name, with a warning; return other keys unchanged."""
    new = RENAMED_KEYS.get(key)
    if new is None or new not in known_keys(schema):
        return key
    warnings.warn(f"config key {key} is deprecated; use {new}", FutureWarning, stacklevel=2)
    return new


def _rename_deprecated(tree: dict[str, Any], schema: type[Config], path: Path) -> None:
    """Rename deprecated keys of a configuration tree in place."""
    for old in RENAMED_KEYS:
        *parents, name = old.split(".")
        node: Any = tree
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name not in node or (new := _current_key(old, schema)) == old:
            continue
        *parents, new_name = new.split(".")
        target = tree
        for parent in parents:
            target = _descend(target, parent, new)
        if new_name in target:
            raise UserError(f"{path}: {old} is the deprecated name of {new}, which is also set; remove {old}")
        target[new_name] = node.pop(name)


def _apply_override(tree: dict[str, Any], override: str, schema: type[Config]) -> None:
    key, equals, text = override.partition("=")
    key = _current_key(key, schema)
    parts = key.split(".")
    if not equals or not all(parts) or (len(parts) == 1 and _is_section(schema, key)):
        hint = _suggestion(key, schema)
        raise UserError(f"override {_short(override)!r}: write it as section.key=value{hint}")
    node = tree
    for part in parts[:-1]:
        node = _descend(node, part, override)
    node[parts[-1]] = records.parse_yaml(text, where=f"override {_short(override)!r}", hint="fix or quote it")


def _is_section(schema: type[Section], key: str) -> bool:
    """Whether a top-level key is a section; True for unknown keys, too."""
    return key not in schema.model_fields or section_of(schema.model_fields[key]) is not None


def _descend(node: dict[str, Any], part: str, override: str) -> dict[str, Any]:
    child = node.get(part)
    if child is None:
        child = node[part] = {}
    if not isinstance(child, dict):
        raise UserError(
            f"override {_short(override)!r}: {_short(part)} is a value, not a section; see `ldarnet settings`"
        )
    return child


def _explain(detail: ErrorDetails, schema: type[Config]) -> str:
    """Convert a pydantic error to a one-line message."""
    key = ".".join(_short(part) for part in detail["loc"])
    kind, reason = detail["type"], str(detail["msg"])
    if kind == "extra_forbidden":
        return f"unknown key {key}{_suggestion(key, schema)}"
    if kind == "missing":
        missing = f"{key}.{_main_key(section)}" if (section := section_of(field_of(schema, key))) else key
        return f"{missing} is missing; set it in the file or with {missing}=..."
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "int_parsing_size"):
        allowed = range_of(field_of(schema, key)) or reason.removeprefix("Input should be ")
        return f"{key}={_short(detail['input'])} is out of range: {allowed}"
    if kind == "value_error":
        return (f"{key}: " if key else "") + reason.removeprefix("Value error, ")
    if kind == "invalid_key":
        return f"{key}: keys must be text; quote it"
    return f"{key}={_short(repr(detail['input']))}: {reason[0].lower()}{reason[1:]}"


def _short(value: object) -> str:
    """Format a value on one line, and cut it after `MAX_SHOWN` characters."""
    text = printable(str(value))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _suggestion(key: str, schema: type[Config]) -> str:
    """Format the end of an error message about an unknown dotted key, such as `; did you mean KEY?`.

    Suggests a key of the same name in another section, or a key with a similar spelling.
    """
    split = {known: known.rpartition(".")[::2] for known in known_keys(schema) if known != key}
    section, name = key.rpartition(".")[::2]
    near = [known for known, (_, other) in split.items() if other == name]
    siblings = {other: known for known, (parent, other) in split.items() if parent == section}
    near += [siblings[match] for match in difflib.get_close_matches(name, siblings, 1, MIN_SIMILARITY)]
    near += difflib.get_close_matches(key, [known for known in split if "." in known], 1, MIN_FULL_SIMILARITY)
    return f"; did you mean {near[0]}?" if near else "; `ldarnet settings` lists all keys"


def known_keys(schema: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys, including the names of the sections."""
    for key, field in schema.model_fields.items():
        yield prefix + key
        if (section := section_of(field)) is not None:
            yield from known_keys(section, f"{prefix}{key}.")


def _main_key(section: type[Section]) -> str:
    """First required key of a section, or its first key if no key is required."""
    return min(section.model_fields, key=lambda key: not section.model_fields[key].is_required())


def section_of(field: FieldInfo) -> type[Section] | None:
    """Section class of a field; None if the field is not a section."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def field_of(schema: type[Section], key: str) -> FieldInfo:
    """Look up the field of a dotted key. A key inside a mapping, such as `ops.ssd`, gets the field of the mapping."""
    name, _, rest = key.partition(".")
    field = schema.model_fields[name]
    section = section_of(field)
    if section is None and isinstance(field.annotation, UnionType):  # a section or null
        kinds = (kind for kind in get_args(field.annotation) if isinstance(kind, type))
        section = next((kind for kind in kinds if issubclass(kind, Section)), None)
    return field_of(section, rest) if section is not None and rest else field


def range_of(field: FieldInfo) -> str:
    """Format the allowed range, such as `more than 0, at most 1`; return "" if there are no bounds."""
    bounds = []
    for constraint in field.metadata:
        for kind, (attribute, words) in BOUND_WORDS.items():
            if isinstance(constraint, kind):
                bound = getattr(constraint, attribute)
                bounds.append(f"{words} {bound if isinstance(bound, int) else f'{bound:g}'}")
    return ", ".join(bounds)


def may_change(schema: type[Config], key: str) -> bool:
    """Whether a key may change when a run is resumed."""
    for field in (schema.model_fields[key.partition(".")[0]], field_of(schema, key)):
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("may_change"):
            return True
    return False
