"""Arms: the models and training modes that can be compared, one file each.

To add an arm, add a file to this folder that calls `register(Arm(...))`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ldarnet.config import FinetuneConfig
from ldarnet.errors import UserError
from ldarnet.finetuning.job import FinetuneJob, FoldResult, LaunchContext
from ldarnet.plugins import load_folder, suggestion
from ldarnet.printable import printable
from ldarnet.runtime.tracking import Tracker
from ldarnet.tasks.metrics import CLASSIFICATION

Learner = Callable[[int, Tracker | None], FoldResult | None]
"""Trains or resumes a fold, given its number and tracker. Returns None if a signal stops training. Collective."""

BASELINE, MODE = "model.baseline", "training.mode"


@dataclass(frozen=True)
class Arm:
    """One model and training mode.

    Attributes:
        option: configuration key that selects the arm. It is `model.baseline` for baselines (models other than
            LDARNet) and `training.mode` for training modes of LDARNet.
        name: value of this configuration key. For baselines, it is also the field `arm` in result.json.
        description: description of the model for the console.
        learner: creates the `Learner` that trains the folds; called once per launch.
        build: builds the untrained network from the configuration, the class names and the length of the longest
            training sequence in bases; None for arms without a network.
        fit: description of the fit for the console, for arms that train without epochs; None for all other arms.
        selection: what is selected on the validation rows, such as `best epoch` or `penalty`.
        task_types: types of tasks that the arm can learn.
        takes_checkpoint: whether the arm can start from a checkpoint.
        ignored: prefixes of configuration keys without effect on this arm.
        ignored_with_checkpoint: prefixes of further keys, which have no effect if the weights come from a checkpoint.
    """

    option: Literal["model.baseline", "training.mode"]
    name: str
    description: str
    learner: Callable[[FinetuneJob, LaunchContext], Learner]
    build: Callable[[FinetuneConfig, list[str], int], nn.Module] | None = None
    fit: str | None = None
    selection: str = "best epoch"
    task_types: tuple[str, ...] = (CLASSIFICATION,)
    takes_checkpoint: bool = False
    ignored: tuple[str, ...] = ()
    ignored_with_checkpoint: tuple[str, ...] = ()

    @property
    def trains_epochs(self) -> bool:
        """Whether the arm trains in epochs of optimizer steps."""
        return self.fit is None


_ARMS: dict[tuple[str, str], Arm] = {}


def register(arm: Arm) -> Arm:
    """Register an arm; called by the module that defines the arm."""
    assert (arm.option, arm.name) not in _ARMS, f"{arm.option}={arm.name} is registered twice"
    _ARMS[arm.option, arm.name] = arm
    return arm


def arm_of(config: FinetuneConfig) -> Arm:
    """Look up the arm that a configuration selects.

    Raises:
        UserError: the arm does not exist, or cannot be combined with another setting of the configuration.
    """
    arm = _find(config.model.baseline, config.training.mode)
    if config.model.baseline is not None and config.training.mode != "full":
        raise UserError(
            f"training.mode={config.training.mode} cannot be combined with model.baseline={config.model.baseline}; "
            "remove one of them"
        )
    if config.task_type not in arm.task_types:
        raise UserError(
            f"{arm.option}={arm.name} cannot learn task_type={config.task_type}, only {', '.join(arm.task_types)}; "
            "choose another arm"
        )
    if config.checkpoint is not None and not arm.takes_checkpoint:
        raise UserError(f"{arm.option}={arm.name} cannot start from a checkpoint; set checkpoint=null")
    return arm


def arm_of_result(arm: str, mode: str) -> Arm:
    """Look up the arm by the fields `arm` and `mode` of a result.json."""
    return _find(None if arm in ("checkpoint", "random") else arm, mode)


def _find(baseline: str | None, mode: str) -> Arm:
    load_folder(__name__)
    option, name = (MODE, mode) if baseline is None else (BASELINE, baseline)
    if (option, name) not in _ARMS:
        known = [other for of, other in _ARMS if of == option]
        raise UserError(f"{option}={printable(name)}: no such arm; {suggestion(name, known)}")
    return _ARMS[option, name]
