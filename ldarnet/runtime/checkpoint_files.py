"""Write the files of a checkpoint, and load weights and moments from them."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from ldarnet.config import RunConfig
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import read_errors, space_errors, write_json_atomic
from ldarnet.io.records import read_record
from ldarnet.model import LDARNetConfig, LDARNetLanguageModel
from ldarnet.model.configuration import SAVED_IF_CHANGED
from ldarnet.model.integrity import check_weights
from ldarnet.printable import printable
from ldarnet.runtime.checkpoint import TrainingState, read_state

IGNORED_CONFIG_KEYS = {"ops", "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"}


@dataclass(frozen=True)
class CheckpointContents:
    """Contents of a checkpoint in host memory (12 bytes per parameter).

    Attributes:
        weights: fp32 parameters and buffers, by name.
        moments: fp32 moments, keyed by `<moment>.<parameter name>`.
        model_config: model configuration, including `architectures`.
        wait: waits until weights and moments are copied to the host; called before they are written.
    """

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    model_config: LDARNetConfig
    config: RunConfig
    state: TrainingState
    wait: Callable[[], None] = lambda: None

    def write(self, folder: Path) -> None:
        """Write all checkpoint files except the manifest to a folder.

        Raises:
            NotWritableError: no permission to write a file, or the disk is full.
        """
        self.wait()
        save_tensors(self.weights, folder / run_files.WEIGHTS)
        save_tensors(self.moments, folder / run_files.OPTIMIZER)
        with space_errors(folder / run_files.MODEL_CONFIG):
            self.model_config.save_pretrained(folder)
        save_config(self.config, folder / run_files.CONFIG)
        write_json_atomic(folder / run_files.STATE, asdict(self.state), indent=2)


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write named host tensors to a safetensors file.

    Raises:
        NotWritableError: no permission to write, or the disk is full.
    """
    with space_errors(file):
        save_file(dict(tensors), file, metadata={"format": "pt"})


def save_config(config: RunConfig, path: Path) -> None:
    """Write a run configuration without `training.stop_after`, which applies to a single launch."""
    config.model_copy(update={"training": config.training.model_copy(update={"stop_after": None})}).save(path)


def check_fits(checkpoint: Path, model: LDARNetLanguageModel, fingerprint: str, *, accept_other: bool = False) -> None:
    """Check that a checkpoint has the architecture of `model` and was trained on the current data set.

    Args:
        checkpoint: checkpoint folder.
        model: model that will load the checkpoint.
        fingerprint: fingerprint of the current data set.
        accept_other: do not check the data set.

    Raises:
        UserError: the architecture or the data set differs.
    """
    hint = f"restore it, or delete {checkpoint} to resume from the previous checkpoint"
    saved = SAVED_IF_CHANGED | read_record(checkpoint / run_files.MODEL_CONFIG, dict[str, Any], hint=hint)
    expected = SAVED_IF_CHANGED | json.loads(model.config.to_json_string(use_diff=False))
    keys = [key for key in expected if key not in IGNORED_CONFIG_KEYS and key in saved and saved[key] != expected[key]]
    if keys:
        listed = printable("; ".join(f"{key}: {str(saved[key])[:200]} -> {str(expected[key])[:200]}" for key in keys))
        raise UserError(
            f"{checkpoint}: model architecture differs from the configuration ({listed}); choose another run.dir"
        )
    found = read_state(checkpoint).fingerprint
    if found != fingerprint and not accept_other:
        raise UserError(
            f"{checkpoint}: trained on a different data set (fingerprint {printable(found[:12])}, but data.shards has "
            f"{fingerprint[:12]}); set data.shards to the original data set, choose another run.dir, or set "
            "data.accept_other=true to continue on the new data set"
        )


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Load the weights of a checkpoint, including tied weights, into a model of the same architecture.

    Raises:
        UserError: the file is damaged, its tensors do not match the model, or a weight is not finite.
    """
    file = checkpoint / run_files.WEIGHTS
    with _tensor_errors(file):
        load_model(model, file, strict=True)
    check_weights(dict(model.named_parameters()), str(file), _hint(file))


@contextmanager
def moments_of(checkpoint: Path) -> Iterator[Callable[[str, torch.Size], Tensor]]:
    """Yield a function that reads one unpartitioned moment, given its key and the shape of its parameter.

    The key is `<moment>.<parameter name>`.

    Raises:
        UserError: the file is damaged, lacks a moment, or a moment is not finite or has another shape.
    """
    path = checkpoint / run_files.OPTIMIZER
    with _tensor_errors(path), safe_open(path, framework="pt") as file:

        def read(key: str, shape: torch.Size) -> Tensor:
            moment = file.get_tensor(key)
            if moment.shape != shape:
                raise UserError(
                    f"{path}: tensor {key!r} has shape {tuple(moment.shape)}, but the model expects {tuple(shape)}; "
                    f"{_hint(path)}"
                )
            check_weights({key: moment}, str(path), _hint(path))
            return moment

        yield read


def _hint(file: Path) -> str:
    return f"restore it, or delete {file.parent}"


@contextmanager
def _tensor_errors(file: Path) -> Iterator[None]:
    """While the block reads `file`, convert errors of safetensors to a UserError."""
    try:
        with read_errors(file):
            yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "state_dict" not in str(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: damaged ({reason}); {_hint(file)}") from None


def code_commit() -> str | None:
    """Git commit of the running code, followed by `+` if tracked files were modified; None if not tracked by git."""

    def git(*words: str) -> str:
        here = Path(__file__)
        return subprocess.run(
            ["git", "-C", str(here.parent), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno", "..") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
