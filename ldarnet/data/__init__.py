"""Shard sets, and the windows, masks and batches that are made from them."""

from ldarnet.extras import optional_imports

with optional_imports(__name__):
    from ldarnet.data.curriculum import CurriculumStage, curriculum_stages, curriculum_steps, stage_at
    from ldarnet.data.dataset import WindowDataset
    from ldarnet.data.loader import Batch, QuarantinedWindow, training_steps, validation_batches
    from ldarnet.data.masking import Masking
    from ldarnet.data.next_base import NextBase
    from ldarnet.data.pipeline import decode_sample, shard_pattern, window_pipeline
    from ldarnet.data.reader import ShardSet
    from ldarnet.data.regions import Regions
    from ldarnet.data.windows import WindowKey, Windows, WindowSource

__all__ = [
    "Batch",
    "CurriculumStage",
    "Masking",
    "NextBase",
    "QuarantinedWindow",
    "Regions",
    "ShardSet",
    "WindowDataset",
    "WindowKey",
    "WindowSource",
    "Windows",
    "curriculum_stages",
    "curriculum_steps",
    "decode_sample",
    "shard_pattern",
    "stage_at",
    "training_steps",
    "validation_batches",
    "window_pipeline",
]
