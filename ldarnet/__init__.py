"""LDARNet: DNA models that learn their own tokens, and the system that trains them."""

from ldarnet.model import (
    DNATokenizer,
    LDARNetConfig,
    LDARNetForMaskedLM,
    LDARNetForSequenceClassification,
    LDARNetModel,
    load_published_checkpoint,
    save_published_checkpoint,
)
from ldarnet.version import __version__

__all__ = [
    "DNATokenizer",
    "LDARNetConfig",
    "LDARNetForMaskedLM",
    "LDARNetForSequenceClassification",
    "LDARNetModel",
    "__version__",
    "load_published_checkpoint",
    "save_published_checkpoint",
]
