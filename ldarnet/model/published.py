"""Conversion to and from the published checkpoint format.

The file is ``{"model": state dict, "config": dict, "step": int}``. It stores each BiMamba-2 layer as two mixers,
``fwd`` and ``bwd``; the shared projections appear in both.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.model.chunking import complete_options
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.heads import LDARNetForMaskedLM
from ldarnet.model.integrity import check_weights

_CONFIG_FIELDS = ("arch_layout", "d_model", "d_intermediate", "vocab_size", "ssm_cfg", "attn_cfg")
_DIRECTIONS = ("fwd", "bwd")

# Substrings of parameter names: LDARNetForMaskedLM -> published, applied in this order.
_RENAMED = (
    (".main.", ".main_network."),
    (".router.q_proj.", ".routing_module.q_proj_layer."),
    (".router.k_proj.", ".routing_module.k_proj_layer."),
    (".mixer.qkv_proj.", ".mixer.Wqkv."),
)
_PER_DIRECTION = {
    "conv_weight": "conv1d.weight",
    "conv_bias": "conv1d.bias",
    "A_log": "A_log",
    "D": "D",
    "dt_bias": "dt_bias",
    "norm_weight": "norm.weight",
}
_SHARED = ("in_proj.weight", "out_proj.weight")
_TIED = ("lm_head.weight", "model.embeddings.weight")


def published_names(name: str, bimamba: bool) -> list[str]:
    """Published names of a parameter: one name, or one per direction for a parameter of a BiMamba-2 mixer.

    Args:
        name: parameter name in ``LDARNetForMaskedLM``.
        bimamba: whether the parameter belongs to a BiMamba-2 mixer.
    """
    name = name.removeprefix("model.")
    name = re.sub(r"(encoder|decoder|main)\.norm\.", r"\1.rmsnorm.", name)
    for ours, theirs in _RENAMED:
        # Repeat, because matches in nested stages (.main.main.) overlap by a dot and one pass would miss some.
        while ours in name:
            name = name.replace(ours, theirs)
    if not bimamba:
        return [name]
    layer, _, part = name.partition(".mixer.")
    part = _PER_DIRECTION.get(part, part)
    return [f"{layer}.mixer.{direction}.{part}" for direction in _DIRECTIONS]


def _in_bimamba(model: LDARNetForMaskedLM, name: str) -> bool:
    layer, in_mixer, _ = name.partition(".mixer.")
    return bool(in_mixer) and hasattr(model.get_submodule(f"{layer}.mixer"), "A_log")


def to_published(model: LDARNetForMaskedLM, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert tensors from LDARNetForMaskedLM names to published names.

    Mixers are split by direction; shared projections appear under the names of both directions.
    """
    published = {}
    for name, tensor in tensors.items():
        names = published_names(name, _in_bimamba(model, name))
        if len(names) == 1 or name.endswith(_SHARED):
            published |= dict.fromkeys(names, tensor)
        else:
            parts = [part[:, None] if name.endswith("conv_weight") else part for part in tensor.unbind(0)]
            published |= {theirs: part.clone() for theirs, part in zip(names, parts, strict=True)}
    return published


