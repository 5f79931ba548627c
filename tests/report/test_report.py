"""Report of a run, finished or running: a complete, self-contained page."""

import base64
import json
import re

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from typer.testing import CliRunner

from ldarnet.cli import app
from ldarnet.errors import UserError
from ldarnet.interpret.figures import log_scale, styled_figure
from ldarnet.report.learning_panels import draw_regions
from ldarnet.report.page import write_report
from ldarnet.report.run_record import MAX_LINES, RunRecord

PERCENT = [100, 3, 70, 20, 0, 95, 10, 40]


def train_line(step, stages=1, **changes):
    line = {
        "step": step,
        "split": "train",
        "epoch": step / 100,
        "loss": 1.5,
        "mlm_loss": 1.3 + 1 / step,
        "ratio_loss": 1.0,
        "bases_per_chunk": [4.0, 16.0][:stages],
        "target_ratio": 4.0,
        "gradient_norm": 0.5,
        "gradient_norms": {"embeddings": 0.3, "stage0/router": 0.4},
        "lr": {"stage0/decay": 1e-3, "stage0/no_decay": 1e-3, "stage1/decay": 5e-4},
        "bases_per_second": 1e6,
        "bases": 4096 * step,
        "seconds": 3.0 * step,
        "phase_share": {"data": 0.1, "agree": 0.1, "forward": 0.3, "backward": 0.4, "update": 0.1},
        "data_wait": 0.25,
        "memory": {"host": 2.0**30, "device": 2.0**31},
        "checkpoint_stall_seconds": 0.5 if step % 10 == 0 else 0.0,
        "mfu": 0.4,
        "warnings": {},
    }
    if stages:
        shares = np.full((stages, 20), 0.05).tolist()
        line |= {"boundary_histogram": shares, "boundary_rate": {"A": 0.2, "MASK": 0.5}, "boundary_tokens": {"A": 1.0}}
        line |= {"periodicity": [0.1] * stages, "period": [4] * stages, "chunk_imbalance": [1.1] * stages}
    return line | changes


