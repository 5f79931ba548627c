"""Shards of packed bases, windows over them, masks, and batches."""

from ldarnet.data.curriculum import Part, curriculum_steps, part_at, plan
from ldarnet.data.dataset import WindowDataset
from ldarnet.data.loader import Batch, Quarantined, training_steps, validation_batches
from ldarnet.data.masking import Masking
from ldarnet.data.pipeline import decode_sample, shard_pattern, window_pipeline
from ldarnet.data.reader import ShardSet
from ldarnet.data.regions import Regions
from ldarnet.data.windows import Source, WindowKey, Windows

__all__ = [
    "Batch",
    "Masking",
    "Part",
    "Quarantined",
    "Regions",
    "ShardSet",
    "Source",
    "WindowDataset",
    "WindowKey",
    "Windows",
    "curriculum_steps",
    "decode_sample",
    "part_at",
    "plan",
    "shard_pattern",
    "training_steps",
    "validation_batches",
    "window_pipeline",
]
