"""Look up the keys and fields of configuration schemas."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from ldarnet.config.sections import Config, Section
from ldarnet.io.reasons import BOUNDS, format_bound


def known_keys(schema: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys, including the names of the sections and the keys of sections that may be null."""
    for key, field in schema.model_fields.items():
        yield prefix + key
        if (section := section_of(field) or nullable_section(field)) is not None:
            yield from known_keys(section, f"{prefix}{key}.")


def main_key(section: type[Section]) -> str:
    """First required key of a section, or its first key if no key is required."""
    return min(section.model_fields, key=lambda key: not section.model_fields[key].is_required())


def section_of(field: FieldInfo) -> type[Section] | None:
    """Section class of a field; None if the field is not a section."""
    return _section(field.annotation)


def nullable_section(field: FieldInfo) -> type[Section] | None:
    """Section class of a field such as `AshaSection | None`; None for other fields."""
    return _member(field) if type(None) in get_args(field.annotation) else None


def item_section(field: FieldInfo) -> type[Section] | None:
    """Section class of the items of a list such as `list[LengthStage]`; None for other fields."""
    return None if type(None) in get_args(field.annotation) else _member(field)


def _member(field: FieldInfo) -> type[Section] | None:
    return next(filter(None, map(_section, get_args(field.annotation))), None)


def _section(kind: Any) -> type[Section] | None:
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def field_of(schema: type[Section], key: str) -> FieldInfo:
    """Look up the field of a dotted key. A key inside a mapping, such as `ops.ssd`, gets the field of the mapping."""
    name, _, rest = key.partition(".")
    field = schema.model_fields[name]
    section = section_of(field) or nullable_section(field)
    return field_of(section, rest) if section is not None and rest else field


def range_of(field: FieldInfo) -> str:
    """Format the allowed range, such as `more than 0, at most 1`; return "" if there are no bounds."""
    limits = [(name, getattr(limit, name, None)) for limit in field.metadata for name in BOUNDS]
    return ", ".join(format_bound(name, bound) for name, bound in limits if bound is not None)


def may_change(schema: type[Config], key: str) -> bool:
    """Whether a key may change when a run is resumed."""
    for field in (schema.model_fields[key.partition(".")[0]], field_of(schema, key)):
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("may_change"):
            return True
    return False
