"""Save and load Hugging Face model folders, including those inside run folders and checkpoints."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import read_errors, staged_folder
from ldarnet.model.classifiers import LDARNetClassifier, LDARNetForSequenceClassification, LDARNetForTokenClassification
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.heads import LDARNetForCausalLM, LDARNetForMaskedLM, LDARNetLanguageModel
from ldarnet.model.hub import write_hub_files
from ldarnet.model.integrity import check_hashes, check_weights
from ldarnet.model.modeling import LDARNetModel, LDARNetPreTrainedModel
from ldarnet.model.published import load_published_checkpoint
from ldarnet.model.tokenizer import DNATokenizer

Model = TypeVar("Model", bound=LDARNetPreTrainedModel)
HEADS: dict[str, type[LDARNetPreTrainedModel]] = {
    kind.__name__: kind
    for kind in (
        *(LDARNetForCausalLM, LDARNetForMaskedLM),
        *(LDARNetForSequenceClassification, LDARNetForTokenClassification, LDARNetModel),
    )
}
FINETUNED = (run_files.EXPORT, run_files.BEST)
"""Subfolders of fine-tuning runs and folds that hold the classifier."""
HINT = "save or download it again"


def write_model(model: LDARNetPreTrainedModel, out: Path) -> None:
    """Atomically save a model and its tokenizer as a Hugging Face folder with a manifest of file hashes.

    The folder contains a model card, and code that runs the model without this package; see `ldarnet.model.hub`.

    Raises:
        UserError: the folder already exists, or the disk is full.
    """
    from ldarnet.io.manifest import write_manifest

    if out.exists():
        raise UserError(f"{out}: already exists; remove it or choose another folder")
    with staged_folder(out) as staged:
        model.save_pretrained(staged)
        DNATokenizer.of(model.config).save_pretrained(staged)
        write_hub_files(model, staged)
        for file in staged.iterdir():  # safetensors writes files with mode 0600
            file.chmod(staged.stat().st_mode & 0o666)
        write_manifest(staged)


def model_folder(path: Path) -> Path:
    """Find the model folder of a run or cross-validation fold.

    This is the best checkpoint or, for fine-tuning, the classifier. Any other path is returned unchanged.

    Raises:
        UserError: the checkpoint list of the run is damaged.
    """
    pointers = path / run_files.CHECKPOINTS / run_files.POINTERS
    if pointers.is_file():
        from ldarnet.model.saved import read_best

        return pointers.parent / read_best(pointers)
    if not (path / run_files.MODEL_CONFIG).is_file():
        return next((path / name for name in FINETUNED if (path / name / run_files.MODEL_CONFIG).is_file()), path)
    return path


def window_length(checkpoint: Path | None) -> int | None:
    """Length in bases of the windows that a checkpoint was pretrained on; None if unknown.

    It is read from the configuration of the pretraining run.
    """
    if checkpoint is None or checkpoint.suffix == ".pt":
        return None
    folder = model_folder(checkpoint)
    for file in (folder / run_files.CONFIG, folder.parent / run_files.CONFIG):
        if file.is_file():
            from ldarnet.io.records import read_yaml

            try:
                content = read_yaml(file)
            except UserError:  # not an ldarnet configuration
                return None
            data = content.get("data") if isinstance(content, dict) else None
            length = data.get("length") if isinstance(data, dict) else None
            return length if isinstance(length, int) else None
    return None


def load_model(path: Path, kind: type[Model], *, verify: bool | None = None) -> Model:
    """Load a model from a model folder, a checkpoint, or a run (its best checkpoint).

    Args:
        path: model folder, checkpoint folder or run folder.
        kind: expected model class; `LDARNetLanguageModel` for any language model.
        verify: whether to compare the files with the manifest of the folder, if there is one. The default is False
            if the environment variable `LDARNET_VERIFY` is 0, and True otherwise.

    Raises:
        UserError: there is no model, it has another class, a file is damaged, or a weight is not finite.
    """
    folder = model_folder(path)
    check_hashes(folder, verify)
    config, saved = _read_config(folder)
    if not issubclass(saved, kind):
        hint = {
            LDARNetClassifier: "fine-tune it first or choose a classifier",
            LDARNetForSequenceClassification: "fine-tune it first or choose a classifier",
            LDARNetForCausalLM: "choose a pretrained causal model",
            LDARNetForMaskedLM: "choose a pretrained model that is not causal",
            LDARNetLanguageModel: "choose a pretrained model",
        }.get(kind, "choose another model")
        raise UserError(
            f"{folder / run_files.MODEL_CONFIG}: the model class is {saved.__name__}, not {kind.__name__}; {hint}"
        )
    return _load(folder, config, saved)


def load_backbone(path: Path, *, verify: bool | None = None) -> LDARNetModel:
    """Load a backbone from a model folder, a checkpoint, a run (its best checkpoint), or a published ``.pt`` file.

    Args:
        path: model folder, checkpoint folder, run folder, or ``.pt`` file.
        verify: see `load_model`.

    Raises:
        UserError: there is no model, a file is damaged, or a weight is not finite.
    """
    if path.suffix == ".pt":
        return load_published_checkpoint(path).model
    folder = model_folder(path)
    check_hashes(folder, verify)
    config, saved = _read_config(folder)
    model = _load(folder, config, saved)
    return getattr(model, "model", model)


def _read_config(folder: Path) -> tuple[LDARNetConfig, type[LDARNetPreTrainedModel]]:
    """Read the configuration and the class of the model in a folder.

    If the configuration names none of the classes in `HEADS`, the class is that of a language model.

    Raises:
        UserError: the folder contains no LDARNet model, or the configuration is invalid.
    """
    file, weights = folder / run_files.MODEL_CONFIG, folder / run_files.WEIGHTS
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a model folder, a checkpoint, or a run with a checkpoint")
    for path in (file, weights):
        if not path.is_file():
            if path is file and (folder / run_files.CONFIG).is_file():  # a run folder; a checkpoint has both files
                raise UserError(f"{folder}: this run has no saved model; {_missing_model_hint(folder)}")
            raise UserError(f"{path}: no such file; give a model folder, a checkpoint, or a run with a checkpoint")
    from ldarnet.model.saved import read_config_file

    content = read_config_file(file, hint=HINT)
    kind = content.get("model_type")
    if kind != LDARNetConfig.model_type:
        raise UserError(
            f"{file}: model_type is {str(kind)[:80]!r}, not {LDARNetConfig.model_type!r}; choose an LDARNet model"
        )
    try:
        config = LDARNetConfig.from_dict(content)
    except ValueError as error:
        raise UserError(f"{file}: {_first_line(error)}; {HINT}") from None
    language_model = LDARNetForCausalLM if config.causal else LDARNetForMaskedLM
    return config, HEADS.get((config.architectures or [""])[0], language_model)


def _missing_model_hint(run_dir: Path) -> str:
    if (run_dir / run_files.SUMMARY).is_file():  # written when all folds of fine-tuning are finished
        return "baselines have none, and sweeps delete the weights of settings they do not choose; choose another run"
    return "it has not written a checkpoint yet; run its command again to resume it"


def _load(folder: Path, config: LDARNetConfig, kind: type[LDARNetPreTrainedModel]) -> Any:
    """Build a model and load its weights in float32, without running code from the folder."""
    file = folder / run_files.WEIGHTS
    tensors = _read_weights(file)
    try:
        with torch.device("meta"):
            model = kind(config)
    except ValueError as error:
        raise UserError(f"{folder / run_files.MODEL_CONFIG}: {_first_line(error)}; {HINT}") from None
    _check_tensors(file, model, tensors)
    floating = {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    check_weights({name: tensors[name] for name in tensors if name in floating}, str(file))
    state = {name: tensor.float() if name in floating else tensor for name, tensor in tensors.items()}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def _check_tensors(file: Path, model: LDARNetPreTrainedModel, tensors: dict[str, Tensor]) -> None:
    """Compare names, shapes and integer dtypes of tensors with those of a model.

    Raises:
        UserError: they differ.
    """
    expected, hint = model.state_dict(), "save or download the weights and the config again"
    tied = (model._tied_weights_keys or {}) if model.config.tie_word_embeddings else {}
    for problem, names in (
        ("missing", expected.keys() - tensors.keys() - tied.keys()),
        ("unexpected", tensors.keys() - expected.keys()),
    ):
        if names:
            raise UserError(f"{file}: {problem} tensor {min(names)!r}; {hint}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            raise UserError(
                f"{file}: tensor {name!r} has shape {tuple(tensor.shape)}, but the config expects "
                f"{tuple(wanted.shape)}; {hint}"
            )
        if not wanted.is_floating_point() and tensor.dtype != wanted.dtype:
            raise UserError(
                f"{file}: tensor {name!r} has dtype {tensor.dtype}, but the config expects {wanted.dtype}; {hint}"
            )


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        with read_errors(file):
            tensors = load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file}: damaged or truncated ({_first_line(error)}); {HINT}") from None
    return tensors


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
