"""The network that is fine-tuned, where its weights come from, and how its parameters are grouped for AdamW."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldarnet.config import FinetuneConfig
from ldarnet.config.loading import read_yaml
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import sha256_file
from ldarnet.model import LDARNetForSequenceClassification, load_backbone
from ldarnet.model.folder import model_folder
from ldarnet.model.modeling import LDARNetPreTrainedModel

CUT, LONGEST, STRANDS = "cropped_to", "longest_trained", "strands"
"""Keys of a classifier's config.json: the bases that longer sequences are cropped to, if they are; those of the longest
sequence that it was trained on; the strands that it is evaluated on."""


def build_classifier(config: FinetuneConfig, classes: list[str], longest: int) -> nn.Module:
    """The network before training, its head drawn from run.seed.

    Args:
        config: of the run.
        classes: names of the classes.
        longest: bases of the longest training sequence.

    Raises:
        UserError: the checkpoint cannot be read, or the model's configuration does not fit together.
    """
    backbone = None if config.checkpoint is None else load_backbone(config.checkpoint)
    try:
        shape: Any = copy.deepcopy(backbone.config) if backbone is not None else config.model.build(config.ops)
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    shape.ops = config.ops
    shape.id2label = dict(enumerate(classes))
    shape.label2id = {name: number for number, name in enumerate(classes)}
    setattr(shape, LONGEST, longest)
    setattr(shape, CUT, config.data.max_length)
    setattr(shape, STRANDS, config.evaluation.strands)
    torch.manual_seed(config.run.seed)
    model = LDARNetForSequenceClassification(shape)
    if backbone is not None:
        model.model.load_state_dict(backbone.state_dict())
    return model


def checkpoint_hash(checkpoint: Path | None) -> str | None:
    """The SHA-256 of the weights that a checkpoint holds; None where there is none."""
    if checkpoint is None:
        return None
    return sha256_file(checkpoint if checkpoint.suffix == ".pt" else model_folder(checkpoint) / run_files.WEIGHTS)


def window_length(checkpoint: Path | None) -> int | None:
    """The bases of the windows that a checkpoint was pretrained on, where its run's configuration tells."""
    if checkpoint is None or checkpoint.suffix == ".pt":
        return None
    folder = model_folder(checkpoint)
    for file in (folder / run_files.CONFIG, folder.parent / run_files.CONFIG):
        if file.is_file():
            try:
                data = read_yaml(file).get("data")
            except UserError:  # of something else
                return None
            length = data.get("length") if isinstance(data, dict) else None
            return length if isinstance(length, int) else None
    return None


def parameter_groups(model: nn.Module, config: FinetuneConfig) -> list[dict]:
    """Groups for torch.optim.AdamW named `decay` and `no_decay`, with `base_lr` beside `lr`."""
    assert config.optimizer.lr is not None
    kept = _undecayed(model, config.optimizer.decayed)
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        kind, decay = ("no_decay", 0.0) if name in kept else ("decay", config.optimizer.weight_decay)
        new = {"params": [], "name": kind, "lr": config.optimizer.lr, "base_lr": config.optimizer.lr}
        groups.setdefault(kind, new | {"weight_decay": decay})["params"].append(parameter)
    return [groups[kind] for kind in sorted(groups)]


def _undecayed(model: nn.Module, rule: str) -> set[str]:
    names = [name for name, _ in model.named_parameters()]
    if rule == "published":
        # group_params_downstream in ldar/utils/train.py of the released code, for whose names ours stand.
        return {name for name in names if name.endswith((".bias", ".conv_bias")) or "norm" in name.lower()}
    if isinstance(model, LDARNetPreTrainedModel):
        return model.no_weight_decay()
    return {name for name, parameter in model.named_parameters() if parameter.ndim < 2}


def scorer(network: Callable[..., Any], autocast: bool, device: torch.device) -> Callable[..., Any]:
    """A `Forward` that gives the scores of classes."""

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, tuple[Any, ...]]:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            output = network(ids, mask)
        return output.logits, output.boundaries

    return forward


def pooler(network: Any, autocast: bool, device: torch.device) -> Callable[..., Any]:
    """A `Forward` that gives the mean of a classifier's last layer over real bases, which its head would read."""

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, tuple[Any, ...]]:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            output = network.model(ids, mask)
        lengths = mask.sum(1, keepdim=True).to(device)
        return output.last_hidden_state.float().sum(1) / lengths, output.boundaries

    return forward
