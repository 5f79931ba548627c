"""Packaged configurations, looked up by name."""

import difflib
from pathlib import Path

from ldarnet.errors import UserError

_PACKAGE = Path(__file__).resolve().parent


def packaged_configs() -> dict[str, Path]:
    """Map the names of the packaged configurations, such as ``pretrain/quickstart``, to their files."""
    folder = _PACKAGE / "configs"  # in a wheel
    if not folder.is_dir():
        folder = _PACKAGE.parent / "configs"  # in a checkout
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob("*/*.yaml"))}


def find_config(name: Path | str) -> Path:
    """Resolve a configuration to its file.

    Args:
        name: path, or packaged configuration such as ``pretrain/quickstart``, ``quickstart`` or
            ``configs/pretrain/quickstart.yaml``.

    Raises:
        UserError: no such file or packaged configuration; the message suggests a name and lists all names.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        return path
    requested = str(name).removeprefix("configs/").removesuffix(".yaml")
    known = packaged_configs()
    short = {full.rpartition("/")[2]: full for full in known}
    full = short.get(requested, requested)
    if full in known:
        return known[full]
    near = difflib.get_close_matches(requested, known if "/" in requested else short, n=1)
    hint = f"did you mean {near[0]}?" if near else "check the path"
    raise UserError(
        f"cannot read the configuration {name}: no such file; {hint} (packaged configurations: {', '.join(short)})"
    )
