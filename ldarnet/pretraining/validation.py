"""Validation on fixed windows with fixed masks, which makes losses comparable across steps and runs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.config import RunConfig
from ldarnet.data import Batch, Masking, NextBase, Regions, ShardSet, validation_batches
from ldarnet.data.loader import BoundarySource
from ldarnet.model.boundaries import TOTALS
from ldarnet.model.losses import cross_entropy, ratio_loss_of_totals
from ldarnet.ops import to_device, to_host
from ldarnet.pretraining.masks import validation_maskings
from ldarnet.pretraining.region_scores import RegionScores
from ldarnet.pretraining.validation_scores import scores_of
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine, micro_batch
from ldarnet.tokenization import tokenization_or_bases


def validate(
    engine: Engine,
    shards: ShardSet,
    config: RunConfig,
    world: World,
    regions: Regions | None = None,
    boundaries: BoundarySource | None = None,
) -> dict[str, Any]:
    """Compute global validation metrics; every rank must call this function.

    Args:
        engine: the engine of the run.
        shards: data set.
        config: run configuration.
        world: the ranks.
        regions: regions for metrics by region.
        boundaries: source of chunk boundaries.

    Returns:
        Metrics with the first mask of `validation.mask_spans`:
        `mlm_loss`: mean loss in nats over all target positions. For a model that reads tokens, all losses are those of
        target tokens, divided by the number of their bases.
        `mask_loss`: mean loss in nats over target positions replaced by [MASK].
        `bits_per_masked_base`: `mask_loss` in bits.
        `copy_loss`: mean loss in nats over target positions whose input is a base.
        `composition_loss`: mean loss in nats of the unigram baseline over target positions replaced by [MASK].
        `accuracy`: accuracy over target positions replaced by [MASK]; for k-mers, of the marginalized distributions;
        absent for other tokens.
        `token_accuracy`, `bases_per_token`: accuracy over target tokens replaced by [MASK], and mean number of bases
        per token of the windows; only for models that read tokens.
        `marginal_loss`: `mask_loss` of the distributions over k-mers, marginalized to bases; only for k-mers.
        `ratio_loss`: mean ratio loss.
        `bases_per_chunk`, `boundary_probability`: one value per stage, measured on the masked input.
        `windows`, `scored`: number of windows and of target bases.
        `quarantined`: number of windows that could not be read; absent if 0.
        `regions`: metrics of each region, if configured; see `RegionScores.metrics`.
        `masks`: metrics with each mask of `validation.mask_spans`, without `windows` and `quarantined`; absent if that
        list is empty. Keys are `span1`, `span6` and so on.
        Losses and accuracy over zero positions are 0.

        Instead of `mlm_loss` to `marginal_loss`, a causal model has `next_base_loss`, the mean loss in nats over all
        predicted bases; `bits_per_base`, the same in bits; `composition_loss`, that of the unigram baseline; and
        `next_base_accuracy`, or `next_token_accuracy` and `bases_per_token` if it reads tokens.

    Raises:
        UserError: the split is missing or too small, or a shard is damaged; raised on all ranks.
    """
    by_mask, tokenizer = {}, tokenization_or_bases(engine.model_config.tokenizer)
    for name, masking in validation_maskings(config, tokenizer).items():
        with world.together():
            batches = list(validation_windows(shards, config, world, masking, boundaries))
        by_mask[name] = _validate_mask(engine, batches, config, world, masking, None if by_mask else regions)
    first = next(iter(by_mask.values()))
    if not config.validation.mask_spans:
        return first
    shared = ("windows", "quarantined", "regions")  # of the windows, or only measured with the first mask
    masks = {name: {key: metrics[key] for key in metrics if key not in shared} for name, metrics in by_mask.items()}
    return first | {"masks": masks}


def _validate_mask(
    engine: Engine,
    batches: list[Batch],
    config: RunConfig,
    world: World,
    masking: Masking | NextBase,
    regions: Regions | None,
) -> dict[str, Any]:
    """Compute the metrics of `validate` with one mask."""
    model, causal = engine.model, engine.model_config.causal
    scores = scores_of(masking.tokenizer, world.device, causal=causal)
    windows = torch.zeros(1, dtype=torch.float64, device=world.device)
    routers = engine.model_config.num_stages - 1
    stages = torch.zeros(routers, len(TOTALS), dtype=torch.float64, device=world.device)
    by_region = None
    if regions is not None:
        by_region = RegionScores(regions, config.data.length, routers, world.device, model.loss_name)
    engine.deepspeed.eval()
    with torch.no_grad():
        for batch in batches:
            input_ids = to_device(batch.input_ids, world.device, torch.int64)
            labels = to_device(batch.labels, world.device, torch.int64)
            output = engine.forward(input_ids, boundaries=batch.boundaries)
            losses = cross_entropy(output.logits, labels).double()
            rows = slice(batch.windows)  # the row of a filler batch is not counted
            scores.add(losses[rows], output.logits[rows], input_ids[rows], labels[rows])
            windows += batch.windows
            for totals, stage in zip(stages, output.boundaries, strict=True):
                totals += torch.stack(stage.first(batch.windows).totals())
            if by_region is not None:
                if causal:  # from the position that predicts to the predicted base
                    labels, losses = (F.pad(x[:, :-1], (1, 0), value=IGNORE_INDEX) for x in (labels, losses))
                by_region.add(batch, labels, losses, output.boundaries)
    engine.deepspeed.train()
    (lost,) = world.sum_on_host(sum(len(batch.quarantined) for batch in batches if batch.windows))
    sums = [scores.sums, windows, stages, *([] if by_region is None else [by_region.sums])]
    score_sums, windows, stages, *region_sums = to_host([world.sum_on_device(values) for values in sums], world.device)
    count = int(windows)
    shape = engine.model_config
    metrics = {
        **scores.metrics(score_sums, count * config.data.length),
        "ratio_loss": ratio_loss_of_totals(stages, shape.target_ratio, shape.ratio_loss).item(),
        **stage_metrics(stages),
        "windows": count,
    }
    if by_region is not None:
        metrics["regions"] = by_region.metrics(region_sums[0])
    return metrics | {"windows": count - lost, "quarantined": lost} if lost else metrics


def stage_metrics(stages: Tensor) -> dict[str, list[float]]:
    """Compute bases per chunk and mean boundary probability of each stage.

    Args:
        stages: (stages, 5), columns `TOTALS` of :mod:`ldarnet.model.boundaries`.
    """
    _, probability, counted, boundaries, positions = stages.unbind(1)
    return {
        "bases_per_chunk": (positions[:1] / boundaries).tolist(),
        "boundary_probability": (probability / counted).tolist(),
    }


def validation_windows(
    shards: ShardSet,
    config: RunConfig,
    world: World,
    masking: Masking | NextBase,
    boundaries: BoundarySource | None = None,
) -> Iterator[Batch]:
    """Iterate over the validation batches of this rank.

    Raises:
        UserError: the split is missing or has no window (raised by this call), or a shard is damaged (raised by the
            iterator).
    """
    data = config.data
    return validation_batches(
        shards,
        config.validation.split,
        length=data.length,
        max_windows=config.validation.windows,
        batch=micro_batch(config, world.size),
        rank=world.rank,
        world=world.size,
        masking=masking,
        max_n_run=data.max_n_run,
        boundaries=boundaries,
    )
