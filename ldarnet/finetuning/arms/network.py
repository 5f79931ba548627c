"""Arm that trains all weights of LDARNet, starting from a checkpoint or from random weights."""

from ldarnet.finetuning.arms import MODE, Arm, register
from ldarnet.finetuning.classifier import build_classifier
from ldarnet.finetuning.learning import epoch_learner
from ldarnet.tasks.metrics import BASES, CLASSIFICATION, REGRESSION

register(
    Arm(
        option=MODE,
        name="full",
        task_types=(CLASSIFICATION, REGRESSION, BASES),
        description="LDARNet",
        learner=epoch_learner,
        build=build_classifier,
        takes_checkpoint=True,
        ignored_with_checkpoint=("model.",),
    )
)
