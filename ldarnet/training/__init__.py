"""Pretraining on DeepSpeed: `train(config)` begins or continues the run that a configuration describes."""

from ldarnet.training.run import TrainResult, train

__all__ = ["TrainResult", "train"]
