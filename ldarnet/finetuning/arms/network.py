"""LDARNet with all weights trained, from a checkpoint or from new weights."""

from ldarnet.finetuning.arms import MODE, Arm, register
from ldarnet.finetuning.classifier import build_classifier
from ldarnet.finetuning.learning import epoch_learner

register(
    Arm(
        option=MODE,
        name="full",
        description="LDARNet",
        learner=epoch_learner,
        build=build_classifier,
        takes_checkpoint=True,
        ignored_with_checkpoint=("model.",),
    )
)
