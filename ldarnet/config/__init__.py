"""The typed configuration of a run: `load_config(path, overrides)` and the frozen `RunConfig`."""

from ldarnet.config.loading import differences, flatten, load_config
from ldarnet.config.schema import RunConfig

__all__ = ["RunConfig", "differences", "flatten", "load_config"]
