"""Measure how much pretraining helps on classification tasks, by comparing six arms on the same rows and folds.

    python -m benchmarks.finetuning --name histones --checkpoint runs/mine --data FOLDER --tasks nt/H3 nt/H4 \
        --folds 0 1 2 --out runs/histones [section.key=value ...]

Two arms use the pretrained checkpoint: one fine-tunes it, the other freezes it and trains a linear probe. Two more arms
do the same with a randomly initialized network. The last two are a small convolutional network and logistic regression
on 6-mer counts. Each arm has one run per task, in OUT/<arm>/<task>. To resume, run the same command again. When all
folds are finished, the program writes the comparison to OUT/comparison, and the results file and its figure to
benchmarks/results.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from transformers.utils.logging import disable_progress_bar

from benchmarks.record import RESULTS, ROOT, ProgramParser, page, provenance, result_file, run_program, write_result
from ldarnet.comparison.compare import find_results, write_comparison
from ldarnet.config import FinetuneConfig, flatten, load_config
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path
from ldarnet.model import load_backbone
from ldarnet.model.folder import model_folder
from ldarnet.runtime.checkpoint import read_state
from ldarnet.runtime.metrics_file import read_metrics
from ldarnet.tasks.registry import find_task

CONFIG = ROOT / "configs" / "finetune" / "nt.yaml"
PRETRAINED, RANDOM, CNN, KMERS = "pretrained", "new weights", "CNN", "6-mers"
FROZEN, FROZEN_RANDOM = f"{PRETRAINED}, frozen", f"{RANDOM}, frozen"
CNN_LR, CNN_EPOCHS = 1e-3, 30
"""Learning rate and epochs of the CNN: the published rates are for LDARNet, and a small network needs more epochs."""
SHAPE = ("arch_layout", "d_model", "d_intermediate", "ssm_cfg", "attn_cfg", "tie_word_embeddings", "target_ratio")
"""Model configuration fields that, together with the ratio loss weight, define the randomly initialized network."""
RUN_KEYS = ("run.dir", "task", "checkpoint", "data.folder")
"""Keys omitted from the configuration section of the results file; their values are in other sections."""


@dataclass(frozen=True)
class ArmRuns:
    """Runs of all arms on all tasks.

    Attributes:
        checkpoint: checkpoint of the pretrained arm.
        tasks: task names with their suite, such as ``nt/H3``.
        out: parent folder of the run folders.
        overrides: configuration overrides applied to every arm.
    """

    checkpoint: Path
    tasks: list[str]
    out: Path
    overrides: list[str]

    @cached_property
    def arms(self) -> dict[str, list[str]]:
        """Configuration overrides of each arm, by arm name."""
        config = load_backbone(self.checkpoint).config
        shape = [f"model.{field}={json.dumps(getattr(config, field))}" for field in (*SHAPE, "ratio_weight")]
        pretrained, probe = f"checkpoint={self.checkpoint}", "training.mode=probe"
        return {
            PRETRAINED: [pretrained],
            RANDOM: shape,
            FROZEN: [pretrained, probe],
            FROZEN_RANDOM: [*shape, probe],
            CNN: ["model.baseline=cnn", f"optimizer.lr={CNN_LR}", f"training.epochs={CNN_EPOCHS}"],
            KMERS: ["model.baseline=kmers"],
        }

    def run_dir(self, arm: str, task: str) -> Path:
        """Run folder of an arm on a task."""
        return self.out / arm.replace(",", "").replace(" ", "-") / task.replace("/", "-")

    def config(self, arm: str, task: str) -> FinetuneConfig:
        """Build the configuration of an arm's run on a task."""
        own = [f"task={task}", f"run.dir={self.run_dir(arm, task)}", "tracking.mlflow=false"]
        return load_config(CONFIG, [*own, *self.overrides, *self.arms[arm]], schema=FinetuneConfig)


def run_all(plan: ArmRuns) -> None:
    """Fine-tune every arm on every task, one after the other; finished runs are skipped.

    Raises:
        UserError: a run failed.
    """
    for task in plan.tasks:
        for arm in plan.arms:
            config = plan.config(arm, task)
            file = Path(config.run.dir).with_suffix(".yaml")
            file.parent.mkdir(parents=True, exist_ok=True)
            config.save(file)
            print(f"{arm} on {task}: {config.run.dir}", flush=True)
            done = subprocess.run([sys.executable, ROOT / "launch" / "finetune.py", "--config", file], check=False)
            if done.returncode:
                raise UserError(
                    f"{config.run.dir}: {arm} on {task} failed with exit status {done.returncode}; fix the error above "
                    "and run the same command again to resume"
                )