def valid_line(step, stages=1):
    regions = {
        name: {"mlm_loss": 1.2, "bases_per_chunk": [4.0, 16.0][:stages], "scored": 900} for name in ("gene", "other")
    }
    losses = {"mlm_loss": 1.31, "mask_loss": 1.34, "composition_loss": 1.36, "accuracy": 0.345}
    return {"step": step, "split": "valid", **losses, "bases_per_chunk": [4.1, 16.2][:stages], "regions": regions}


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path):
    """Create a run folder with the given numbers of steps and stages."""

    def make(steps=40, stages=1, train=train_line):
        folder = tmp_path / "my-run"
        folder.mkdir()
        valid = [valid_line(step, stages) for step in range(10, steps + 1, 10)]
        write(folder / "metrics.jsonl", [train(step, stages) for step in range(1, steps + 1)] + valid)
        sample = {"contig": "chrI", "start": 500, "bases": "ACGTNACG", "probability": PERCENT}
        sample["boundaries"] = [[0, 2, 5], [0, 5]][:stages]
        write(folder / "boundaries.jsonl", [{"step": line["step"], **sample} for line in valid] if stages else [])
        start = {"step": 0, "time": "2026-01-02T03:04:05+00:00", "ranks": 2, "device": "NVIDIA <H100>", "zero_stage": 1}
        start |= {"ldarnet": "0.2.0", "commit": "abc123", "python": "3.11", "torch": "2.11", "deepspeed": "0.19"}
        write(folder / "starts.jsonl", [start | {"kernels": {"ssd": "torch", "norm": "torch", "attention": "sdpa"}}])
        config = {
            "model": {"preset": "tiny", "d_model": None},
            "data": {"shards": "my-shards"},
            "training": {"steps": 40, "offload": True, "activation_checkpointing": [0, 1]},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make


def headings(page):
    return re.findall(r"<h3>(.*?)</h3>", page.read_text())


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_page_is_complete_and_self_contained(run, tmp_path, stages):
    page = tmp_path / "page.html"
    write_report(run(stages=stages), page)
    text = page.read_text()
    assert "<script" not in text
    assert not re.search(r"(src|href)=.(?!data:)", text)
    always = {
        *("Loss", "Learning rate", "Gradient norm", "By region"),
        *("Throughput", "Step time", "Memory", "Checkpoint stalls"),
    }
    routers = {"Compression", "Boundaries over training", "Chunks at the last validation", "Certainty"}
    routers |= {"Boundary rate by base", "Periodicity", "Balance over ranks"}
    assert set(headings(page)) == always | {"No warnings"} | (routers if stages else set())
    reason = "No data for Compression: the model has no router."
    assert (reason in text) == (stages == 0)
    for piece in (
        "my-run",
        "model.preset",
        "my-shards",
        "0.2.0, abc123",
        "NVIDIA &lt;H100&gt;",
        "attention",
        "gene",
        ">true<",
        ">null<",
        ">[0, 1]<",
    ):
        assert piece in text
    figures = re.findall(r'base64,([^"]+)"', text)
    assert len(figures) == len(headings(page)) - 1
    assert all(b"<svg" in base64.b64decode(figure) for figure in figures)


def test_warnings_are_listed_with_their_steps(run, tmp_path):
    def train(step, stages):
        drifting = {"drift/stage0": "compression has drifted from its target"} if 5 <= step <= 9 or step >= 35 else {}
        return train_line(step, stages, warnings=drifting)

    folder = run(train=train)
    assert [(it.name, it.first, it.last) for it in RunRecord.read(folder).warnings] == [
        ("drift/stage0", 5, 9),
        ("drift/stage0", 35, 40),
    ]
    page = tmp_path / "page.html"
    write_report(folder, page)
    text = " ".join(page.read_text().split())
    assert "1 active warning, 1 past" in text
    assert "since step 35" in text
    assert "steps 5 to 9" in text


def test_skipped_steps_and_non_finite_numbers_are_drawn(run, tmp_path):
    def train(step, stages):
        broken = {"gradient_norm": float("nan"), "mlm_loss": float("inf"), "gradient_norms": {}} if step == 20 else {}
        return train_line(step, stages, skipped=int(step >= 20), **broken)

    page = tmp_path / "page.html"
    write_report(run(train=train), page)
    assert "skipped steps" in page.read_text()


def test_page_of_a_single_step_with_an_incomplete_line(run, tmp_path):
    folder = run(steps=1)
    for name in ("boundaries.jsonl", "starts.jsonl", "config.yaml"):
        (folder / name).unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "spl')
    write_report(folder, tmp_path / "page.html", refresh=60)
    assert '<meta http-equiv="refresh" content="60">' in (tmp_path / "page.html").read_text()


def test_subsampled_runs_keep_the_last_step_and_all_warnings(run):
    def train(step, stages):
        return train_line(step, stages, warnings={"grid/stage0": "a grid"} if step == 1002 else {})

    record = RunRecord.read(run(steps=MAX_LINES * 2 + 7, train=train))
    assert len(record.train) <= MAX_LINES + 1
    assert record.last["step"] == MAX_LINES * 2 + 7
    assert [it.name for it in record.warnings] == ["grid/stage0"]


def test_subsampling_keeps_stalls_and_memory_peaks(run):
    steps = MAX_LINES * 2 + 7

    def train(step, stages):
        stall = 0.25 if step in (902, 903, steps - 1) else 0.0
        memory = {"host": 5.0, "device": 9.0 if step == 1001 else 4.0}
        return train_line(step, stages, checkpoint_stall_seconds=stall, memory=memory)

    record = RunRecord.read(run(steps=steps, train=train))
    (stalls,), memory = record.series("checkpoint_stall_seconds").values(), record.series("memory")
    assert len(stalls) < steps / 2
    assert stalls.sum() == 0.75
    assert [it for it, stall in zip(record.steps, stalls, strict=True) if stall] == [904, steps]
    assert [it for it, peak in zip(record.steps, memory["device"], strict=True) if peak == 9] == [1003]
    assert set(memory["host"]) == {5.0}


@pytest.mark.parametrize("name", ["_LTR", "__", "gene", "$x$y", "a^b", "100%"])
def test_legend_lists_regions_of_any_name(run, name):
    folder = run()
    metrics = folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"gene"', f'"{name}"'))
    figure = Figure()
    assert draw_regions(figure, RunRecord.read(folder)) is None
    assert [text.get_text().strip() for text in figure.axes[0].get_legend().get_texts()] == [name, "other"]


def test_output_that_is_a_folder_is_rejected_before_drawing(run, tmp_path, monkeypatch):
    monkeypatch.setattr("ldarnet.report.page.draw_panels", lambda *_: pytest.fail("drawn before the check"))
    with pytest.raises(UserError, match=r"a folder, not a file; choose a file"):
        write_report(run(), tmp_path)


def test_command_writes_into_the_run_folder(run):
    folder = run()
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.output == f"wrote HTML report of {folder} up to step 40 (active warnings: 0): {folder}/report.html\n"
    assert (folder / "report.html").is_file()


def test_empty_panels_say_why(run, tmp_path):
    def train(step, stages):
        line = train_line(step, stages, checkpoint_stall_seconds=0.0, gradient_norm=float("nan"), gradient_norms={})
        del line["memory"], line["lr"]
        return line

    folder = run(train=train)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    write(folder / "metrics.jsonl", [{key: line[key] for key in line if key != "regions"} for line in lines])
    launch = json.loads((folder / "starts.jsonl").read_text())
    write(folder / "starts.jsonl", [launch | {"ranks": 1}])
    write_report(folder, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    for title, reason in {
        "Learning rate": "metrics.jsonl has no lr",
        "By region": "validation.regions is not set",
        "Gradient norm": "all values are missing or not finite",
        "Balance over ranks": "the run has a single rank",
        "Memory": "metrics.jsonl has no memory",
        "Checkpoint stalls": "training never waited for a checkpoint",
    }.items():
        assert f"No data for {title}: {reason}." in text
        assert f"<h3>{title}</h3>" not in text


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1e-4, 1e-1, 10.0], {"0.0001", "0.01", "1"}),
        ([0.2, 0.6], {"0.2", "0.5"}),
        ([2e-8, 3e5], {"100"}),
    ],
)
def test_log_axes_show_plain_numbers(values, labels):
    with styled_figure(6, 3) as figure:
        axes = figure.subplots()
        axes.plot(values)
        log_scale(axes)
        figure.draw_without_rendering()
        shown = {text.get_text() for text in axes.get_yticklabels(which="both")}
    assert labels <= shown
    assert not any(set("$^{}\\") & set(text) for text in shown)


