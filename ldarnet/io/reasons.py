"""Plain wording of pydantic's errors."""

from pydantic_core import ErrorDetails

BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}

_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "list_type": "a list",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "path_type": "a path",
    "string_type": "text",
    "tuple_type": "a list",
}
"""Type of an error -> what pydantic expected."""
_UNITS = {"string_too_long": "character", "string_too_short": "character", "too_long": "item", "too_short": "item"}


def reason(detail: ErrorDetails) -> str:
    """Describe what is wrong with a value, such as `expected a list`; names neither the key nor the value."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}"
    if kind == "missing":
        return "missing"
    if kind in ("literal_error", "enum"):
        return f"expected {context['expected']}"
    if unit := _UNITS.get(kind):
        words, count = (
            ("at least", context.get("min_length")) if "short" in kind else ("at most", context["max_length"])
        )
        return f"expected {words} {count} {unit}{'' if count == 1 else 's'}"
    if limits := [format_bound(name, context[name]) for name in BOUNDS if name in context]:
        return f"expected {', '.join(limits)}"
    text = str(detail["msg"]).removeprefix("Value error, ")
    return f"{text[0].lower()}{text[1:]}"


def format_bound(name: str, bound: float) -> str:
    """Format a bound, such as `at least 0`; `name` is a key of `BOUNDS`."""
    return f"{BOUNDS[name]} {bound if isinstance(bound, int) else f'{bound:g}'}"
