"""Save and load Hugging Face model folders, including those inside run folders and checkpoints."""

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import read_errors, staged_folder
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.modeling import (
    LDARNetForMaskedLM,
    LDARNetForSequenceClassification,
    LDARNetModel,
    LDARNetPreTrainedModel,
)
from ldarnet.model.published import load_published_checkpoint
from ldarnet.model.tokenizer import DNATokenizer

Model = TypeVar("Model", LDARNetForMaskedLM, LDARNetForSequenceClassification, LDARNetModel)
HEADS: dict[str, type[LDARNetPreTrainedModel]] = {
    kind.__name__: kind for kind in (LDARNetForMaskedLM, LDARNetForSequenceClassification, LDARNetModel)
}
FINETUNED = (run_files.EXPORT, run_files.BEST)
"""Subfolders of fine-tuning runs and folds that hold the classifier."""


def write_model(model: LDARNetPreTrainedModel, out: Path) -> None:
    """Save a model and its tokenizer as a Hugging Face folder, atomically.

    Raises:
        UserError: the folder already exists, or the disk is full.
    """
    if out.exists():
        raise UserError(f"{out}: already exists; remove it or choose another folder")
    with staged_folder(out) as staged:
        model.save_pretrained(staged)
        DNATokenizer().save_pretrained(staged)
        for file in staged.iterdir():  # safetensors writes files with mode 0600
            file.chmod(staged.stat().st_mode & 0o666)


def model_folder(path: Path) -> Path:
    """Resolve a path to a model folder: the best checkpoint of a run, or the classifier of a fine-tuning run or fold.

    Any other path is returned unchanged.

    Raises:
        UserError: the checkpoint list of the run is damaged.
    """
    pointers = path / run_files.CHECKPOINTS / run_files.POINTERS
    if pointers.is_file():
        return pointers.parent / str(_read_value(pointers, "best"))
    if not (path / run_files.MODEL_CONFIG).is_file():
        return next((path / name for name in FINETUNED if (path / name / run_files.MODEL_CONFIG).is_file()), path)
    return path


def load_model(path: Path, kind: type[Model]) -> Model:
    """Load a model from a model folder, a checkpoint, or a run (its best checkpoint).

    Args:
        path: model folder, checkpoint folder or run folder.
        kind: expected model class.

    Raises:
        UserError: there is no model, it has another class, or a file is damaged.
    """
    folder = model_folder(path)
    saved = _saved_class(folder)
    if saved is not kind:
        hint = {
            LDARNetForSequenceClassification: "fine-tune it first or choose a classifier",
            LDARNetForMaskedLM: "choose a pretrained model",
        }.get(kind, "choose another model")
        raise UserError(
            f"{folder / run_files.MODEL_CONFIG}: the model is a {saved.__name__}, not a {kind.__name__}; {hint}"
        )
    return _load(folder, kind)


def load_backbone(path: Path) -> LDARNetModel:
    """Load a backbone from a model folder, a checkpoint, a run (its best checkpoint), or a published ``.pt`` file.

    Raises:
        UserError: there is no model, or a file is damaged.
    """
    if path.suffix == ".pt":
        return load_published_checkpoint(path).model
    folder = model_folder(path)
    model: Any = _load(folder, _saved_class(folder))
    return getattr(model, "model", model)


def _saved_class(folder: Path) -> type[LDARNetPreTrainedModel]:
    """Class of the model in a folder; LDARNetForMaskedLM if the config lists no known class.

    Raises:
        UserError: the folder contains no LDARNet model.
    """
    config, weights = folder / run_files.MODEL_CONFIG, folder / run_files.WEIGHTS
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a model folder, a checkpoint, or a run with a checkpoint")
    for file in (config, weights):
        if not file.is_file():
            if file is config and (folder / run_files.CONFIG).is_file():  # a run folder; a checkpoint has both files
                raise UserError(f"{folder}: this run has no saved model; {_missing_model_hint(folder)}")
            raise UserError(f"{file}: no such file; give a model folder, a checkpoint, or a run with a checkpoint")
    kind = _read_value(config, "model_type")
    if kind != LDARNetConfig.model_type:
        raise UserError(f"{config}: model_type is {kind!r}, not {LDARNetConfig.model_type!r}; choose an LDARNet model")
    names = _read_value(config, "architectures")
    return HEADS.get(str(names[0]) if isinstance(names, list) and names else "", LDARNetForMaskedLM)


def _missing_model_hint(run_dir: Path) -> str:
    if (run_dir / run_files.SUMMARY).is_file():  # written when all folds of fine-tuning are finished
        return "baselines have none, and sweeps delete the weights of settings they do not choose; choose another run"
    return "it has not written a checkpoint yet; run its command again to resume it"


def _load(folder: Path, kind: type[LDARNetPreTrainedModel]) -> Any:
    config, weights = folder / run_files.MODEL_CONFIG, folder / run_files.WEIGHTS
    try:
        loaded: Any = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32, output_loading_info=True)
    except SafetensorError as error:
        raise UserError(f"{weights}: damaged or truncated ({_first_line(error)}); save or download it again") from None
    except UserError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        reason = _first_line(error)
        raise UserError(f"{config}: not a valid config of this model ({reason}); save or download it again") from None
    model, keys = loaded
    for problem, names in (("missing", keys["missing_keys"]), ("unexpected", keys["unexpected_keys"])):
        if names:
            raise UserError(
                f"{weights}: {problem} tensor {min(names)!r}; save or download the weights and the config again"
            )
    return model.eval()


def _read_value(file: Path, key: str) -> object:
    """Read one value of a JSON object; None if the key is missing."""
    with read_errors(file):
        text = file.read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file}: damaged, not valid JSON ({error}); save or download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: damaged, not a JSON object; save or download it again")
    return content.get(key)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