@pytest.mark.parametrize("below", ["", "fold0"])
def test_fine_tuning_runs_are_named(tmp_path, below):
    run = tmp_path / "tuned"
    (run / "fold0").mkdir(parents=True)
    (run / "fold0" / "metrics.jsonl").write_text('{"epoch": 1, "split": "valid", "mcc": 0.5}\n')
    for folder in (run / below, tmp_path / "sweep"):
        folder.mkdir(exist_ok=True)
    (tmp_path / "sweep" / "sweep.yaml").touch()
    with pytest.raises(UserError, match=r"of a fold or of a fine-tuning run; pass the run folder to ldarnet report"):
        write_report(run / below, tmp_path / "page.html")
    with pytest.raises(UserError, match=r"a sweep; read summary.txt and comparison/results.md"):
        write_report(tmp_path / "sweep", tmp_path / "page.html")


def test_progress_counts_the_bytes_of_the_metrics_file(run):
    folder, read = run(), []
    RunRecord.read(folder, advance=read.append)
    assert sum(read) == (folder / "metrics.jsonl").stat().st_size


def test_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"not a run folder: no metrics\.jsonl"):
        write_report(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_invalid_line_is_an_error(run, tmp_path):
    folder = run()
    metrics = folder / "metrics.jsonl"
    metrics.write_text('{"step": 1, "spl\n' + metrics.read_text())
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 1: damaged \(not valid JSON.*delete this line"):
        write_report(folder, tmp_path / "page.html")
    metrics.write_text("")
    with pytest.raises(UserError, match="no training step"):
        write_report(folder, tmp_path / "page.html")
