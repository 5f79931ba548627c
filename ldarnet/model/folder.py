"""Models on disk in the Hugging Face form, and where they lie in the folders that training leaves."""

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
"""Where runs and folds of fine-tuning keep their classifier."""


def write_model(model: LDARNetPreTrainedModel, out: Path) -> None:
    """Write a model and its tokenizer as a Hugging Face folder, which is complete or absent.

    Raises:
        UserError: the folder exists already, or the device is full.
    """
    if out.exists():
        raise UserError(f"{out} exists already; remove it or name another folder")
    with staged_folder(out) as staged:
        model.save_pretrained(staged)
        DNATokenizer().save_pretrained(staged)
        for file in staged.iterdir():  # the library leaves weights to their owner alone
            file.chmod(staged.stat().st_mode & 0o666)


def model_folder(place: Path) -> Path:
    """The folder of the model that is meant: the best checkpoint of a run, the classifier of a fine-tuning run or fold.

    Raises:
        UserError: the run's list of checkpoints is damaged.
    """
    pointers = place / run_files.CHECKPOINTS / run_files.POINTERS
    if pointers.is_file():
        return pointers.parent / str(_read_value(pointers, "best"))
    if not (place / run_files.MODEL_CONFIG).is_file():
        return next((place / name for name in FINETUNED if (place / name / run_files.MODEL_CONFIG).is_file()), place)
    return place


def load_model(place: Path, kind: type[Model]) -> Model:
    """Load the model of a model folder, a checkpoint, or a run (its best).

    Args:
        place: the folder.
        kind: of model.

    Raises:
        UserError: it is none of these, holds a model of another kind, or a file of it is damaged.
    """
    folder = model_folder(place)
    kept = _kept_kind(folder)
    if kept is not kind:
        remedy = {
            LDARNetForSequenceClassification: "fine-tune it first, or name a classifier",
            LDARNetForMaskedLM: "name a model that was pretrained",
        }.get(kind, "name another one")
        raise UserError(f"{folder / run_files.MODEL_CONFIG}: holds a {kept.__name__}, not a {kind.__name__}; {remedy}")
    return _load(folder, kind)


def load_backbone(place: Path) -> LDARNetModel:
    """Load a model without its head: of a model folder, a checkpoint, a run (its best), or the authors' ``.pt`` file.

    Raises:
        UserError: it is none of these, or a file of it is damaged.
    """
    if place.suffix == ".pt":
        return load_published_checkpoint(place).model
    folder = model_folder(place)
    model: Any = _load(folder, _kept_kind(folder))
    return getattr(model, "model", model)


def _kept_kind(folder: Path) -> type[LDARNetPreTrainedModel]:
    """The class of the model in a folder; a masked language model where nothing is said.

    Raises:
        UserError: there is no model of ours.
    """
    config, weights = folder / run_files.MODEL_CONFIG, folder / run_files.WEIGHTS
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a model folder, a checkpoint or a run that has saved one")
    for file in (config, weights):
        if not file.is_file():
            if file is config and (folder / run_files.CONFIG).is_file():  # a checkpoint has both
                raise UserError(f"{folder}: a run without a model of ours; {_why_none(folder)}")
            raise UserError(f"{file}: no such file; name a model folder, a checkpoint or a run that has saved one")
    kind = _read_value(config, "model_type")
    if kind != LDARNetConfig.model_type:
        raise UserError(f"{config}: holds a model of type {kind!r}, not of ldarnet; name another one")
    names = _read_value(config, "architectures")
    return HEADS.get(str(names[0]) if isinstance(names, list) and names else "", LDARNetForMaskedLM)


def _why_none(run_dir: Path) -> str:
    if (run_dir / run_files.SUMMARY).is_file():  # of fine-tuning, written when its folds are finished
        return "it was a baseline, or its sweep has chosen another setting and deleted these weights"
    return "it has not saved one yet, so run its command again"


def _load(folder: Path, kind: type[LDARNetPreTrainedModel]) -> Any:
    config, weights = folder / run_files.MODEL_CONFIG, folder / run_files.WEIGHTS
    try:
        loaded: Any = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32, output_loading_info=True)
    except SafetensorError as error:
        raise UserError(f"{weights}: damaged or cut short ({_first_line(error)}); write or fetch it again") from None
    except UserError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        reason = _first_line(error)
        raise UserError(f"{config}: describes no model or another one ({reason}); write or fetch it again") from None
    model, found = loaded
    for state, names in (("lacks", found["missing_keys"]), ("has too much,", found["unexpected_keys"])):
        if names:
            raise UserError(f"{weights}: {state} {min(names)!r}; write or fetch it again, with its config.json")
    return model.eval()


def _read_value(file: Path, key: str) -> object:
    """One value of a JSON object in a file; None if it has no such key."""
    with read_errors(file):
        text = file.read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file}: damaged, not JSON ({error}); write or fetch it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: damaged, not a JSON object; write or fetch it again")
    return content.get(key)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
