"""Synthetic ablation folders: finished runs of several arms and seeds, without models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ldarnet import LDARNetConfig
from tests.support.made_results import make_run

GRID = {"chunking": {"method": "grid"}}
TOKENS: dict[str, Any] = {"tokenizer": {"method": "kmers", "k": 6}, "arch_layout": ["M2"], "d_model": [64]}
TOKENS |= {"d_intermediate": [64], "attn_cfg": {}}
CONFIGS: dict[str, dict[str, Any]] = {
    "learned": {},
    "grid": GRID,
    "random": {"chunking": {"method": "random"}},
    "6-mers": TOKENS,
}
STEPS = 20


def make_ablation(
    folder: Path,
    losses: Mapping[str, Sequence[float]],
    *,
    scores: Mapping[str, Sequence[float]] | None = None,
    tasks: Sequence[str] = ("H3",),
    ratios: Mapping[str, float] | None = None,
) -> Path:
    """Write an ablation whose runs are finished.

    Args:
        folder: folder of the ablation.
        losses: arm of `CONFIGS` -> final loss of each seed on masks of single bases, in nats; 0.1 more on spans.
        scores: arm -> MCC of each seed in the middle fold of three; other folds differ by 0.01.
        tasks: names of tasks of the Nucleotide Transformer suite; their scores differ by 0.01.
        ratios: arm -> logged bases per chunk; 4 by default.
    """
    record: dict[str, Any] = {"version": 1, "reference": "learned", "tasks": [f"nt/{task}" for task in tasks if scores]}
    record |= {"modes": ["probe", "finetune"] if scores else [], "arms": {}}
    for arm, values in losses.items():
        config = LDARNetConfig.preset("tiny", **CONFIGS[arm])
        record["arms"][arm] = {
            "title": arm,
            "config": config.to_dict(),
            "bases_per_token": 6.0 if "tokenizer" in CONFIGS[arm] else 1.0,
            "parameters": 123456,
            "lr": 0.002,
            "seeds": {str(seed): {"state": "finished", "reason": None} for seed in range(len(values))},
        }
        for seed, loss in enumerate(values):
            path = folder / "arms" / arm / f"seed{seed}"
            ratio = (ratios or {}).get(arm, 4.0)
            make_pretraining(path / "pretrain", loss, [] if "tokenizer" in CONFIGS[arm] else [ratio])
            for mode in record["modes"]:
                for number, task in enumerate(tasks):
                    middle = (scores or {})[arm][seed] + 0.01 * number
                    run = path / "nt" / task / mode
                    make_run(run, f"nt/{task}", [middle - 0.01, middle, middle + 0.01], mode="full", folds=3)
                    (run / "summary.json").write_text("{}")
        (folder / "arms" / arm / "statistics.json").write_text(json.dumps(made_statistics(arm, len(values))))
    (folder / "ablation.json").write_text(json.dumps(record))
    return folder


def make_pretraining(folder: Path, loss: float, ratio: list[float]) -> None:
    """Write the files of a finished pretraining run of 20 steps of 4,096 bases, validated after 10 and 20 steps."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for step in range(1, STEPS + 1):
        line = {"step": step, "split": "train", "length": 1024, "bases": 4096 * step, "mlm_loss": loss + 1 / step}
        line |= {"bases_per_second": 1000.0 * step, "memory": {"host": 2.0**30}, "bases_per_chunk": ratio}
        lines.append(line)
        if step % 10 == 0:
            now = loss + (STEPS - step) / 100
            masks = {"span1": {"mask_loss": now}, "span6": {"mask_loss": now + 0.1}}
            lines.append({"step": step, "split": "valid", "mlm_loss": now, "bases_per_chunk": ratio, "masks": masks})
    write_lines(folder / "metrics.jsonl", lines)
    (folder / "summary.txt").write_text("finished")
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": {"dir": "x"}, "data": {"shards": "x"}}))


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON Lines file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def change_record(folder: Path, change: Mapping[str, Any]) -> None:
    """Replace keys of ablation.json; `arms` is merged by arm."""
    path = folder / "ablation.json"
    record = json.loads(path.read_text())
    arms = {name: record["arms"].get(name, {}) | values for name, values in change.get("arms", {}).items()}
    path.write_text(json.dumps(record | change | {"arms": record["arms"] | arms}))


def made_statistics(arm: str, seeds: int) -> dict[str, Any]:
    """Content of statistics.json of an arm with one router; without stages for tokens."""
    if "tokenizer" in CONFIGS[arm]:
        return {"windows": 8, "length": 512, "seeds": {str(seed): [] for seed in range(seeds)}, "pairs": []}
    agreement = {"jaccard": 0.5, "interval": [0.4, 0.6], "random": 0.15, "permuted": 0.16, "corrected": 0.41}
    agreement |= {"corrected_interval": [0.3, 0.5]}
    counts = np.bincount(np.minimum(np.random.default_rng(0).geometric(0.25, 4000), 64), minlength=65)[1:]
    edits = {"edits": 32, "boundaries": 128.0, "changed": {"1": 1.0, "8": 0.25}, "affected": {"1": 0.5, "8": 0.125}}
    stage = {
        "bases_per_chunk": 4.0,
        "chunk_lengths": counts.tolist(),
        "strands": agreement | {"correlation": 0.7},
        "leak": {"span1": {"within": {"1": [0.45, 0.32]}, "rates": [0.3, None], "rate": 0.25}},
        "stability": {kind: edits | {"rates": [0.5]} for kind in ("substitution", "insertion", "deletion")},
    }
    pairs = [[str(one), str(two)] for two in range(seeds) for one in range(two)]
    return {
        "version": 1,
        "windows": 8,
        "length": 512,
        "seeds": {str(seed): [stage] for seed in range(seeds)},
        "pairs": [{"seeds": pair, "stages": [agreement]} for pair in pairs],
    }
