"""Arms of an ablation: pretraining configurations that differ in the model, sized to equal training FLOPs per base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ldarnet.ablation.sizing import ModelArm, SizedArm, size_arm
from ldarnet.config import RunConfig, flatten, load_config
from ldarnet.config.ablation import AblationConfig
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.tokenization import tokenization_or_bases

if TYPE_CHECKING:
    from ldarnet.data import Windows

SAMPLE_WINDOWS = 64
"""Training windows on which the length of BPE tokens is measured."""

SHARED = (
    "run.seed",
    "data.shards",
    "data.length",
    "data.curriculum",
    "data.max_n_run",
    "data.reverse_complement",
    "data.weights",
    "data.temperature",
    "training.steps",
    "training.batch",
    "validation.split",
    "validation.windows",
)
"""Keys that must be equal in all arms: they set the windows, their order and the bases per step."""


@dataclass(frozen=True)
class AblationArm:
    """An arm after sizing.

    Attributes:
        name: valid folder name.
        overrides: its overrides in the configuration of the ablation.
        config: pretraining configuration; seed, learning rate and run.dir are set for each run.
        sized: its model and cost.
    """

    name: str
    overrides: dict[str, Any]
    config: RunConfig
    sized: SizedArm


def resolve_arms(config: AblationConfig) -> dict[str, AblationArm]:
    """Load and size all arms.

    Raises:
        UserError: a configuration is invalid, arms would see different data, a tokenizer or shards cannot be read, or
            an arm has no size with the FLOPs of the reference.
    """
    runs = {name: _load(config, name) for name in config.arms}
    _check_same_data(config, runs)
    models = {name: _model_arm(config, name, run) for name, run in runs.items()}
    reference = models[config.ablation.reference]
    arms = {}
    for name, run in runs.items():
        sized = _size(config, name, models[name], reference, run.data.length)
        if name != config.ablation.reference and sized.config.to_dict() != models[name].config.to_dict():
            run = _load(config, name, sized)
        arms[name] = AblationArm(name, config.arms[name], run, sized)
    return arms


def bases_of(run: RunConfig, steps: int | None = None) -> int:
    """Number of bases that a pretraining run reads, in `steps` or in all its steps."""
    total = steps or run.training.steps
    assert total is not None
    return total * run.training.batch * run.data.length


def _load(config: AblationConfig, name: str, sized: SizedArm | None = None) -> RunConfig:
    """Pretraining configuration of an arm, with the sizes of `sized` if given."""
    folder = config.ablation.dir.absolute() / run_files.ARMS / name
    sizes = {}
    if sized is not None:
        keys = ("arch_layout", "d_model", "d_intermediate")
        sizes = {f"model.{key}": getattr(sized.config, key) for key in keys}
    values = {**config.set, **config.arms[name], **sizes, "run.dir": str(folder)}
    overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]
    try:
        run = load_config(config.pretrain, [*overrides, *_token_spans(config, name)])
    except UserError as error:
        raise UserError(f"arms.{name}: {error}") from None
    run.refuse_credentials()
    for key, wrong in {"training.epochs": run.training.epochs, "training.stop_after": run.training.stop_after}.items():
        if wrong is not None:
            raise UserError(
                f"arms.{name}: {key}={wrong:g} is not supported in ablations; set {key}=null and training.steps"
            )
    if not run.validation.windows:
        raise UserError(f"arms.{name}: validation.windows=0, but arms are compared by validation; set it to at least 1")
    return run


def _token_spans(config: AblationConfig, name: str) -> list[str]:
    """Override that leaves a token arm the validation masks whose spans are whole tokens."""
    key, tokens = "validation.mask_spans", any(key.startswith("model.tokenizer") for key in config.arms[name])
    if not tokens or key in config.arms[name]:
        return []
    shared = load_config(config.pretrain, [f"{key}={json.dumps(config.set[key])}"] if key in config.set else [])
    unit = config.arms[name].get("model.tokenizer.k") or 1
    spans = [span for span in shared.validation.mask_spans if span > 1 and span % unit == 0]
    if shared.validation.mask_spans and not spans:
        raise UserError(
            f"arms.{name}: {key}={shared.validation.mask_spans} has no span of whole tokens; add "
            f"{unit if unit > 1 else 6} to it"
        )
    return [f"{key}={spans}"]


def _check_same_data(config: AblationConfig, runs: dict[str, RunConfig]) -> None:
    """Check that all arms see the same windows in the same order, and are validated with masks of the reference."""
    reference = config.ablation.reference
    first, masks = flatten(runs[reference]), _validation_masks(runs[reference])
    for name, run in runs.items():
        values = flatten(run)
        for key in {**first, **values}:
            if key.startswith(SHARED) and values.get(key) != first.get(key):
                raise UserError(
                    f"arms.{name}: {key} is {values.get(key)}, but {first.get(key)} in the reference {reference}; all "
                    "arms must see the same windows: set it in `set`"
                )
        for span, mask in _validation_masks(run).items():
            if masks.get(span) != mask:
                raise UserError(
                    f"arms.{name}: validates with masks of span {span} and {mask}, the reference {reference} with "
                    f"{masks}; set validation.mask_spans and validation.mask_rate in `set`, so that losses are "
                    "comparable"
                )


def _validation_masks(run: RunConfig) -> dict[int, str]:
    """Validation masks of a run: span -> shares."""
    data, validation = run.data, run.validation
    rate = data.mask_rate if validation.mask_rate is None else validation.mask_rate
    shares = f"mask_rate={rate:g}, mask_share={data.mask_share:g}, random_share={data.random_share:g}"
    return dict.fromkeys(validation.mask_spans or [data.mask_span], shares)


def _model_arm(config: AblationConfig, name: str, run: RunConfig) -> ModelArm:
    measured = config.sizing.bases_per_chunk.get(name)
    try:
        shape = run.model.build(run.ops)
        chunks = _bases_per_chunk(run, shape) if measured is None else tuple(measured)
        return ModelArm(shape, bases_per_chunk=chunks, bases_per_token=_bases_per_token(run))
    except UserError as error:
        raise UserError(f"arms.{name}: {error}") from None
    except ValueError as error:
        raise UserError(f"arms.{name}: {error}; fix sizing.bases_per_chunk") from None


def _bases_per_token(run: RunConfig) -> float | None:
    """Mean bases per token of training windows, for tokens of variable length; None for other models."""
    tokenizer = tokenization_or_bases(None if run.model.tokenizer is None else run.model.tokenizer.settings())
    if tokenizer is None or tokenizer.token_count(run.data.length) is not None:
        return None
    windows = _windows(run)
    ids, _ = windows.read(windows.locations(np.arange(min(len(windows), SAMPLE_WINDOWS))))
    return ids.size / sum(len(tokenizer.encode(row)) for row in ids)


def _bases_per_chunk(run: RunConfig, shape: LDARNetConfig) -> tuple[float, ...] | None:
    """Mean bases per chunk of training windows, for boundaries that come from data; None for other models."""
    if shape.expected_ratio is not None:
        return None
    from ldarnet.pretraining.chunk_boundaries import boundary_source, measure_bases_per_chunk  # needs [train]
    from ldarnet.pretraining.masks import training_masking

    windows = _windows(run)
    measured = measure_bases_per_chunk(boundary_source(run, shape, windows.shards), windows, training_masking(run))
    return None if measured is None else (measured,)


def _windows(run: RunConfig) -> Windows:
    from ldarnet.data import ShardSet, Windows  # needs the extra [train]

    shards, data = ShardSet.open(run.data.shards), run.data
    return Windows(shards, "train", data.length, seed=run.run.seed, reverse_complement=data.reverse_complement)


def _size(config: AblationConfig, name: str, arm: ModelArm, reference: ModelArm, length: int) -> SizedArm:
    if name == config.ablation.reference or not config.sizing.enabled:
        total = arm.cost(length)
        return SizedArm(arm, total, total.training_flops / reference.cost(length).training_flops - 1)
    try:
        return size_arm(arm, reference, length, tolerance=config.sizing.tolerance)
    except UserError as error:
        raise UserError(f"arms.{name}: {error}") from None
