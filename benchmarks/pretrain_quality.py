"""Compare pretraining runs with context-mixing baselines, and write a results file.

    python -m benchmarks.pretrain_quality --name quickstart runs/quickstart-seed0 runs/quickstart-seed1 ...

The runs may differ only in their seed. The last checkpoint of each run is evaluated on the validation windows and masks
of its configuration. Its losses are compared position by position with those of the models in
`benchmarks.context_model`, fitted to the training bases.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from torch.nn import functional as F

from benchmarks.context_counts import Array
from benchmarks.context_model import ContextModel, Scores, fit, run_masking, score, training_bases, validation_set
from benchmarks.record import (
    ProgramParser,
    add_result_options,
    page,
    provenance,
    result_file,
    run_program,
    write_result,
)
from benchmarks.repeats import KMER_LENGTH, in_training
from benchmarks.run_settings import differing_keys
from ldarnet import LDARNetForMaskedLM
from ldarnet.alphabet import MASK
from ldarnet.config import RunConfig, load_config
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.markdown import table
from ldarnet.runtime.checkpoint import CheckpointStore, TrainingState, read_state
from ldarnet.runtime.metrics_file import read_metrics

MEASURES = ("mask_loss", "copy_loss", "mlm_loss", "accuracy")
RUN_KEYS = ("run.seed", "run.dir")
"""Configuration keys in which compared runs may differ."""
NAMED_BASELINES = ("composition", "left 8", "right 8", "joint 4", "mixed 4", "joint 8", "mixed 8")
CURVE_POINTS = 12
BATCH = 16
SMALL_SCALE_BASES = 10**10
"""Runs that have seen fewer bases are labeled "small scale" in the report."""


@dataclass(frozen=True)
class Run:
    """A pretraining run.

    Attributes:
        config: resolved configuration.
        valid: validation lines of metrics.jsonl, in order of step.
        checkpoint: last complete checkpoint.
        state: training state of the checkpoint.
    """

    folder: Path
    config: RunConfig
    valid: list[dict[str, Any]]
    checkpoint: Path
    state: TrainingState

    @classmethod
    def open(cls, folder: Path, overrides: list[str]) -> "Run":
        """Read a run folder and apply `overrides` to its configuration.

        Raises:
            UserError: the folder has no run, or the run has no checkpoint or no validation metrics.
        """
        config = load_config(folder / run_files.CONFIG, overrides)
        valid = [line for line in read_metrics(folder / run_files.METRICS) if line["split"] == "valid"]
        checkpoint = CheckpointStore(folder, config.checkpoint.keep).latest()
        if checkpoint is None or not valid:
            raise UserError(f"{folder}: nothing to evaluate (no checkpoint or no validation metrics); finish the run")
        return cls(folder, config, valid, checkpoint, read_state(checkpoint))

    @property
    def status(self) -> str:
        """``finished``, or the step at which the run stopped."""
        finished = self.state.step >= self.state.total_steps
        return "finished" if finished else f"stopped at step {self.state.step:,} of {self.state.total_steps:,}"

    def best(self) -> dict[str, Any]:
        """Validation line with the lowest `mlm_loss`."""
        return min(self.valid, key=lambda line: line["mlm_loss"])


def evaluate(run: Run, input_ids: Array, labels: Array) -> Scores:
    """Evaluate a run's last checkpoint in fp32 at the target positions (labels >= 0) of windows (w, L)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = LDARNetForMaskedLM.from_pretrained(run.checkpoint)
    model.to(device).eval()
    losses, predictions = [], []
    with torch.no_grad():
        for start in range(0, len(labels), BATCH):
            inputs = torch.from_numpy(input_ids[start : start + BATCH]).to(device)
            truth = torch.from_numpy(labels[start : start + BATCH]).to(device)
            logits = model(inputs).logits.float()
            losses.append(F.cross_entropy(logits.transpose(1, 2), truth, reduction="none").cpu().numpy())
            predictions.append(logits.argmax(-1).cpu().numpy())
    rows, columns = np.nonzero(labels >= 0)
    targets = labels[rows, columns]
    nats, predicted = np.concatenate(losses)[rows, columns], np.concatenate(predictions)[rows, columns]
    masked = input_ids[rows, columns] == MASK
    return Scores(rows, columns, targets, masked, {"model": nats.astype(np.float64)}, {"model": predicted == targets})


