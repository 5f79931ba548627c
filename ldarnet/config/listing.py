"""List all keys of a configuration with default, allowed values and description (``ldarnet settings``)."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from ldarnet.config.fields import field_of, item_section, known_keys, may_change, range_of, section_of
from ldarnet.config.sections import Config


def list_settings(schema: type[Config]) -> Iterator[str]:
    """Yield one line per key: `key = default  (allowed values)  description  [may change on resume]`."""
    for key in known_keys(schema):
        field = field_of(schema, key)
        if section_of(field) is not None:
            continue
        yield _line(key, field, may_change(schema, key))
        if (section := item_section(field)) is not None:
            for name, inner in section.model_fields.items():
                yield _line(f"{key}.{name}", inner, may_change(schema, key))


def _line(key: str, field: FieldInfo, changeable: bool) -> str:
    allowed = ", ".join(filter(None, (_choices(field.annotation), range_of(field))))
    parts = [f"{key} = {_default(field)}", f"({allowed})" if allowed else "", field.description or ""]
    parts.append("[may change on resume]" if changeable else "")
    return "  ".join(filter(None, parts))


def _default(field: FieldInfo) -> str:
    """Format the default value as YAML, or as `(required)` for a required key."""
    if field.is_required():
        return "(required)"
    value: Any = field.get_default(call_default_factory=True)
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _choices(annotation: Any) -> str:
    """Format the choices of a type that is or contains a `Literal`, as `a or b`; return "" for other types."""
    if get_origin(annotation) is Literal:
        return " or ".join(str(value) for value in get_args(annotation))
    return next(filter(None, map(_choices, get_args(annotation))), "")
