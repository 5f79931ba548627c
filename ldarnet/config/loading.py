"""Load configurations from YAML files and command-line overrides, with errors that say what to fix."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from ldarnet.config.explain import explain, short, suggestion
from ldarnet.config.fields import known_keys, may_change, section_of
from ldarnet.config.schema import RunConfig
from ldarnet.config.sections import Config, Section
from ldarnet.errors import UserError
from ldarnet.io import records
from ldarnet.packaged import find_config

RENAMED_KEYS = {"training.recompute": "training.activation_checkpointing"}
"""Deprecated config key -> current key. Files (including configs saved in checkpoints) and overrides accept both."""

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
        raise UserError(f"{source}: {explain(error, tree, schema)}") from None


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
        hint = suggestion(key, schema)
        raise UserError(f"override {short(override)!r}: write it as section.key=value{hint}")
    node = tree
    for part in parts[:-1]:
        node = _descend(node, part, override)
    node[parts[-1]] = records.parse_yaml(text, where=f"override {short(override)!r}", hint="fix or quote it")


def _is_section(schema: type[Section], key: str) -> bool:
    """Whether a top-level key is a section; True for unknown keys, too."""
    return key not in schema.model_fields or section_of(schema.model_fields[key]) is not None


def _descend(node: dict[str, Any], part: str, override: str) -> dict[str, Any]:
    child = node.get(part)
    if child is None:
        child = node[part] = {}
    if not isinstance(child, dict):
        raise UserError(
            f"override {short(override)!r}: {short(part)} is a value, not a section; see `ldarnet settings`"
        )
    return child