def paired(model: Array, baseline: Array, rows: Array) -> tuple[float, float]:
    """Mean difference (model - baseline) over positions, and its standard error, clustered by window.

    Args:
        model: (n,) losses of a model.
        baseline: (n,) losses of the baseline at the same positions.
        rows: (n,) window of each position.
    """
    difference = model - baseline
    mean = difference.mean()
    by_window = np.bincount(rows, weights=difference - mean)
    return float(mean), float(np.sqrt((by_window**2).sum()) / len(rows))


@dataclass(frozen=True)
class RunComparison:
    """Scores of runs and context models on the same positions.

    Attributes:
        runs: runs in command-line order.
        shards: shard set with the training and validation splits.
        context: fitted context models.
        baseline: scores of the context models.
        models: scores of each run's last checkpoint.
        repeated: (n,) whether each target position lies in a k-mer of the training bases; see `benchmarks.repeats`.
        training_bases: number of bases in the training split.
    """

    runs: list[Run]
    shards: ShardSet
    context: ContextModel
    baseline: Scores
    models: list[Scores]
    repeated: Array
    training_bases: int


def compare(runs: list[Run]) -> RunComparison:
    """Fit the context models and score all models on the same positions.

    Raises:
        UserError: the runs differ in more than the seed, or a run was not trained on the shard set that the first run's
            configuration names.
    """
    first = runs[0]
    for run in runs[1:]:
        if other := differing_keys(run.config, first.config, RUN_KEYS):
            raise UserError(f"{run.folder}: differs from {first.folder} in {other}; give runs that differ only in seed")
    shards = ShardSet.open(first.config.data.shards)
    input_ids, labels = validation_set(shards, first.config)
    for run in runs:
        if run.state.fingerprint != shards.fingerprint or run.valid[-1]["scored"] != (labels >= 0).sum():
            raise UserError(f"{run.folder}: not trained on {shards.folder}; give the run's shard set with --shards")
    train, masking = training_bases(shards), run_masking(first.config)
    context = fit(train, length=first.config.data.length, masking=masking)
    baseline = score(context, input_ids, labels, masking)
    windows = np.where(labels >= 0, labels, input_ids).astype(np.uint8)
    return RunComparison(
        runs=runs,
        shards=shards,
        context=context,
        baseline=baseline,
        models=[evaluate(run, input_ids, labels) for run in runs],
        repeated=in_training(windows, train)[baseline.rows, baseline.columns],
        training_bases=sum(map(len, train)),
    )


def report(found: RunComparison, options: argparse.Namespace) -> str:
    """Render the results file."""
    sections = {
        "Made with": provenance(options.command),
        "Method": _method(found),
        "Result": _verdict(found),
        "Seeds": _seeds(found),
        "Baselines": _baselines(found),
        "Repeats": _repeats(found),
        "Learning curve": _curve(found),
        "All context models": _every_context_model(found),
        "Scale and comparability": _scale(found),
        "Configuration": _configuration(found),
    }
    return page(f"Pretraining quality: {options.name}", sections, options.note)


def _method(found: RunComparison) -> str:
    config, baseline = found.runs[0].config, found.baseline
    trained, validated = (
        ", ".join(found.shards.index.name(number) for number in dict.fromkeys(rows[:, 0].tolist()))
        for rows in (found.shards.index.splits["train"], found.shards.index.splits[config.validation.split])
    )
    windows, masked = found.runs[0].valid[-1]["windows"], baseline.masked.sum()
    return (
        f"Trained on {trained} ({found.training_bases:,} bases), validated on {validated}: {windows:,} windows of "
        f"{config.data.length:,} bases with {len(baseline.rows):,} target positions, of which {masked:,} are masked; "
        f"shard set {found.shards.fingerprint[:12]}. Losses are in nats per base. The context models see the same "
        "corrupted windows, were fitted to the same training bases (both strands), and were selected on held-out "
        "segments of the training bases. At target positions whose input is a base, they apply Bayes' rule with the "
        "known corruption rates. `left k`, `right k`: k bases on one side; `joint k`: the k bases on both sides as one "
        "context; `mixed k`: weighted combination of all of these models up to order k."
    )


