"""Packages whose modules register themselves: dropping one file into the folder is all that an extension takes."""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def load_folder(package: str) -> list[ModuleType]:
    """Import every module directly inside a package, in alphabetical order; names that start with `_` are skipped.

    Importing a module is what registers its content, so repeated calls change nothing.

    Args:
        package: dotted name, such as `ldarnet.finetuning.arms`.

    Returns:
        The imported modules.
    """
    names = sorted(module.name for module in iter_modules(import_module(package).__path__))
    return [import_module(f"{package}.{name}") for name in names if not name.startswith("_")]
