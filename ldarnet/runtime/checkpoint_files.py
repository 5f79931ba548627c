"""What is in the files of a checkpoint: written from the host's memory, read piece by piece."""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from ldarnet.config import RunConfig
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import space_errors, write_json_atomic
from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.runtime.checkpoint import TrainingState, read_state

IGNORED_CONFIG_KEYS = {"ops", "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"}


@dataclass(frozen=True)
class Contents:
    """A checkpoint on its way to the disk: 12 bytes of the host's memory for each parameter.

    Attributes:
        weights: fp32, by name.
        moments: fp32, as `<moment>.<parameter name>`.
        model_config: of the model, `architectures` included.
        config: of the run.
        state: where the run stands.
    """

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    model_config: LDARNetConfig
    config: RunConfig
    state: TrainingState

    def write(self, folder: Path) -> None:
        """Write every file but the manifest.

        Raises:
            NotWritableError: the device is full or may not be written to; names the file.
        """
        save_tensors(self.weights, folder / run_files.WEIGHTS)
        save_tensors(self.moments, folder / run_files.OPTIMIZER)
        with space_errors(folder / run_files.MODEL_CONFIG):
            self.model_config.save_pretrained(folder)
        save_config(self.config, folder / run_files.CONFIG)
        write_json_atomic(folder / run_files.STATE, asdict(self.state), indent=2)


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors of the host by name.

    Raises:
        NotWritableError: the device is full or may not be written to.
    """
    with space_errors(file):
        try:
            save_file(dict(tensors), file, metadata={"format": "pt"})
        except SafetensorError as error:
            # The library reports the operating system's errors as text.
            if f"(os error {errno.ENOSPC})" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from None
            raise


def save_config(config: RunConfig, path: Path) -> None:
    """Write the configuration of a run; where to stop for now belongs to one start, not to the run."""
    config.model_copy(update={"training": config.training.model_copy(update={"stop_after": None})}).save(path)


def check_fits(checkpoint: Path, model: LDARNetForMaskedLM, fingerprint: str, *, accept_other: bool = False) -> None:
    """Check that a checkpoint is of this architecture and was trained on this data, or that other data is accepted.

    Raises:
        UserError: it is not; names what differs.
    """
    saved = json.loads((checkpoint / run_files.MODEL_CONFIG).read_text(encoding="utf-8"))
    wanted = json.loads(model.config.to_json_string(use_diff=False))
    keys = [key for key in wanted if key not in IGNORED_CONFIG_KEYS and key in saved and saved[key] != wanted[key]]
    if keys:
        listed = "; ".join(f"{key} is {saved[key]} there and {wanted[key]} here" for key in keys)
        raise UserError(f"{checkpoint} holds another architecture: {listed}; give this run another run.dir")
    found = read_state(checkpoint).fingerprint
    if found != fingerprint and not accept_other:
        raise UserError(
            f"{checkpoint} was trained on another data set (fingerprint {found[:12]}, data.shards has "
            f"{fingerprint[:12]}); point data.shards to the former set, give this run another run.dir, "
            "or set data.accept_other=true to go on with the other data"
        )


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Put a checkpoint's weights into a model of its architecture; tied ones included."""
    load_model(model, checkpoint / run_files.WEIGHTS, strict=True)


@contextmanager
def moments_of(checkpoint: Path) -> Iterator[Callable[[str], Tensor]]:
    """A function that reads one of the optimiser's moments, whole, by `<moment>.<parameter name>`."""
    with safe_open(checkpoint / run_files.OPTIMIZER, framework="pt") as file:
        yield file.get_tensor


def code_commit() -> str | None:
    """The commit of the code that runs, with a `+` where files differ from it; None outside of a repository."""

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
