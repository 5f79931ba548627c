"""Import plugins (modules that register their content), and suggest the right name if a name is mistyped."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def load_folder(package: str) -> list[ModuleType]:
    """Import every module directly inside a package, in alphabetical order; names that start with `_` are skipped.

    Modules register their content when they are first imported.

    Args:
        package: dotted name, such as `ldarnet.finetuning.arms`.

    Returns:
        The imported modules.
    """
    names = sorted(module.name for module in iter_modules(import_module(package).__path__))
    return [import_module(f"{package}.{name}") for name in names if not name.startswith("_")]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Format the hint for an error about an unknown name, such as `did you mean 'mcc'? (mcc, f1, accuracy)`."""
    known = list(known)
    near = get_close_matches(name.lower(), known, n=1)
    return f"did you mean {near[0]!r}? ({', '.join(known)})" if near else f"use one of {', '.join(known)}"