def _verdict(found: RunComparison) -> str:
    best, masked = found.context.best, found.baseline.masked
    novel = masked & ~found.repeated
    losses = {name: values["mask_loss"] for name, values in found.baseline.summary(novel).items()}
    best_novel = min(losses, key=lambda name: losses[name])
    lines = [
        _versus(found, "composition", masked, "(a) the unigram baseline"),
        _versus(found, best, masked, f"(b) the best context model up to order 8 (`{best}`)"),
    ]
    if novel.any():
        label = f"the best context model on sequence not in the training bases (`{best_novel}`, selected in hindsight)"
        lines.append(_versus(found, best_novel, novel, label))
    return "\n".join(lines)


def _versus(found: RunComparison, name: str, where: Array, label: str) -> str:
    """Markdown line on whether the runs beat context model `name` at the positions in mask `where`.

    A run wins if its loss is lower by more than two standard errors.
    """
    against, rows = found.baseline.nats[name][where], found.baseline.rows[where]
    pairs = [paired(scores.nats["model"][where], against, rows) for scores in found.models]
    wins = sum(mean < -2 * error for mean, error in pairs)
    if wins:
        verb = "beats" if wins == len(pairs) else f"beats in {wins} of {len(pairs)} seeds"
    else:
        level = all(abs(mean) <= 2 * error for mean, error in pairs)
        verb = "is within two standard errors of" if level else "does not beat"
    by_seed = ", ".join(f"{mean:+.4f} ± {error:.4f}" for mean, error in pairs)
    return (
        f"- At masked positions LDARNet **{verb}** {label}: model minus baseline {by_seed} (by seed; ± is one "
        "standard error over windows)."
    )


def _seeds(found: RunComparison) -> str:
    rows: list[Sequence[object]] = []
    for run, scores in zip(found.runs, found.models, strict=True):
        final, best, evaluated = run.valid[-1], run.best(), scores.summary()["model"]
        rows.append([
            run.config.run.seed, run.status, *(evaluated[key] for key in MEASURES), float(final["mask_loss"]),
            f"{best['mask_loss']:.4f} (step {best['step']:,})",
            " / ".join(f"{ratio:.2f}" for ratio in final["bases_per_chunk"]), f"{run.state.seconds / 60:.1f}",
        ])  # fmt: skip
    values = np.array([[scores.summary()["model"][key] for key in MEASURES] for scores in found.models])
    rows.append(["mean", "", *values.mean(axis=0).tolist(), "", "", "", ""])
    if len(found.runs) > 1:
        rows.append(["spread (sd)", "", *values.std(axis=0, ddof=1).tolist(), "", "", "", ""])
    header = [
        "seed", "run", "masked", "shown", "all", "accuracy, masked", "masked, as logged", "best masked in training",
        "bases per chunk", "minutes",
    ]  # fmt: skip
    return (
        table(header, rows) + "\n\n`masked`: loss at target positions whose input is [MASK]; `shown`: at target "
        "positions whose input is a base. Losses of the last checkpoint, evaluated in fp32 on the machine above; `as "
        "logged` is the last value that the run logged. The best loss in training was selected on the validation set "
        "and is listed for completeness only."
    )


def _baselines(found: RunComparison) -> str:
    named = list(dict.fromkeys([*NAMED_BASELINES, found.context.best]))
    summary = found.baseline.summary()
    entropy = found.baseline.entropy()
    rows: list[Sequence[object]] = [["entropy of the validation bases at masked positions", entropy, "", "", ""]]
    rows += [[_label(name, found), *(summary[name][key] for key in MEASURES)] for name in named]
    values = np.array([[scores.summary()["model"][key] for key in MEASURES] for scores in found.models])
    rows.append([f"**LDARNet, mean of {len(values)}**", *values.mean(axis=0).tolist()])
    return table(["", "masked", "shown", "all", "accuracy, masked"], rows)


