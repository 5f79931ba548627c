"""Shards of packed bases, windows over them, masks, and batches."""

from ldarnet.data.loader import Batch, Quarantined, training_steps, validation_batches
from ldarnet.data.masking import Masking
from ldarnet.data.reader import ShardSet
from ldarnet.data.windows import Source, WindowKey, Windows

__all__ = [
    "Batch",
    "Masking",
    "Quarantined",
    "ShardSet",
    "Source",
    "WindowKey",
    "Windows",
    "training_steps",
    "validation_batches",
]
