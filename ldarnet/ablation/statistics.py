"""Statistics of the boundaries of an arm, written to statistics.json once its seeds are pretrained.

    python -m ldarnet.ablation.statistics FOLDER ARM

All arms are measured on the same windows, spread over the validation split, and under the same edits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ldarnet.ablation.records import LENGTH_BINS, is_finished, pretraining_folder, read_ablation
from ldarnet.alphabet import MASK, reverse_complement
from ldarnet.config import RunConfig, load_config
from ldarnet.data import Masking, NextBase, ShardSet, validation_batches
from ldarnet.errors import UserError
from ldarnet.interpret.agreement import agreement, mask_leak, strand_symmetry
from ldarnet.interpret.boundaries import Track, boundary_tracks, chunk_lengths
from ldarnet.interpret.stability import KINDS, stability
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.model import LDARNetModel, load_backbone
from ldarnet.model.chunking.file import TrackBoundaries
from ldarnet.pretraining.masks import validation_maskings
from ldarnet.pretraining.setup import open_shards
from ldarnet.printable import printable
from ldarnet.program import run

VERSION = 1
WINDOWS, EDITED_WINDOWS = 128, 32
BATCH = 32


def write_statistics(folder: Path, arm: str) -> Path:
    """Measure the boundaries of the pretrained seeds of an arm, and write statistics.json.

    Args:
        folder: folder of the ablation.
        arm: name of the arm.

    Returns:
        Path of the file.

    Raises:
        UserError: no such arm, no seed of it is pretrained, or a model or the shards cannot be read.
    """
    record = read_ablation(folder)
    if arm not in record["arms"]:
        raise UserError(f"{folder}: no arm {printable(arm)}; use one of {', '.join(map(printable, record['arms']))}")
    runs = {seed: pretraining_folder(folder, arm, seed) for seed in record["arms"][arm]["seeds"]}
    runs = {seed: path for seed, path in runs.items() if is_finished(path)}
    if not runs:
        raise UserError(f"{folder}: no seed of arm {printable(arm)} is pretrained; resume the ablation")
    windows = _Windows(load_config(next(iter(runs.values())) / run_files.CONFIG))
    seeds: dict[str, list[dict[str, Any]]] = {}
    masks: dict[str, list[np.ndarray]] = {}
    for seed, path in runs.items():
        model = load_backbone(path / run_files.EXPORT)
        torch.nn.Module.to(model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        seeds[seed], masks[seed] = _measure(model, windows)
    content = {
        "version": VERSION,
        "windows": len(windows.ids_WL),
        "length": windows.config.data.length,
        "seeds": seeds,
        "pairs": [{"seeds": pair, "stages": _agreements(masks, *pair)} for pair in combinations(masks, 2)],
    }
    out = folder / run_files.ARMS / arm / run_files.STATISTICS
    write_json_atomic(out, _plain(content), indent=2)
    return out


def _agreements(masks: dict[str, list[np.ndarray]], one: str, two: str) -> list[dict[str, Any]]:
    return [asdict(agreement(*stage)) for stage in zip(masks[one], masks[two], strict=True)]


class _Windows:
    """Windows of the validation split, clean and masked; W windows of L bases.

    Attributes:
        config: configuration of the run.
        ids_WL: token ids.
        masked: name of each validation mask -> masked token ids, (W, L); empty for causal models.
    """

    def __init__(self, config: RunConfig) -> None:
        shards = open_shards(config.data)
        self.config = config
        self.ids_WL = self._read(shards, Masking(rate=0))
        self.masked = {
            name: self._read(shards, masking)
            for name, masking in validation_maskings(config).items()
            if not isinstance(masking, NextBase)
        }

    def _read(self, shards: ShardSet, masking: Masking) -> np.ndarray:
        data = self.config.data
        batches = validation_batches(
            shards,
            self.config.validation.split,
            length=data.length,
            max_windows=WINDOWS,
            batch=BATCH,
            rank=0,
            world=1,
            masking=masking,
            max_n_run=data.max_n_run,
        )
        return np.concatenate([batch.input_ids.numpy() for batch in batches])


def _measure(model: LDARNetModel, windows: _Windows) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Statistics and boundary masks, (W, L), of each router.

    Both are empty for models of tokens, models without chunks, and boundaries from a track, which no model predicts.
    """
    config = model.config
    if config.tokenizer is not None or config.num_stages == 1 or issubclass(config.chunking_method, TrackBoundaries):
        return [], []
    ids_WL = windows.ids_WL
    forward = boundary_tracks(model, ids_WL, batch=BATCH)
    reverse = boundary_tracks(model, reverse_complement(ids_WL), batch=BATCH)
    leaks = {name: _leaks(model, masked_WL) for name, masked_WL in windows.masked.items()}
    edits = _stabilities(model, ids_WL[_spread(len(ids_WL), EDITED_WINDOWS)])
    stages = [
        {
            **_lengths(track),
            "strands": _strands(track, other),
            "leak": {name: by_stage[stage] for name, by_stage in leaks.items()},
            "stability": {kind: by_stage[stage] for kind, by_stage in edits.items()},
        }
        for stage, (track, other) in enumerate(zip(forward, reverse, strict=True))
    ]
    return stages, [mask for _, mask in forward]


def _spread(total: int, chosen: int) -> np.ndarray:
    """Indices of evenly spaced rows."""
    count = min(total, chosen)
    return np.arange(count) * total // count


def _lengths(track: Track) -> dict[str, Any]:
    lengths = np.concatenate([chunk_lengths(mask) for mask in track[1]])
    counts = np.bincount(np.minimum(lengths, LENGTH_BINS), minlength=LENGTH_BINS + 1)[1:]
    return {"bases_per_chunk": float(lengths.mean()), "chunk_lengths": counts.tolist()}


def _strands(forward: Track, reverse: Track) -> dict[str, Any]:
    found = strand_symmetry(forward, reverse)
    return asdict(found.agreement) | {"correlation": found.correlation}


def _leaks(model: LDARNetModel, masked_WL: np.ndarray) -> list[dict[str, Any]]:
    tracks = boundary_tracks(model, masked_WL, batch=BATCH)
    return [asdict(mask_leak(mask, masked_WL == MASK)) for _, mask in tracks]


def _stabilities(model: LDARNetModel, ids_WL: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Stability under each kind of edit, by stage; empty if boundaries depend on the other sequences of a batch."""
    if model.config.chunking["method"] == "swapped":
        return {}
    found = {kind: stability(model, ids_WL, kind, batch=BATCH) for kind in KINDS}
    return {kind: [asdict(stage) for stage in stages] for kind, stages in found.items() if stages}


def _plain(value: Any) -> Any:
    """Convert arrays to lists, and NaN to null."""
    match value:
        case Mapping():
            return {str(key): _plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_plain(entry) for entry in value]
        case np.ndarray():
            return _plain(value.tolist())
        case float() if not math.isfinite(value):
            return None
    return value


def statistics(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the ablation.")],
    arm: Annotated[str, typer.Argument(metavar="ARM", help="Name of the arm.")],
) -> None:
    """Measure the boundaries of the pretrained seeds of an arm."""
    print(write_statistics(folder, arm))


if __name__ == "__main__":
    raise SystemExit(run(statistics, name="python -m ldarnet.ablation.statistics"))
