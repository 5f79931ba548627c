"""Checkpoints: folders that exist under their final name only when complete, and that any number of ranks can read.

    checkpoints/step-00000100/
        model.safetensors, config.json   fp32 weights by name; `from_pretrained` reads the folder
        optimizer.safetensors            `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`, whole, fp32
        state.json                       step, position in the data, seed, fingerprint, best so far, ...
        manifest.json                    size and SHA-256 of each file, written last
    checkpoints/pointers.json            names of the latest and the best, for people and programs

Nothing is pickled.
"""

import copy
import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor, nn

from ldarnet.errors import UserError
from ldarnet.files import sha256_file, space_errors, sync_path, write_json_atomic
from ldarnet.model import LDARNetForMaskedLM
from ldarnet.training.distributed import World
from ldarnet.training.engine import Engine
from ldarnet.training.state import whole_moments, whole_parameters
from ldarnet.version import __version__

FORMAT_VERSION = 1
PREFIX = "step-"
STAGED = ".staged-"
DOOMED = ".doomed-"
IGNORED_CONFIG_KEYS = {"ops", "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"}


@dataclass(frozen=True)
class TrainingState:
    """Everything about a run that is not a tensor, after `step` completed optimiser steps.

    Attributes:
        step: completed optimiser steps.
        total_steps: steps of the whole run, which the schedule's shares refer to.
        position: windows consumed; the order of windows is a pure function of it.
        seed: of weights, order and masks.
        fingerprint: of the shard set.
        seconds: time spent in training so far, over all starts.
        best_step: checkpoint with the lowest validation loss, if any.
        best_loss: its validation loss.
        code_version: version of this package that wrote the checkpoint.
        format: version of the checkpoint's form.
    """

    step: int
    total_steps: int
    position: int
    seed: int
    fingerprint: str
    seconds: float = 0.0
    best_step: int | None = None
    best_loss: float | None = None
    code_version: str = __version__
    format: int = FORMAT_VERSION

    def advanced(self, **changes: Any) -> "TrainingState":
        """A copy with some attributes changed."""
        return replace(self, **changes)


