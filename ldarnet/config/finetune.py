"""The typed, frozen description of fine-tuning on one task: every key, its meaning, its range and its default."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ldarnet.config.schema import MAY_CHANGE, AdamWSection, Config, ModelSection, RunSection, Section
from ldarnet.plugins import suggestion
from ldarnet.tasks.metrics import METRICS


class FinetuneRunSection(RunSection):
    """Where the run lives and where its chance comes from."""

    seed: int = Field(42, ge=0, lt=2**31, description="Seed of new weights, the order of sequences and their strands.")


class ClassifierSection(ModelSection):
    """A network with new weights, used where there is no checkpoint."""

    baseline: str | None = Field(
        None,
        description="Baseline to train instead of LDARNet, a file in ldarnet/finetuning/arms: cnn (small convolutional "
        "network), kmers (logistic regression on 6-mer counts).",
    )


class TaskDataSection(Section):
    """Where the sequences are, and what is read of them."""

    folder: Path | None = Field(
        None,
        description="Folder that holds the task's files already; nothing is fetched.",
        json_schema_extra=MAY_CHANGE,
    )
    cache: Path | None = Field(
        None,
        description="Folder for what is fetched from a publisher; ~/.cache/ldarnet/tasks if null.",
        json_schema_extra=MAY_CHANGE,
    )
    train: Path | None = Field(
        None,
        description="Your own training sequences with labels; the same ones may lie in another place later.",
        json_schema_extra=MAY_CHANGE,
    )
    test: Path | None = Field(
        None,
        description="Your own test sequences with labels; likewise.",
        json_schema_extra=MAY_CHANGE,
    )
    sequence_column: str | None = Field(None, description="Its name in your files; null to find it by common names.")
    label_column: str | None = Field(None, description="Its name in your files; null to find it by common names.")
    name_column: str | None = Field(None, description="Its name in your files; null to find it, or number the rows.")
    max_length: int | None = Field(None, ge=8, description="Longer sequences are cropped to their centre, and counted.")
    limit: int | None = Field(
        None, ge=2, description="Train and validate on so many rows, drawn by run.seed with the shares of the classes."
    )


class FoldsSection(Section):
    """Which training rows are held out for validation."""

    count: int = Field(10, ge=2, description="Folds of the training rows; each validates the others once.")
    only: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="Folds to train, from 0; null for all.", json_schema_extra=MAY_CHANGE
    )
    stratified: bool = Field(False, description="Give every fold the shares of the classes.")
    seed: int = Field(42, ge=0, lt=2**31, description="Of the shuffle of the rows; 42 gives the published folds.")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if wrong := [fold for fold in self.only or [] if fold >= self.count]:
            raise ValueError(f"only={self.only}: there is no fold {wrong[0]}; the folds are 0 to {self.count - 1}")
        return self


class FinetuneOptimizerSection(AdamWSection):
    """AdamW with one learning rate for all parameters."""

    lr: float | None = Field(None, gt=0, le=1, description="Learning rate; null for the task's published one, or 1e-4.")
    weight_decay: float = Field(0.1, ge=0, le=1, description="Of the parameters that `decayed` names.")
    decayed: Literal["matrices", "published"] = Field(
        "matrices",
        description="matrices: not biases, norms, A_log, D and dt_bias. published: as in the released code, which "
        "leaves out biases and norms alone.",
    )


class PlateauSection(Section):
    """The learning rate falls when validation does not get better."""

    plateau: Literal["rising", "published"] = Field(
        "rising",
        description="rising: the rate falls when the validation metric stops rising, or its loss to fall where it "
        "stays equal. published: as in the released code, which waits for the metric to stop falling.",
    )
    factor: float = Field(0.5, gt=0, lt=1, description="By which the rate falls.")
    patience: int = Field(2, ge=0, description="Epochs without a better metric that are let pass before it falls.")


class FinetuneTrainingSection(Section):
    """How long, in what batches and on what engine."""

    epochs: int = Field(100, ge=1, description="Passes over the training rows of a fold at most.")
    stop_patience: int = Field(5, ge=1, description="A fold ends after so many epochs in a row that are not the best.")
    batch: int | None = Field(
        None,
        ge=1,
        description="Most sequences per optimiser step, over all ranks and micro-steps; null for the task's, or 64. An "
        "epoch is cut into as few and as equal batches as that allows.",
    )
    accumulation: int = Field(
        1,
        ge=1,
        description="Micro-steps per optimiser step. The ratio loss is taken micro-step by micro-step, so the number "
        "of them enters the result.",
    )
    mode: str = Field(
        "full",
        description="How LDARNet is trained, a file in ldarnet/finetuning/arms: full (all weights), probe (logistic "
        "regression on the output of the frozen network).",
    )
    ratio_weight: float | None = Field(
        None,
        ge=0,
        description="Weight of the ratio loss, which holds bases per chunk; null for the model's, 0 for none.",
    )
    reverse_complement: bool = Field(False, description="Train on either strand of a sequence with probability 1/2.")
    zero_stage: int = Field(1, ge=0, le=3, description="DeepSpeed ZeRO stage.", json_schema_extra=MAY_CHANGE)
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 autocast on GPU, fp32 on CPU.")
    timeout_minutes: float = Field(
        30,
        gt=0,
        description="A rank without progress for this long ends the job; more than any evaluation takes.",
        json_schema_extra=MAY_CHANGE,
    )


class EvaluationSection(Section):
    """What is measured, and which number decides."""

    metric: str = Field(
        "mcc",
        description=f"Validation metric that selects the best epoch (ties: lower loss), lowers the learning rate and "
        f"stops a fold: {', '.join(METRICS)}.",
    )
    batch: int = Field(32, ge=1, description="Sequences a rank computes at once.", json_schema_extra=MAY_CHANGE)
    strands: Literal[1, 2] = Field(1, description="2: classify both strands and take the mean of the probabilities.")
    leak_free: int | None = Field(
        32,
        ge=8,
        le=32,
        description="Test sequences that share no stretch of so many bases with training, on either strand, are "
        "scored apart as well; null to leave that out.",
    )

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, name: str) -> str:
        if name not in METRICS:
            raise ValueError(f"{name!r} is not a metric; {suggestion(name, METRICS)}")
        return name


class FinetuneTrackingSection(Section):
    """MLflow; metrics.jsonl is written in any case."""

    mlflow: bool = Field(True, description="Log to MLFLOW_TRACKING_URI, else to mlflow.db in the run folder.")
    experiment: str = Field("ldarnet-finetuning", min_length=1, description="Name of the MLflow experiment.")
    name: str | None = Field(None, min_length=1, description="Of the MLflow runs; null for that of the run folder.")
    parent: str | None = Field(None, description="Id of the MLflow run that this one belongs under.")


class FinetuneConfig(Config):
    """Fine-tuning on one task, all its folds. `load_config(path, overrides, schema=FinetuneConfig)` reads it."""

    run: FinetuneRunSection
    task: str | None = Field(None, description="Name in the registry, such as H3; null for your own files.")
    checkpoint: Path | None = Field(
        None, description="Model folder, checkpoint, run (its best), or the authors' .pt; null for new weights."
    )
    model: ClassifierSection = ClassifierSection()  # type: ignore[call-arg]
    data: TaskDataSection = TaskDataSection()  # type: ignore[call-arg]
    folds: FoldsSection = FoldsSection()  # type: ignore[call-arg]
    optimizer: FinetuneOptimizerSection = FinetuneOptimizerSection()  # type: ignore[call-arg]
    schedule: PlateauSection = PlateauSection()  # type: ignore[call-arg]
    training: FinetuneTrainingSection = FinetuneTrainingSection()  # type: ignore[call-arg]
    evaluation: EvaluationSection = EvaluationSection()  # type: ignore[call-arg]
    tracking: FinetuneTrackingSection = Field(
        FinetuneTrackingSection(),  # type: ignore[call-arg]
        json_schema_extra=MAY_CHANGE,
    )
    ops: dict[str, str] = Field(
        {}, description="Kernel demanded for an operation, such as {ssd: torch}.", json_schema_extra=MAY_CHANGE
    )

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.task is None and self.data.train is None:
            raise ValueError("set task to a name, such as H3, or data.train to a file of yours")
        return self

    @property
    def arm(self) -> str:
        """What result.json calls the arm: `checkpoint`, `random` (new weights), or the baseline."""
        return self.model.baseline or ("random" if self.checkpoint is None else "checkpoint")
