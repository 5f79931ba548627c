"""The typed configuration of a run: `load_config(path, overrides)` and the frozen `RunConfig`."""

from ldarnet.config.loading import differences, flatten, load_config
from ldarnet.config.schema import DataSection, RunConfig

__all__ = ["DataSection", "RunConfig", "differences", "flatten", "load_config"]
