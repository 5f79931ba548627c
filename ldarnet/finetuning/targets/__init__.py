"""Types of targets: how labels are learned, evaluated, reported and predicted; one file per type of task."""

from typing import Any

from ldarnet.finetuning.targets.base import Targets
from ldarnet.finetuning.targets.classification import ClassTargets
from ldarnet.finetuning.targets.per_base import BaseTargets
from ldarnet.finetuning.targets.regression import ValueTargets
from ldarnet.model.classifiers import LDARNetClassifier

TARGETS: dict[str, type[Targets]] = {kind.task_type: kind for kind in (ClassTargets, ValueTargets, BaseTargets)}
"""Types of targets by task type."""


def targets_of(task_type: str, names: list[str]) -> Targets:
    """Targets of a task, from its class names or the names of its values."""
    return TARGETS[task_type](names)


def targets_of_model(model: LDARNetClassifier) -> Targets | None:
    """Targets of a fine-tuned model; None if no type of targets has its class and `problem_type`."""
    config: Any = model.config
    for kind in TARGETS.values():
        if isinstance(model, kind.model_class) and model.problem == kind.problem_type:
            return kind([config.id2label[number] for number in range(config.num_labels)])
    return None


__all__ = ["TARGETS", "BaseTargets", "ClassTargets", "Targets", "ValueTargets", "targets_of", "targets_of_model"]