def report(plan: ArmRuns, file: Path, options: argparse.Namespace) -> str:
    """Compare the arms, write the figure next to the results file, and return the text of this file."""
    comparison = plan.out / "comparison"
    write_comparison(
        {arm: [path for task in plan.tasks for path in find_results(plan.run_dir(arm, task))] for arm in plan.arms},
        comparison,
    )
    figure = file.with_suffix(".png")
    with atomic_path(figure) as partial:
        shutil.copyfile(comparison / run_files.COMPARISON_FIGURE, partial)
    text = (
        (comparison / run_files.COMPARISON_REPORT)
        .read_text(encoding="utf-8")
        .replace(f"({run_files.COMPARISON_FIGURE})", f"({figure.name})")
    )
    found = "\n".join(f"#{line}" if line.startswith("#") else line for line in text.splitlines()[2:])
    sections = {
        "Made with": provenance(options.command),
        "Method": _method(plan),
        "Data": _data(plan),
        "Comparison": found.strip(),
        "Configuration": _configuration(plan),
    }
    return page(f"Fine-tuning: {options.name}", sections, options.note)


def _method(plan: ArmRuns) -> str:
    network = load_backbone(plan.checkpoint)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    seen = _bases_seen(plan.checkpoint)
    trained = f"pretrained on {seen:,} bases" if seen else "pretrained on an unknown number of bases"
    return (
        f"Does a pretrained network classify better than the same network with new weights, and better than baselines? "
        f"`{PRETRAINED}`: {parameters:,} parameters without head, {trained}. `{RANDOM}`: the same network without "
        f"pretraining. `{FROZEN}`, `{FROZEN_RANDOM}`: linear probes (logistic regression) on the mean output of "
        "these networks, without training them. `{CNN}`: three "
        f"convolutions, 225 thousand parameters, learning rate {CNN_LR:g}, at most {CNN_EPOCHS} epochs. `{KMERS}`: "
        "logistic regression on 6-mer counts, of one or both strands as selected on the validation rows. All arms use "
        "the same rows and folds, and select the best epoch in the same way. One seed per arm."
    )


def _bases_seen(checkpoint: Path) -> int | None:
    """Number of bases that the best checkpoint of a run was trained on; None if `checkpoint` is not a run folder."""
    state = model_folder(checkpoint) / run_files.STATE
    if not state.is_file():
        return None
    step = read_state(state.parent).step
    lines = read_metrics(checkpoint / run_files.METRICS)
    return max((line["bases"] for line in lines if line["split"] == "train" and line["step"] <= step), default=None)


def _data(plan: ArmRuns) -> str:
    """Markdown list of the tasks with the fingerprint of their rows and the notes from data preparation."""
    lines = []
    for task in plan.tasks:
        record = json.loads((plan.run_dir(PRETRAINED, task) / run_files.DATA).read_text(encoding="utf-8"))
        lines += [f"- {task}, fingerprint {record['fingerprint'][:12]}", *(f"  - {note}" for note in record["notes"])]
    return "\n".join(lines)


def _configuration(plan: ArmRuns) -> str:
    """Markdown of the pretrained arm's configuration on the first task, and of the keys that differ in other arms."""
    configs = {arm: flatten(plan.config(arm, plan.tasks[0])) for arm in plan.arms}
    first = configs[PRETRAINED]
    changed = {
        arm: {key: value for key, value in config.items() if value != first.get(key) and key not in RUN_KEYS}
        for arm, config in configs.items()
        if arm != PRETRAINED
    }
    shown = {key: value for key, value in first.items() if key not in RUN_KEYS}
    return (
        f"```yaml\n{yaml.safe_dump(shown, sort_keys=False).rstrip()}\n```\n\nDifferences of the other arms:\n\n"
        f"```yaml\n{yaml.safe_dump(changed, sort_keys=False).rstrip()}\n```"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all missing folds, write the results file and print its path."""
    parser = ProgramParser("finetuning", __doc__)
    parser.add_argument("--name", required=True, help="the results file is YYYY-MM-DD-finetuning-NAME.md")
    parser.add_argument("--checkpoint", required=True, type=Path, help="pretraining run or model folder")
    parser.add_argument("--data", type=Path, help="folder with the task files (if omitted, they are downloaded)")
    parser.add_argument("--tasks", required=True, nargs="+", help="task names in the registry, such as nt/H3")
    parser.add_argument("--folds", nargs="+", type=int, help="folds to run, counted from 0 (default: all)")
    parser.add_argument("--out", required=True, type=Path, help="parent folder of the runs; existing runs are resumed")
    parser.add_argument("--note", default="", help="text at the top of the results file")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args(arguments)
    disable_progress_bar()
    if wrong := [word for word in overrides if "=" not in word or word.startswith("-")]:
        raise UserError(f"{wrong[0]}: neither an option nor section.key=value; see --help")
    tasks = [find_task(task).key for task in options.tasks]
    derived = [f"data.folder={options.data}"] if options.data else []
    derived += [f"folds.only={options.folds}"] if options.folds else []
    plan = ArmRuns(options.checkpoint, tasks, options.out, [*derived, *overrides])
    file = result_file(f"finetuning-{options.name}", options.results)
    run_all(plan)
    write_result(file, report(plan, file, options))


if __name__ == "__main__":
    run_program(main)
