"""Typed, frozen configurations (`RunConfig`, `FinetuneConfig`); load them with `load_config(path, overrides)`."""

from ldarnet.config.finetune import FinetuneConfig
from ldarnet.config.loading import differences, fixed_keys, flatten, load_config
from ldarnet.config.schema import DataSection, RunConfig
from ldarnet.config.sections import Config

__all__ = [
    "Config",
    "DataSection",
    "FinetuneConfig",
    "RunConfig",
    "differences",
    "fixed_keys",
    "flatten",
    "load_config",
]
