"""The LDARNet classifier: construction, initial weights, parameter groups and forward functions."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldarnet.config import FinetuneConfig
from ldarnet.errors import UserError
from ldarnet.finetuning.targets import TARGETS
from ldarnet.io import run_files
from ldarnet.io.files import sha256_file
from ldarnet.model import load_backbone
from ldarnet.model.chunking.given import GivenBoundaries
from ldarnet.model.classifiers import SINGLE_LABEL
from ldarnet.model.folder import model_folder
from ldarnet.model.modeling import LDARNetPreTrainedModel
from ldarnet.ops import to_device
from ldarnet.tokenization import Tokenization, tokenization_or_bases

CROP, LONGEST, STRANDS = "cropped_to", "longest_trained", "strands"
"""Keys in a classifier's config.json: crop length, length of the longest training sequence, strands in evaluation."""


def build_classifier(config: FinetuneConfig, classes: list[str], longest: int) -> nn.Module:
    """Build the classifier to fine-tune; weights that the checkpoint lacks are initialized with run.seed.

    Args:
        config: configuration of the run.
        classes: class names, by label; in regression, names of the targets.
        longest: length of the longest training sequence in bases.

    Raises:
        UserError: the checkpoint cannot be read, or the boundaries of its chunks are not found in sequences.
    """
    backbone = None if config.checkpoint is None else load_backbone(config.checkpoint)
    shape: Any = copy.deepcopy(backbone.config) if backbone is not None else config.model.build(config.ops)
    method = shape.chunking_method
    if issubclass(method, GivenBoundaries) and method.finder(shape.chunking) is None:
        raise UserError(
            f"{config.checkpoint or 'model.chunking'}: chunking method {shape.chunking['method']} needs "
            "the coordinates of sequences, which tasks do not have; choose another model"
        )
    shape.ops = config.ops
    shape.id2label = dict(enumerate(classes))
    shape.label2id = {name: number for number, name in enumerate(classes)}
    setattr(shape, LONGEST, longest)
    setattr(shape, CROP, config.data.max_length)
    setattr(shape, STRANDS, config.evaluation.strands)
    kind = TARGETS[config.task_type]
    if kind.per_base and tokenization_or_bases(shape.tokenizer) is not None:
        raise UserError(
            f"{config.checkpoint or 'model.tokenizer'}: a token has several bases, so that the model cannot learn "
            f"task_type={config.task_type}; choose a model that reads bases"
        )
    if kind.problem_type != SINGLE_LABEL:  # the default, which config.json omits
        shape.problem_type = kind.problem_type
    torch.manual_seed(config.run.seed)
    model = kind.model_class(shape)
    if backbone is not None:
        model.model.load_state_dict(backbone.state_dict())
    return model


def checkpoint_hash(checkpoint: Path | None) -> str | None:
    """SHA-256 of the weight file of a checkpoint; None if `checkpoint` is None."""
    if checkpoint is None:
        return None
    return sha256_file(checkpoint if checkpoint.suffix == ".pt" else model_folder(checkpoint) / run_files.WEIGHTS)


def parameter_groups(model: nn.Module, config: FinetuneConfig) -> list[dict]:
    """Split parameters into AdamW groups named `decay` and `no_decay`.

    Each group has a `base_lr`, its learning rate before the schedule is applied.
    """
    assert config.optimizer.lr is not None
    undecayed = _undecayed(model, config.optimizer.decayed)
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        kind, decay = ("no_decay", 0.0) if name in undecayed else ("decay", config.optimizer.weight_decay)
        new = {"params": [], "name": kind, "lr": config.optimizer.lr, "base_lr": config.optimizer.lr}
        groups.setdefault(kind, new | {"weight_decay": decay})["params"].append(parameter)
    return [groups[kind] for kind in sorted(groups)]


def _undecayed(model: nn.Module, rule: str) -> set[str]:
    names = [name for name, _ in model.named_parameters()]
    if rule == "published":
        # Same rule as group_params_downstream in ldar/utils/train.py of the released code, for our parameter names.
        return {name for name in names if name.endswith((".bias", ".conv_bias")) or "norm" in name.lower()}
    if isinstance(model, LDARNetPreTrainedModel):
        return model.no_weight_decay()
    return {name for name, parameter in model.named_parameters() if parameter.ndim < 2}


def tokenizer_of(network: Any) -> Tokenization | None:
    """Tokens that a network reads; None if it reads bases."""
    return tokenization_or_bases(getattr(getattr(network, "config", None), "tokenizer", None))


def scorer(network: Callable[..., Any], autocast: bool, device: torch.device) -> Callable[..., Any]:
    """Wrap a classifier as a `Forward` that returns class logits."""

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, tuple[Any, ...]]:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            output = network(ids, mask)
        return output.logits, output.boundaries

    return forward


def pooler(network: Any, autocast: bool, device: torch.device) -> Callable[..., Any]:
    """Wrap a classifier as a `Forward` that returns the mean-pooled last hidden state, the input of its head."""

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, tuple[Any, ...]]:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            output = network.model(ids, mask)
        lengths = to_device(mask.sum(1, keepdim=True), device)
        return output.last_hidden_state.float().sum(1) / lengths, output.boundaries

    return forward
