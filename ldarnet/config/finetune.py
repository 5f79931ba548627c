"""Typed, frozen configuration of fine-tuning on one task."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ldarnet.config.model import ModelSection
from ldarnet.config.optimization import AdamWSection
from ldarnet.config.schema import RunSection
from ldarnet.config.sections import (
    MAX_BATCH,
    MAX_EPOCHS,
    MAX_FACTOR,
    MAX_LENGTH,
    MAX_MINUTES,
    MAX_STEPS,
    MAY_CHANGE,
    Config,
    Section,
)
from ldarnet.plugins import suggestion
from ldarnet.tasks.metrics import CLASSIFICATION, REGISTRIES, find_metric, metrics_of

MAX_FOLDS = 10_000
_CHOICES = "; ".join(f"{task_type}: {', '.join(metrics)}" for task_type, metrics in REGISTRIES.items())


class FinetuneRunSection(RunSection):
    """Run folder and random seed."""

    seed: int = Field(42, ge=0, lt=2**31, description="Seed for new weights, data order and reverse complements.")


class ClassifierSection(ModelSection):
    """Model to train if there is no checkpoint: LDARNet with new weights, or a baseline."""

    baseline: str | None = Field(
        None,
        description="Baseline to train instead of LDARNet: cnn (small convolutional network), kmers (logistic "
        "regression on 6-mer counts), or a baseline that you add to ldarnet/finetuning/arms.",
    )


class TaskDataSection(Section):
    """Location and selection of the sequences."""

    folder: Path | None = Field(
        None,
        description="Folder with the task's files; null to download them.",
        json_schema_extra=MAY_CHANGE,
    )
    cache: Path | None = Field(
        None,
        description="Download folder; null for ~/.cache/ldarnet/tasks.",
        json_schema_extra=MAY_CHANGE,
    )
    train: Path | None = Field(
        None,
        description="File with your own labeled training sequences. On resume, its path may change, but not its rows.",
        json_schema_extra=MAY_CHANGE,
    )
    valid: Path | None = Field(
        None,
        description="File with your own labeled validation sequences, which replace cross-validation: there is one "
        "fold. On resume, its path may change, but not its rows.",
        json_schema_extra=MAY_CHANGE,
    )
    test: Path | None = Field(
        None,
        description="File with your own labeled test sequences. On resume, its path may change, but not its rows.",
        json_schema_extra=MAY_CHANGE,
    )
    bed: Path | None = Field(
        None,
        description="With task_type=base_classification: BED file with names of sequences in column 1 (or contigs, if "
        "sequences are named contig:start-end) and classes in column 4; other bases have the class none. The other "
        "files are then FASTA without labels. On resume, its path may change, but not its labels.",
        json_schema_extra=MAY_CHANGE,
    )
    sequence_column: str | None = Field(None, description="Sequence column in your files; null to detect it.")
    label_column: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Label column in your files; null to detect it. With task_type=regression, a list of columns gives "
        "several targets.",
    )
    name_column: str | None = Field(
        None, description="Name column in your files; null to detect it. Without a name column, rows are numbered."
    )
    max_length: int | None = Field(
        None, ge=8, le=MAX_LENGTH, description="Crop longer sequences to this many central bases."
    )
    limit: int | None = Field(
        None,
        ge=2,
        le=MAX_STEPS,
        description="Number of training rows to use; null for all. Rows are drawn with run.seed, stratified by class, "
        "before the fold split. If the task has its own validation split, that split is always used in full.",
    )


class FoldsSection(Section):
    """Cross-validation on the training rows."""

    count: int = Field(
        10,
        ge=2,
        le=MAX_FOLDS,
        description="Number of cross-validation folds; each fold is the validation set once.",
    )
    only: list[Annotated[int, Field(ge=0, lt=MAX_FOLDS)]] | None = Field(
        None,
        min_length=1,
        description="Indices of the folds to train, counted from 0; null for all.",
        json_schema_extra=MAY_CHANGE,
    )
    stratified: bool = Field(False, description="Stratify folds by class.")
    seed: int = Field(42, ge=0, lt=2**31, description="Seed of the fold split; 42 gives the published folds.")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if wrong := [fold for fold in self.only or [] if fold >= self.count]:
            raise ValueError(f"only={self.only}: no fold {wrong[0]}; folds are 0 to {self.count - 1}")
        return self


class FinetuneOptimizerSection(AdamWSection):
    """AdamW with one learning rate for all parameters."""

    lr: float | None = Field(
        None, gt=0, le=1, description="Learning rate; null for the task's published value, or 1e-4 if there is none."
    )
    weight_decay: float = Field(0.1, ge=0, le=1, description="Weight decay of the parameters selected by `decayed`.")
    decayed: Literal["matrices", "published"] = Field(
        "matrices",
        description="Parameters with weight decay. matrices: all but biases, norms, A_log, D and dt_bias. published: "
        "all but biases and norms, as in the released code.",
    )


class PlateauSection(Section):
    """ReduceLROnPlateau: lower the learning rate when validation stops improving."""

    plateau: Literal["rising", "published"] = Field(
        "rising",
        description="What counts as an improvement. rising: a higher validation metric, or an equal metric with a "
        "lower loss. published: a lower metric, as in the released code (mode=min, although higher is better).",
    )
    factor: float = Field(0.5, gt=0, lt=1, description="Factor by which the learning rate is multiplied.")
    patience: int = Field(
        2,
        ge=0,
        le=MAX_EPOCHS,
        description="Number of consecutive epochs without improvement that leave the learning rate unchanged. The next "
        "epoch without improvement lowers it.",
    )


class FinetuneTrainingSection(Section):
    """Duration, batches and engine."""

    epochs: int = Field(100, ge=1, le=MAX_EPOCHS, description="Maximum number of epochs per fold.")
    stop_patience: int = Field(
        5,
        ge=1,
        le=MAX_EPOCHS,
        description="Early stopping: end a fold after this many epochs without a new best epoch.",
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=MAX_BATCH,
        description="Maximum number of sequences per global batch; null for the task's published value, or 64 if there "
        "is none. Each epoch is split into as few batches as possible, of nearly equal size.",
    )
    accumulation: int = Field(
        1,
        ge=1,
        le=MAX_BATCH,
        description="Gradient accumulation steps. Affects the result, because the ratio loss is computed per "
        "micro-step.",
    )
    mode: str = Field(
        "full",
        description="How LDARNet is trained: full (all weights), probe (logistic regression on the output of the "
        "frozen network), or a mode that you add to ldarnet/finetuning/arms.",
    )
    ratio_weight: float | None = Field(
        None,
        ge=0,
        le=MAX_FACTOR,
        description="Weight of the ratio loss, which keeps bases per chunk near the target; null for the weight in the "
        "model configuration.",
    )
    reverse_complement: bool = Field(False, description="Reverse-complement training sequences with probability 1/2.")
    zero_stage: int = Field(1, ge=0, le=3, description="DeepSpeed ZeRO stage.", json_schema_extra=MAY_CHANGE)
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="auto: bf16 autocast on GPU, fp32 on CPU. On a CPU, bf16 "
        "speeds up only large models, and only with AMX, AVX-512 BF16 or Arm BF16.",
    )
    timeout_minutes: float = Field(
        30,
        gt=0,
        le=MAX_MINUTES,
        description="Watchdog: abort the job if a rank makes no progress for this long.",
        json_schema_extra=MAY_CHANGE,
    )


class EvaluationSection(Section):
    """Metrics and model selection."""

    metric: str = Field(
        "mcc",
        description="Validation metric that selects the best epoch, and controls early stopping and the learning rate. "
        f"Choices: {_CHOICES}. If several epochs have the highest metric, the one with the lowest loss is "
        "the best; with schedule.plateau=published, the earliest is the best.",
    )
    batch: int = Field(
        32, ge=1, le=MAX_BATCH, description="Sequences per forward pass on each rank.", json_schema_extra=MAY_CHANGE
    )
    strands: Literal[1, 2] = Field(
        1, description="Number of strands to evaluate; 2 averages the probabilities over both."
    )
    leak_free: int | None = Field(
        32,
        ge=8,
        le=32,
        description="k-mer length for leakage detection. The model is also evaluated on the test sequences that share "
        "no k-mer of this length with a training or validation sequence, on either strand; null to skip this.",
    )

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, name: str) -> str:
        if find_metric(name) is None:
            raise ValueError(f"{name!r} is not a metric; {suggestion(name, metrics_of(CLASSIFICATION))}")
        return name


class FinetuneTrackingSection(Section):
    """MLflow tracking; metrics.jsonl is always written."""

    mlflow: bool = Field(
        True,
        description="Log to MLflow at MLFLOW_TRACKING_URI or, if this variable is not set, to mlflow.db "
        "in the run folder.",
    )
    experiment: str = Field("ldarnet-finetuning", min_length=1, description="Name of the MLflow experiment.")
    name: str | None = Field(
        None, min_length=1, description="Name of the MLflow runs; null for the name of the run folder."
    )
    parent: str | None = Field(None, description="ID of the parent MLflow run.")


class FinetuneConfig(Config):
    """Configuration of fine-tuning on one task; load it with `load_config(path, overrides, schema=FinetuneConfig)`."""

    run: FinetuneRunSection
    task: str | None = Field(
        None,
        description="Published task (see `ldarnet tasks`), or a name for your own data; null to name your own "
        "data after data.train, or after its folder if the file is named train, training, data or dataset.",
    )
    task_type: Literal["classification", "regression", "base_classification"] = Field(
        CLASSIFICATION,
        description="Type of the labels. classification: one class per sequence. regression: one or several numbers "
        "per sequence. base_classification: one class per base; labels have one character per base, `.` where the "
        "class is unknown.",
    )
    checkpoint: Path | None = Field(
        None,
        description="Model to fine-tune: model folder, checkpoint, run folder (for its best checkpoint) or the "
        "authors' .pt file; null for new weights.",
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
        {}, description="Kernel overrides by operation, such as {ssd: torch}.", json_schema_extra=MAY_CHANGE
    )

    @model_validator(mode="before")
    @classmethod
    def _default_metric(cls, tree: Any) -> Any:
        """Set `evaluation.metric` to the default of the type of task, unless it is set."""
        task_type = tree.get("task_type") if isinstance(tree, dict) else None
        if task_type == CLASSIFICATION or not isinstance(task_type, str) or task_type not in REGISTRIES:
            return tree
        evaluation = tree.get("evaluation", {})
        if not isinstance(evaluation, dict):
            return tree
        return tree | {"evaluation": {"metric": next(iter(metrics_of(task_type)))} | evaluation}

    @model_validator(mode="after")
    def _metric_of_task_type(self) -> Self:
        if self.evaluation.metric not in (known := metrics_of(self.task_type)):
            raise ValueError(
                f"evaluation.metric={self.evaluation.metric} is not a metric of task_type={self.task_type}; use one of "
                f"{', '.join(known)}"
            )
        return self

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.task is None and self.data.train is None:
            raise ValueError("no data: set task (such as task=H3), or set data.train to your own file")
        return self

    @model_validator(mode="after")
    def _model(self) -> Self:
        if self.checkpoint is None and self.model.baseline is None:
            self.model.check(self.ops)
        return self

    @property
    def arm(self) -> str:
        """Value of `arm` in result.json: `checkpoint`, `random` (new weights), or the name of the baseline."""
        return self.model.baseline or ("random" if self.checkpoint is None else "checkpoint")