class CheckpointStore:
    """The checkpoints of one run folder; only complete ones are seen."""

    def __init__(self, run_dir: Path, keep: int) -> None:
        self.folder = run_dir / "checkpoints"
        self.keep = keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies or will lie."""
        return self.folder / f"{PREFIX}{step:08d}"

    def complete(self) -> list[Path]:
        """All complete checkpoints, oldest first."""
        return sorted(path.parent for path in self.folder.glob(f"{PREFIX}*/manifest.json"))

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        return next(reversed(self.complete()), None)

    def best(self) -> Path | None:
        """The complete checkpoint with the lowest validation loss; the newest where nothing was validated."""
        latest = self.latest()
        if latest is None:
            return None
        step = read_state(latest).best_step
        return latest if step is None or not self.path(step).is_dir() else self.path(step)

    def clean(self) -> None:
        """Remove what an interrupted save or removal left behind."""
        incomplete = set(self.folder.glob(f"{PREFIX}*")) - set(self.complete())
        for path in (*self.folder.glob(f"{STAGED}*"), *self.folder.glob(f"{DOOMED}*"), *incomplete):
            shutil.rmtree(path)

    def settle(self) -> None:
        """Point to the latest and the best, and remove all others but the last `keep`."""
        latest, best = self.latest(), self.best()
        assert latest is not None and best is not None
        write_json_atomic(self.folder / "pointers.json", {"latest": latest.name, "best": best.name}, indent=2)
        kept = {*self.complete()[-self.keep :], best}
        for path in self.complete():
            if path not in kept:
                doomed = path.with_name(DOOMED + path.name)
                path.rename(doomed)
                shutil.rmtree(doomed)

    @contextmanager
    def staged(self, step: int) -> Iterator[Path]:
        """A folder to write in; it becomes the checkpoint of `step` when the block succeeds, else it is removed."""
        staged = self.folder / f"{STAGED}{step:08d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        try:
            with space_errors(staged):
                staged.mkdir()
                yield staged
            with space_errors(staged / "manifest.json"):
                _seal(staged, step)
                staged.rename(self.path(step))
                sync_path(self.folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def save_checkpoint(store: CheckpointStore, engine: Engine, state: TrainingState, world: World) -> None:
    """Write a complete checkpoint and drop old ones; every rank must call it, rank 0 writes.

    Raises:
        UserError: the device is full (on all ranks); checkpoints written before stay.
    """
    weights = _gather(whole_parameters(engine), world)
    moments = _gather(whole_moments(engine), world)

    def write() -> None:
        with store.staged(state.step) as folder:
            _save(weights, folder / "model.safetensors")
            _save(moments, folder / "optimizer.safetensors")
            model_config = copy.deepcopy(engine.model_config)
            model_config.architectures = [type(engine.model).__name__]
            with space_errors(folder / "config.json"):
                model_config.save_pretrained(folder)
            write_json_atomic(folder / "state.json", asdict(state), indent=2)
        store.settle()

    world.on_main(write)


def read_state(checkpoint: Path) -> TrainingState:
    """The state a checkpoint was written with.

    Raises:
        UserError: it was written in a form that this version does not know.
    """
    content = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if content.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{checkpoint / 'state.json'}: checkpoint format {content.get('format')} is not {FORMAT_VERSION}; continue "
            f"this run with the version of ldarnet that wrote it ({content.get('code_version')})"
        )
    return TrainingState(**{field.name: content[field.name] for field in fields(TrainingState)})


def verify(checkpoint: Path) -> None:
    """Check every file of a checkpoint against its manifest.

    Raises:
        UserError: a file is missing or is not the one that was written.
    """
    manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    for name, entry in manifest["files"].items():
        file = checkpoint / name
        remedy = f"restore it, or delete {checkpoint} to continue from the checkpoint before it"
        if not file.is_file():
            raise UserError(f"{file} is missing; {remedy}")
        if file.stat().st_size != entry["size"] or sha256_file(file) != entry["sha256"]:
            raise UserError(f"{file} is not the file that was written (SHA-256 differs from manifest.json); {remedy}")


def check_fits(checkpoint: Path, model: LDARNetForMaskedLM, fingerprint: str, *, accept_other: bool = False) -> None:
    """Check that a checkpoint is of this architecture and was trained on this data, or that other data is accepted.

    Raises:
        UserError: it is not; names what differs.
    """
    saved = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
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
    load_model(model, checkpoint / "model.safetensors", strict=True)


def load_moments(checkpoint: Path) -> dict[str, Tensor]:
    """The optimiser's moments as `<moment>.<parameter name>`."""
    return load_file(checkpoint / "optimizer.safetensors")


def _gather(tensors: Iterator[tuple[str, Tensor]], world: World) -> dict[str, Tensor]:
    """What all ranks iterate over, kept on rank 0's CPU."""
    kept = {}
    for name, tensor in tensors:
        if world.is_main:
            kept[name] = tensor.detach().cpu().contiguous()
    return kept


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    with space_errors(file):
        try:
            save_file(tensors, file, metadata={"format": "pt"})
        except SafetensorError as error:
            # The library reports the operating system's errors as text.
            if f"(os error {errno.ENOSPC})" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from None
            raise


def _seal(staged: Path, step: int) -> None:
    """Flush every file to disk, then write the manifest over them."""
    files = sorted(staged.iterdir())
    for file in files:
        sync_path(file)
    entries = {file.name: {"size": file.stat().st_size, "sha256": sha256_file(file)} for file in files}
    write_json_atomic(staged / "manifest.json", {"format": FORMAT_VERSION, "step": step, "files": entries}, indent=2)
    sync_path(staged)
