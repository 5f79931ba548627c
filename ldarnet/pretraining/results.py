"""Results of a finished pretraining run: exported model, figures, summary."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import transformers

from ldarnet.alphabet import N
from ldarnet.config import RunConfig
from ldarnet.console import format_duration, format_speed, make_console
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path
from ldarnet.model import LDARNetLanguageModel, load_model, write_model
from ldarnet.pretraining import TrainResult
from ldarnet.pretraining.boundary_sample import middle_window
from ldarnet.pretraining.chunk_boundaries import boundary_source
from ldarnet.pretraining.progress import ACCURACIES
from ldarnet.pretraining.setup import open_shards
from ldarnet.runtime.tracking import Tracker, server, tracking_uri

FIGURE_BASES = 1024


def write_results(config: RunConfig, result: TrainResult) -> None:
    """Export the best model, draw figures, and write and print a summary.

    If the run was already finished before this launch, only print the existing summary.

    Raises:
        UserError: the disk is full.
    """
    console = make_console()
    summary = result.run_dir / run_files.SUMMARY_TEXT
    if result.resumed_from == result.steps and summary.is_file():
        console.print(
            f"{result.run_dir}: the run is already finished ({result.steps:,} steps); set another run.dir to start a "
            "new run. Summary:\n"
        )
        console.print(summary.read_text(encoding="utf-8"), markup=False)
        return
    assert result.best_checkpoint is not None
    transformers.utils.logging.disable_progress_bar()
    export = result.run_dir / run_files.EXPORT
    model = export_model(result.best_checkpoint, export)
    figures = draw_figures(config, result, model)
    with atomic_path(summary) as temporary:
        temporary.write_text(describe(config, result, export, figures), encoding="utf-8")
    tracker = Tracker(config, console.print)
    for path in (result.run_dir / run_files.CONFIG, *figures, summary):
        tracker.log_artifact(path)
    tracker.close("FINISHED")
    console.print("\n" + summary.read_text(encoding="utf-8"), markup=False)


def export_model(checkpoint: Path, folder: Path) -> LDARNetLanguageModel:
    """Write model and tokenizer as a Hugging Face folder, replacing an earlier export; return the model."""
    model = load_model(checkpoint, LDARNetLanguageModel)
    shutil.rmtree(folder, ignore_errors=True)
    write_model(model, folder)
    return model


def draw_figures(config: RunConfig, result: TrainResult, model: LDARNetLanguageModel) -> list[Path]:
    """Draw the training curves, and the boundaries along a held-out window if the model has chunks."""
    from ldarnet.interpret.boundaries import boundary_figure
    from ldarnet.interpret.figures import training_figure

    folder = result.run_dir / run_files.FIGURES
    folder.mkdir(exist_ok=True)
    drawn, boundaries = [], folder / run_files.BOUNDARY_FIGURE
    if (result.run_dir / run_files.METRICS).is_file():  # missing if the run was restored from checkpoint.remote
        drawn.append(folder / run_files.TRAINING_FIGURE)
        training_figure(
            result.run_dir / run_files.METRICS,
            drawn[0],
            entropy=result.validation.get("composition_loss"),
            target_ratio=model.config.target_ratio,
        )
    if model.config.num_stages == 1:
        return drawn
    shards = open_shards(config.data)
    shape: Any = model.config
    window, given, contig, start = middle_window(shards, config, boundary_source(config, shape, shards))
    margin = max(window.shape[1] - FIGURE_BASES, 0) // 2
    shown = slice(margin, margin + FIGURE_BASES)
    ids = window[0, shown].numpy()
    if (ids == N).all():  # the window is quarantined
        return drawn
    marks = None if given is None else given[0, shown].numpy()
    boundary_figure(model, ids, shards.index.name(contig), start + margin, boundaries, given=marks)
    return [*drawn, boundaries]


def describe(config: RunConfig, result: TrainResult, export: Path, figures: list[Path]) -> str:
    """Format the summary of a run: metrics, paths, and commands for next steps."""
    bases = result.steps * config.training.batch * config.data.length
    pace = format_speed(bases / max(result.seconds, 1e-9))
    lines = [f"{result.steps:,} steps, {bases:,} bases in {format_duration(result.seconds)} ({pace})"]
    valid = result.validation
    if valid:
        chunks = ", ".join(f"{value:.2f}" for value in valid["bases_per_chunk"])
        where = "of next bases" if config.model.causal else "on masked positions"
        lines += [
            f"validation of the best checkpoint (step {valid['step']:,}) on split {config.validation.split!r}: "
            f"{_losses(valid)}",
            f"loss of the unigram baseline {where} {valid['composition_loss']:.4f}",
            *(f"{name} {where} {valid[key]:.1%}" for key, name in ACCURACIES.items() if valid.get(key) is not None),
            *([f"bases per chunk {chunks}{'' if config.model.causal else ' (on masked input)'}"] if chunks else []),
            *(
                f"with masks of {name.removeprefix('span')} bases: loss on masked positions {masked['mask_loss']:.4f}"
                for name, masked in valid.get("masks", {}).items()
            ),
        ]
    lines += [
        "",
        f"best checkpoint   {result.best_checkpoint}",
        f"exported model    {export}",
        *(f"figure            {figure}" for figure in figures),
        f"metrics           {result.run_dir / run_files.METRICS}",
        f"configuration     {result.run_dir / run_files.CONFIG}",
    ]
    if config.tracking.mlflow:
        browse = f"mlflow ui --backend-store-uri {shlex.quote(tracking_uri(result.run_dir))}"
        lines.append(f"MLflow            {'at MLFLOW_TRACKING_URI' if server() else browse}")
    return "\n".join([*lines, "", "Next:", *_next_commands(config, result.run_dir, export)]) + "\n"


def _losses(valid: dict[str, Any]) -> str:
    """Format the losses of a validation line."""
    if (loss := valid.get("next_base_loss")) is not None:
        return f"next-base loss {loss:.4f} nats per base ({valid['bits_per_base']:.4f} bits)"
    bits = valid.get("bits_per_masked_base")
    return (
        f"MLM loss {valid['mlm_loss']:.4f} nats per base; loss on masked positions {valid['mask_loss']:.4f}"
        f"{f' ({bits:.4f} bits)' if bits is not None else ''}"
    )


def _next_commands(config: RunConfig, run_dir: Path, export: Path) -> list[str]:
    quoted = shlex.quote(str(run_dir))
    path = json.dumps(str(export), ensure_ascii=False)
    kind = "LDARNetForCausalLM" if config.model.causal else "LDARNetForMaskedLM"
    load = f"import ldarnet; print(ldarnet.{kind}.from_pretrained({path}))"
    return [
        f"  report      ldarnet report {quoted}",
        f"  load        python -c {shlex.quote(load)}",
        "  shard       ldarnet shard --out runs/my-shards my.fa.gz --split valid=CONTIG",
        f"  pretrain    ldarnet pretrain --config {quoted}/{run_files.CONFIG} run.dir=runs/mine "
        f"data.shards=runs/my-shards{' checkpoint.remote=null' if config.checkpoint.remote else ''}",
        "  fine-tune   ldarnet finetune --config classify data.train=my.csv "
        f"checkpoint={quoted} run.dir=runs/my-classifier",
    ]
