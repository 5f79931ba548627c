"""Epoch schedule of a fold: best epoch, early stopping, and learning rate decay on plateaus."""

from typing import Annotated, Any

import torch
from pydantic import Field, FiniteFloat
from torch.optim.lr_scheduler import ReduceLROnPlateau
from typing_extensions import TypedDict

from ldarnet.config import FinetuneConfig
from ldarnet.io.records import Count

PUBLISHED_THRESHOLD = 1e-4
"""Minimum relative change that counts as an improvement: PyTorch's default, which the released code uses."""


class _Plateau(TypedDict):
    """State of `ReduceLROnPlateau`."""

    best: int | float
    num_bad_epochs: Count


class PlateauState(TypedDict):
    """State of the epoch schedule: see `PlateauSchedule.state_dict`."""

    epoch: Count
    best_epoch: Count
    best_value: float
    best_loss: float
    lr: Annotated[FiniteFloat, Field(ge=0)]
    plateau: _Plateau


class PlateauSchedule:
    """Tracks the best epoch, early stopping and learning rate factor of one fold.

    Args:
        config: configuration of the run, with the learning rate resolved.

    Attributes:
        epoch: number of completed epochs.
        best_epoch: epoch with the highest validation metric; 0 before the first epoch is completed. Ties are
            broken by the lower validation loss, then by the earlier epoch. With `schedule.plateau=published`, ties are
            broken by the earlier epoch alone.
        best_value: validation metric of the best epoch.
        best_loss: validation loss of the best epoch.
        factor: learning rate of the next epoch divided by the configured learning rate.
    """

    def __init__(self, config: FinetuneConfig) -> None:
        assert config.optimizer.lr is not None
        self._training, self._lr = config.training, config.optimizer.lr
        # The released code steps ReduceLROnPlateau with the metric, in its default mode `min`.
        self._published = published = config.schedule.plateau == "published"
        self._optimizer = torch.optim.SGD([torch.zeros(())], lr=self._lr)
        self._plateau = ReduceLROnPlateau(
            self._optimizer,
            mode="min" if published else "max",
            factor=config.schedule.factor,
            patience=config.schedule.patience,
            threshold=PUBLISHED_THRESHOLD if published else 0.0,
        )
        self.epoch, self.best_epoch, self.best_value, self.best_loss = 0, 0, float("-inf"), float("inf")

    @property
    def factor(self) -> float:
        """Learning rate of the next epoch divided by the configured learning rate."""
        return self._optimizer.param_groups[0]["lr"] / self._lr

    @property
    def over(self) -> bool:
        """Whether training has ended, after the maximum number of epochs or by early stopping."""
        return self.epoch >= self._training.epochs or self.epoch - self.best_epoch >= self._training.stop_patience

    def is_better(self, value: float, loss: float) -> bool:
        """Whether an epoch with this validation metric and loss would become the best epoch."""
        # MCC stays at 0 while a network predicts one class for all rows, but its loss decreases.
        return value > self.best_value or (not self._published and value == self.best_value and loss < self.best_loss)

    def update(self, value: float, loss: float) -> None:
        """Record the validation metric and loss of a completed epoch, and update the learning rate."""
        self.epoch += 1
        if self.is_better(value, loss):
            self.best_epoch, self.best_value, self.best_loss = self.epoch, value, loss
        self._plateau.step(value if self._published else self.best_epoch)

    def state_dict(self) -> dict[str, Any]:
        """State for checkpoints, JSON-serializable."""
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "best_loss": self.best_loss,
            "lr": self._optimizer.param_groups[0]["lr"],
            "plateau": {"best": self._plateau.best, "num_bad_epochs": self._plateau.num_bad_epochs},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the schedule from the result of `state_dict`."""
        self.epoch, self.best_epoch = state["epoch"], state["best_epoch"]
        self.best_value, self.best_loss = state["best_value"], state["best_loss"]
        self._optimizer.param_groups[0]["lr"] = state["lr"]
        self._plateau.load_state_dict(self._plateau.state_dict() | state["plateau"])
