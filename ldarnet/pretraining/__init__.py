"""Masked-language-model pretraining with DeepSpeed: `train(config)` starts or resumes a run."""

from ldarnet.extras import optional_imports

with optional_imports(__name__):
    from ldarnet.pretraining.run import TrainResult, train

__all__ = ["TrainResult", "train"]
