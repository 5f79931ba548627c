"""Pretraining on DeepSpeed: `train(config)` starts or resumes the run that a configuration describes."""

from ldarnet.extras import optional_imports

with optional_imports(__name__):
    from ldarnet.pretraining.run import TrainResult, train

__all__ = ["TrainResult", "train"]