def from_published(model: LDARNetForMaskedLM, published: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Convert a published state dict to LDARNetForMaskedLM names; the two directions of a mixer are stacked.

    Args:
        model: model of the same architecture.
        published: published state dict.
        source: file name, for error messages.

    Raises:
        UserError: a tensor is missing, unexpected, of the wrong shape or not finite, or copies of a shared or tied
            matrix differ.
    """
    for name, tensor in published.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            problem = "its value is not a tensor" if isinstance(name, str) else "its key is not a string"
            raise UserError(f"{source}: entry {str(name)[:80]!r}: {problem}; is this a published LDARNet checkpoint?")
    check_weights(published, source)
    left, state = dict(published), {}
    for name, ours in model.state_dict().items():
        names = published_names(name, _in_bimamba(model, name))
        if missing := [theirs for theirs in names if theirs not in left]:
            raise UserError(f"{source}: tensor {missing[0]!r} is missing; check that config and weights match")
        parts = [left.pop(theirs) for theirs in names]
        if name.endswith(_SHARED) and not all(torch.equal(parts[0], part) for part in parts):
            raise UserError(
                f"{source}: {names[0]!r} and {names[1]!r} differ; only models with shared projections are supported"
            )
        tensor = parts[0] if len(names) == 1 or name.endswith(_SHARED) else torch.stack(parts)
        tensor = tensor.squeeze(2) if name.endswith("conv_weight") else tensor
        if tensor.shape != ours.shape:
            raise UserError(
                f"{source}: {names[0]!r} has shape {tuple(tensor.shape)}, expected {tuple(ours.shape)}; check that "
                "config and weights match"
            )
        state[name] = tensor
    if model.config.tie_word_embeddings and not torch.equal(*(state[name] for name in _TIED)):
        raise UserError(
            f"{source}: head and embedding are tied in the config, but their weights differ; check that config and "
            "weights match"
        )
    if left:
        raise UserError(f"{source}: tensor {min(left)!r} is unexpected; check that config and weights match")
    return state


def _config_from_published(published: Mapping[str, Any], source: str) -> LDARNetConfig:
    if missing := [name for name in _CONFIG_FIELDS if name not in published]:
        raise UserError(f"{source}: config has no {missing[0]!r}; is this a published LDARNet checkpoint?")
    fields = {name: published[name] for name in _CONFIG_FIELDS} | {
        "tie_word_embeddings": published.get("tie_embeddings", False),
        "pad_token_id": published.get("pad_token_id", LDARNetConfig.pad_token_id),
        "mask_token_id": published.get("mask_token_id", LDARNetConfig.mask_token_id),
    }
    try:
        return LDARNetConfig.from_dict(fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source}: config is not a valid LDARNet configuration ({error}); is this a published LDARNet checkpoint?"
        ) from error


def load_published_checkpoint(path: str | Path) -> LDARNetForMaskedLM:
    """Load a published ``.pt`` checkpoint without executing code from the file.

    Returns:
        The model in float32, in evaluation mode.

    Raises:
        UserError: the file is missing, not a published checkpoint, or inconsistent with its config.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of a published LDARNet checkpoint (.pt)") from None
    except pickle.UnpicklingError:  # do not quote its advice to allow code execution
        reason = "damaged, or it contains objects other than tensors, numbers and text, which could execute code"
        raise UserError(f"{path}: not a readable PyTorch checkpoint ({reason}); download it again") from None
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a readable PyTorch checkpoint ({reason}); download it again") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("model", "config")):
        raise UserError(f"{path}: 'model' or 'config' is missing; is this a published LDARNet checkpoint?")
    with torch.device("meta"):
        model = LDARNetForMaskedLM(_config_from_published(content["config"], str(path)))
    state = from_published(model, content["model"], str(path))
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    model.tie_weights()
    return model.eval()


def save_published_checkpoint(model: LDARNetForMaskedLM, path: str | Path, step: int = 0) -> None:
    """Save a model in the published checkpoint format, with its training step.

    Raises:
        UserError: the model is not an `LDARNetForMaskedLM`, reads tokens of several bases, or its chunking options are
            not the published ones; the format cannot describe these models.
    """
    from ldarnet.io.files import atomic_path

    config = model.config
    if config.causal:
        raise UserError(f"{path}: the published format has no causal models; export a Hugging Face folder")
    if config.tokenizer is not None:
        raise UserError(f"{path}: the published format has no tokens of several bases; export a model that reads bases")
    if config.chunking != complete_options({}):
        raise UserError(
            f"{path}: the published format has no chunking options, and this model has {config.chunking}; export a "
            "Hugging Face folder"
        )
    published = {name: getattr(config, name) for name in _CONFIG_FIELDS}
    published["ssm_cfg"] = {key: value for key, value in config.ssm_cfg.items() if key != "headdim" or value != 64}
    published |= {
        "tie_embeddings": config.tie_word_embeddings,
        "mode": "mlm",
        "pad_token_id": config.pad_token_id,
        "mask_token_id": config.mask_token_id,
    }
    content = io.BytesIO()  # writing a file, torch.save reports a full disk without naming it
    torch.save({"model": to_published(model, model.state_dict()), "config": published, "step": step}, content)
    with atomic_path(Path(path)) as staged:
        staged.write_bytes(content.getbuffer())
