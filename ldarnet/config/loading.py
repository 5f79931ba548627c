"""Reading a run's configuration from YAML and overrides, with errors that a user can act on."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ldarnet.config.schema import RunConfig
from ldarnet.errors import UserError

BOUND_WORDS = {
    annotated_types.Gt: ("gt", "more than"),
    annotated_types.Ge: ("ge", "at least"),
    annotated_types.Lt: ("lt", "less than"),
    annotated_types.Le: ("le", "at most"),
}


def load_config(path: Path | str, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file, apply `section.key=value` overrides (values are YAML), and check every key.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (the nearest valid one is named), or a value is
            of the wrong type or out of range (the range is named).
    """
    path = Path(path)
    tree = _read_yaml(path)
    for override in overrides or []:
        _apply_override(tree, override)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        place = f"{path} with the overrides" if overrides else str(path)
        raise UserError(f"{place}: " + "; ".join(_explain(detail) for detail in error.errors())) from None


def flatten(config: RunConfig) -> dict[str, Any]:
    """All values by dotted key, such as `optimizer.lr`."""

    def walk(prefix: str, tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict) and value:
                yield from walk(f"{prefix}{key}.", value)
            else:
                yield prefix + key, value

    return dict(walk("", config.model_dump(mode="json")))


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """The keys whose values differ and that a run cannot be continued with, as `key: old -> new`."""
    before, after = flatten(old), flatten(new)
    changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in changed if not _may_change(key)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UserError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as `run:` and `data:`, found {type(tree).__name__}")
    return tree


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise UserError(f"override {override!r}: write it as section.key=value, such as training.steps=100")
    node = tree
    for part in parts[:-1]:
        node = _descend(node, part, override)
    try:
        node[parts[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value; quote it") from None


def _descend(node: dict[str, Any], part: str, override: str) -> dict[str, Any]:
    child = node.get(part)
    if child is None:
        child = node[part] = {}
    if not isinstance(child, dict):
        raise UserError(f"override {override!r}: {part} is a value, not a section")
    return child


def _explain(detail: ErrorDetails) -> str:
    """One pydantic error as a sentence."""
    key = ".".join(str(part) for part in detail["loc"])
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f"unknown key {key}{_suggestion(key)}"
    if kind == "missing":
        return f"{key} is missing; set it in the file or with {key}=..."
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        allowed = _range(key) or detail["msg"].removeprefix("Input should be ")
        return f"{key}={detail['input']} is out of range: {allowed}"
    if kind == "value_error":
        return f"{key}: {str(detail['msg']).removeprefix('Value error, ')}"
    return f"{key}={detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _suggestion(key: str) -> str:
    """The valid key nearest to an unknown one: the same name in another section, or else a similar spelling."""
    known = list(_known_keys())
    name = key.rsplit(".", 1)[-1]
    same_name = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == name]
    section = [candidate for candidate in known if candidate.rsplit(".", 1)[0] == key.rsplit(".", 1)[0]]
    near = same_name or difflib.get_close_matches(key, section, 1, 0.6) or difflib.get_close_matches(key, known, 1, 0.0)
    return f"; did you mean {near[0]}?"


def _known_keys() -> Iterator[str]:
    for section, field in RunConfig.model_fields.items():
        yield section
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{section}.{key}" for key in field.annotation.model_fields)


def _field(key: str) -> Any:
    section, _, name = key.partition(".")
    annotation = RunConfig.model_fields[section].annotation
    assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation.model_fields[name.split(".")[0]]


def _range(key: str) -> str:
    """The allowed range in words, such as `more than 0, at most 1`."""
    bounds = []
    for constraint in _field(key).metadata:
        for kind, (attribute, words) in BOUND_WORDS.items():
            if isinstance(constraint, kind):
                bounds.append(f"{words} {getattr(constraint, attribute):g}")
    return ", ".join(bounds)


def _may_change(key: str) -> bool:
    section = key.partition(".")[0]
    extra = RunConfig.model_fields[section].json_schema_extra
    if extra is None:
        extra = _field(key).json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("may_change"))
