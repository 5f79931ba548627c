"""Where a fold stands in the course of its epochs: the best one, when to stop, and the learning rate's fall."""

from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ldarnet.config import FinetuneConfig

PUBLISHED_THRESHOLD = 1e-4
"""PyTorch's default, which the released code keeps: a change of less than this share is none."""


class PlateauSchedule:
    """The course of one fold.

    Args:
        config: of the run, with its learning rate.

    Attributes:
        epoch: completed epochs.
        best_epoch: the one with the best validation metric, of equals that with the lowest loss, of these the earliest;
            by the published course the earliest of equals. 0 before the first.
        best_value: its metric.
        best_loss: its validation loss.
        factor: on the learning rate of the next epoch.
    """

    def __init__(self, config: FinetuneConfig) -> None:
        assert config.optimizer.lr is not None
        self._training, self._lr = config.training, config.optimizer.lr
        # The released code steps PyTorch's plateau with the metric and leaves its mode at `min`.
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
        """The factor on the learning rate of the next epoch."""
        return self._optimizer.param_groups[0]["lr"] / self._lr

    @property
    def over(self) -> bool:
        """Whether the last epoch is done: there are no more, or too many in a row were not the best."""
        return self.epoch >= self._training.epochs or self.epoch - self.best_epoch >= self._training.stop_patience

    def is_better(self, value: float, loss: float) -> bool:
        """Whether an epoch with this validation metric and loss is better than the best so far."""
        # While a network still gives one class to every row, its MCC does not move, but its loss does.
        return value > self.best_value or (not self._published and value == self.best_value and loss < self.best_loss)

    def note(self, value: float, loss: float) -> None:
        """An epoch is done, with this validation metric and loss."""
        self.epoch += 1
        if self.is_better(value, loss):
            self.best_epoch, self.best_value, self.best_loss = self.epoch, value, loss
        self._plateau.step(value if self._published else self.best_epoch)

    def memory(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "best_loss": self.best_loss,
            "lr": self._optimizer.param_groups[0]["lr"],
            "plateau": {"best": self._plateau.best, "num_bad_epochs": self._plateau.num_bad_epochs},
        }

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on from what `memory` gave."""
        self.epoch, self.best_epoch = memory["epoch"], memory["best_epoch"]
        self.best_value, self.best_loss = memory["best_value"], memory["best_loss"]
        self._optimizer.param_groups[0]["lr"] = memory["lr"]
        self._plateau.load_state_dict(self._plateau.state_dict() | memory["plateau"])