def _label(name: str, found: RunComparison) -> str:
    if name == "composition":
        return "(a) unigram baseline"
    return f"**(b) {name}, best**" if name == found.context.best else name


def _repeats(found: RunComparison) -> str:
    masked = found.baseline.masked
    parts = ("not in training", ~found.repeated), ("in training", found.repeated)
    summaries = [found.baseline.summary(where) for _, where in parts]
    names = dict.fromkeys(["composition", "mixed 4", "mixed 8", found.context.best])
    rows: list[Sequence[object]] = [
        [_label(name, found), *(part[name]["mask_loss"] for part in summaries)] for name in names
    ]
    means = [np.mean([m.summary(where)["model"]["mask_loss"] for m in found.models]) for _, where in parts]
    rows.append(["**LDARNet, mean**", *map(float, means)])
    header = ["loss at masked positions", *(f"{name} ({(where & masked).sum():,})" for name, where in parts)]
    return (
        f"Long contexts recognize sequence that also occurs in the training bases. Positions are split by whether they "
        f"lie in a {KMER_LENGTH}-mer that occurs on either strand of the training bases.\n\n" + table(header, rows)
    )


def _curve(found: RunComparison) -> str:
    steps = [line["step"] for line in found.runs[0].valid]
    selected = sorted({steps[round(i)] for i in np.linspace(0, len(steps) - 1, min(CURVE_POINTS, len(steps)))})
    rows = []
    for step in selected:
        losses = [next((x["mask_loss"] for x in run.valid if x["step"] == step), float("nan")) for run in found.runs]
        rows.append([f"{step:,}", *map(float, losses)])
    return table(["step: masked loss as logged", *(f"seed {run.config.run.seed}" for run in found.runs)], rows)


def _every_context_model(found: RunComparison) -> str:
    novel = found.baseline.summary(~found.repeated)
    rows = [
        [
            _label(name, found),
            found.context.held_out[name],
            *(values[key] for key in MEASURES),
            novel[name]["mask_loss"],
        ]
        for name, values in found.baseline.summary().items()
    ]
    header = [
        "",
        "masked, held-out training",
        "masked",
        "shown",
        "all",
        "accuracy, masked",
        "masked, not in training",
    ]
    return table(header, rows)


def _scale(found: RunComparison) -> str:
    run = found.runs[0]
    seen = run.state.position * run.config.data.length
    parameters = sum(p.numel() for p in LDARNetForMaskedLM.from_pretrained(run.checkpoint).parameters())
    scale = "Small" if seen < SMALL_SCALE_BASES else "Large"
    return (
        f"{scale} scale: {parameters:,} parameters, {seen:,} bases seen ({seen / found.training_bases:.2f} times the "
        "training bases). The published model has 110 million parameters and was trained for 15 epochs on the genomes "
        "of human and many other species in windows of 4,096 bases; its losses are on different sequences. Losses on "
        "other chromosomes, windows, masks or masking rates are not comparable, and neither are losses over all target "
        "positions with losses over masked positions."
    )


def _configuration(found: RunComparison) -> str:
    tree = found.runs[0].config.model_dump(mode="json")
    tree["run"] |= {"seed": [run.config.run.seed for run in found.runs], "dir": [run.folder.name for run in found.runs]}
    tree["data"]["shards"] = Path(tree["data"]["shards"]).name
    return f"```yaml\n{yaml.safe_dump(tree, sort_keys=False).rstrip()}\n```"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the results file and print its path."""
    parser = ProgramParser("pretrain_quality", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders that differ only in seed")
    parser.add_argument("--shards", help="shard set of the runs (default: data.shards of their configuration)")
    add_result_options(parser, None, prefix="pretrain-quality-")
    options = parser.parse_args(arguments)
    file = result_file(f"pretrain-quality-{options.name}", options.out)
    transformers.utils.logging.disable_progress_bar()
    overrides = [f"data.shards={options.shards}"] if options.shards else []
    found = compare([Run.open(folder, overrides) for folder in options.runs])
    write_result(file, report(found, options))


if __name__ == "__main__":
    run_program(main)
