"""Arms: the ways of learning a task that fine-tuning compares, one file each.

To add an arm, put a file into this folder that calls `register(Arm(...))`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ldarnet.config import FinetuneConfig
from ldarnet.errors import UserError
from ldarnet.finetuning.job import FinetuneJob, FoldResult, LaunchContext
from ldarnet.plugins import load_folder, suggestion
from ldarnet.runtime.tracking import Tracker

Learner = Callable[[int, Tracker | None], FoldResult | None]
"""Train a fold, or resume it; None if a signal stops it. Called on every rank."""

BASELINE, MODE = "model.baseline", "training.mode"


@dataclass(frozen=True)
class Arm:
    """One way of learning a task.

    Attributes:
        option: configuration key that selects the arm: `model.baseline` for models other than LDARNet, `training.mode`
            for ways of training LDARNet.
        name: value of that key; for a baseline also the `arm` in result.json.
        description: the model, as the console shows it.
        learner: called once per launch; returns the function that trains a fold.
        build: the network before training, from the configuration, the class names and the length of the longest
            training sequence in bases; None for arms without a network.
        fit: how the model is fit in one go, as the console shows it; None for training in epochs.
        selection: what the validation rows select.
        ignored: prefixes of the configuration keys that have no effect.
        ignored_with_checkpoint: those that have none when the weights come from a checkpoint.
    """

    option: Literal["model.baseline", "training.mode"]
    name: str
    description: str
    learner: Callable[[FinetuneJob, LaunchContext], Learner]
    build: Callable[[FinetuneConfig, list[str], int], nn.Module] | None = None
    fit: str | None = None
    selection: str = "best epoch"
    takes_checkpoint: bool = False
    ignored: tuple[str, ...] = ()
    ignored_with_checkpoint: tuple[str, ...] = ()

    @property
    def trains_epochs(self) -> bool:
        """Whether the arm trains in epochs of optimizer steps."""
        return self.fit is None


_ARMS: dict[tuple[str, str], Arm] = {}


def register(arm: Arm) -> Arm:
    """Make an arm selectable; called by its module."""
    assert (arm.option, arm.name) not in _ARMS, f"{arm.option}={arm.name} is registered twice"
    _ARMS[arm.option, arm.name] = arm
    return arm


def arm_of(config: FinetuneConfig) -> Arm:
    """The arm that a configuration selects.

    Raises:
        UserError: no such arm, or keys that contradict each other.
    """
    arm = _find(config.model.baseline, config.training.mode)
    if config.model.baseline is not None and config.training.mode != "full":
        raise UserError(
            f"training.mode={config.training.mode} is for LDARNet; unset it, or model.baseline={config.model.baseline}"
        )
    if config.checkpoint is not None and not arm.takes_checkpoint:
        raise UserError(f"{arm.option}={arm.name} takes no checkpoint; set checkpoint=null")
    return arm


def arm_of_result(arm: str, mode: str) -> Arm:
    """The arm behind the `arm` and `mode` of a result.json."""
    return _find(None if arm in ("checkpoint", "random") else arm, mode)


def _find(baseline: str | None, mode: str) -> Arm:
    load_folder(__name__)
    option, name = (MODE, mode) if baseline is None else (BASELINE, baseline)
    if (option, name) not in _ARMS:
        known = [other for of, other in _ARMS if of == option]
        raise UserError(f"{option}={name}: no such arm; {suggestion(name, known)}")
    return _ARMS[option, name]
