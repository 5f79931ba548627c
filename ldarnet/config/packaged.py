"""Packaged configurations, looked up by name."""

import difflib
from pathlib import Path

from ldarnet.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


def packaged_configs() -> dict[str, Path]:
    """Return the packaged configurations by name, such as ``pretrain/quickstart``."""
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
        UserError: no such file or packaged configuration; the message lists similar names.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        return path
    wanted = str(name).removeprefix("configs/").removesuffix(".yaml")
    known = packaged_configs()
    short = {full.rpartition("/")[2]: full for full in known}
    full = short.get(wanted, wanted)
    if full in known:
        return known[full]
    close = difflib.get_close_matches(wanted, known if "/" in wanted else short) or sorted(short)
    raise UserError(f"cannot read the configuration {name}: no such file; packaged configurations: {', '.join(close)}")
