"""Pretraining on DeepSpeed: `train(config)` starts or resumes the run that a configuration describes."""

from ldarnet.pretraining.run import TrainResult, train

__all__ = ["TrainResult", "train"]
