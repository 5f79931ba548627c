"""Base classes of configurations, and limits that several configurations share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

from ldarnet.errors import refuse_credentials
from ldarnet.io.files import atomic_path

MAY_CHANGE: JsonDict = {"may_change": True}
"""Marks a key that may change when a run is resumed, because it does not affect the result."""

MAX_LENGTH = 2**24
"""Maximum length of a window or sequence in bases."""
MAX_BATCH = 2**20
"""Maximum number of windows or sequences in a batch."""
MAX_STEP_BASES = 2**32
"""Maximum number of bases in an optimizer step."""
MAX_WIDTH = 2**16
"""Maximum of the widths and state sizes of a model."""
MAX_STEPS = 10**9
"""Maximum number of steps or windows."""
MAX_EPOCHS = 10**6
MAX_MINUTES = 10**6
MAX_FACTOR = 10**6
"""Maximum of weights, thresholds and counts without a natural limit."""


class Section(BaseModel):
    """Base class of configuration sections. Sections are frozen; unknown keys and non-finite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Config(Section):
    """Base class of configurations, which consist of sections and top-level keys."""

    def refuse_credentials(self) -> None:
        """Check that no key or value contains a URL with credentials, because configurations are stored and logged.

        Raises:
            UserError: a key or value contains a URL with credentials.
        """

        def check(key: str, value: Any) -> None:
            if isinstance(value, dict):
                for name, entry in value.items():
                    refuse_credentials(str(name), f"a key of {key or 'the configuration'}")
                    check(f"{key}.{name}".lstrip("."), entry)
            elif isinstance(value, list):
                for entry in value:
                    check(key, entry)
            elif isinstance(value, str):
                refuse_credentials(value, key)

        check("", self.model_dump(mode="json"))

    def save(self, path: Path) -> None:
        """Write all keys, including defaults, as a YAML file that `load_config` reads back.

        Raises:
            UserError: a value is a URL that contains credentials.
        """
        self.refuse_credentials()
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def dotted(tree: dict[str, Any], is_value: Callable[[dict[str, Any]], bool] = lambda _: False) -> dict[str, Any]:
    """Flatten `{optimizer: {lr: ...}}`, which command-line overrides produce, to `{optimizer.lr: ...}`.

    Args:
        tree: mapping with nested mappings.
        is_value: whether a mapping is a value and stays as it is; empty mappings always do.
    """

    def walk(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict) and value and not is_value(value):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(tree, ""))
