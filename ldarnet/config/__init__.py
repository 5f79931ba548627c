"""Typed, frozen configurations (`RunConfig`, `FinetuneConfig`), loaded with `load_config(path, overrides)`."""

from ldarnet.config.finetune import FinetuneConfig
from ldarnet.config.loading import differences, flatten, lasting, load_config
from ldarnet.config.schema import Config, DataSection, RunConfig

__all__ = ["Config", "DataSection", "FinetuneConfig", "RunConfig", "differences", "flatten", "lasting", "load_config"]
