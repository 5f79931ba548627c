"""The program that checks a GPU: limits, failures, kill and resume, and the page; on a CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import __main__ as program
from benchmarks.gpu_check import account, plan
from benchmarks.gpu_check import speed as speed_checks
from benchmarks.gpu_check.page import render
from benchmarks.gpu_check.plan import DRY_RUN, H200
from benchmarks.gpu_check.results import FAILURE, NOT_RUN, Check, Entry, Record
from benchmarks.gpu_check.session import PAGE, RECORD, Session
from benchmarks.measure import Cell
from ldarnet.errors import UserError
from ldarnet.io.process import parent_of
from tests.support.ranks import ROOT

FUNCTIONS = "tests.workers.gpu_check_functions"
HIDE_PACKAGES = """
import importlib.machinery

finder = importlib.machinery.PathFinder
find = finder.find_spec
finder.find_spec = staticmethod(lambda name, *rest: None if name.partition(".")[0] in {hidden} else find(name, *rest))
"""


def made(function, name="", limit=60.0, **settings):
    environment = settings.pop("environment", None)
    return Check(name or function, plan.OTHER, f"{FUNCTIONS}:{function}", settings, limit, environment)


def run(folder, checks, *, seconds=None, code="a"):
    """Run checks in a session; return the record that it writes and the reported lines.

    `seconds` limits the time after the check of the machine.
    """
    lines = []
    session = Session(folder, 5, lambda record: f"{len(record.entries)} entries", made("identify", code=code))
    session.end = session.end if seconds is None else time.monotonic() + seconds
    try:
        session.run(checks, lines.append)
    finally:
        session.close()
    return Record.read(folder / RECORD), lines


def results(record):
    return {entry.check.name: entry.result for entry in record.entries}


def written(folder):
    return (folder / PAGE).read_text(), results(Record.read(folder / RECORD))


def test_failures_are_recorded_and_later_checks_run(tmp_path):
    checks = [
        made("process", name="first"),
        made("process", name="same process"),
        made("hang", limit=3.0, done=2),
        made("fail"),
        made("crash"),
        made("load", name="missing", module="a_package_that_is_missing.part"),
        made("load", name="broken", module="benchmarks.no_such_module"),
        made("process", name="shared"),
        made("process", name="own process", environment={"GPU_CHECK_TEST": "1"}),
        made("process", name="shared again"),
    ]
    record, lines = run(tmp_path, checks)
    found = results(record)
    assert found["first"] == found["same process"] and found["first"]["variable"] is None
    assert found["fail"] == {FAILURE: "RuntimeError: CUDA error: illegal address ... set CUDA_LAUNCH_BLOCKING=1"}
    assert found["crash"] == {FAILURE: "the worker process exited with status 3"}
    assert found["hang"] == {"steps": 2, FAILURE: "timeout after 3 s"}
    assert found["missing"] == {NOT_RUN: "a_package_that_is_missing is not installed"}
    assert "No module named 'benchmarks.no_such_module'" in found["broken"][FAILURE]
    assert found["own process"]["variable"] == "1" and found["shared"] == found["shared again"]
    assert len({found[name]["process"] for name in ("first", "shared", "own process")}) == 3
    assert lines[3] == f"fail: FAILED: {found['fail'][FAILURE]}"
    assert lines[5] == "missing: not run: a_package_that_is_missing is not installed"


def test_complete_checks_are_kept_and_failed_ones_run_again(tmp_path):
    checks = [made("process", name="done"), made("load", name="changed", module="json"), made("crash")]
    first, _ = run(tmp_path, checks)
    again = [checks[0], made("process", name="changed"), made("process", name="crash")]
    second, lines = run(tmp_path, again)
    assert second.entries[0] == first.entries[0] and lines[0] == "done: kept"
    assert "process" in results(second)["changed"] and "process" in results(second)["crash"]
    third, _ = run(tmp_path, [made("process", name="new")])
    assert list(results(third)) == ["new", "done", "changed", "crash"]


def test_time_limit_keeps_partial_results(tmp_path):
    checks = [made("hang", done=3), made("process")]
    found = results(run(tmp_path, checks, seconds=3)[0])
    assert found["hang"] == {"steps": 3, NOT_RUN: "stopped at the time limit of 5 minutes"}
    assert found["process"] == {NOT_RUN: "time limit of 5 minutes"}
    assert results(run(tmp_path, checks, seconds=0)[0]) == found


def test_results_of_other_code_are_set_aside(tmp_path):
    check = made("process")
    for code in ("a", "b", "b", "c"):
        run(tmp_path, [check], code=code)
    names = {path.name: Record.read(path).identity["code"] for path in tmp_path.glob("*.json")}
    assert names == {RECORD: "c", "gpu-check-1.json": "a", "gpu-check-2.json": "b"}
    assert len(list(tmp_path.glob("*.md"))) == 3


def test_an_error_in_the_page_does_not_end_the_program(tmp_path):
    session = Session(tmp_path, 5, lambda record: 1 // 0, made("identify", code="a"))
    session.run([made("process")], lambda line: None)
    session.close()
    assert "ZeroDivisionError: " in (tmp_path / PAGE).read_text()
    assert Record.read(tmp_path / RECORD).entries[0].done


@pytest.mark.parametrize("content", ["", "[]", '{"entries": 3}', '{"identity": {}, "made_with": [], "entries": [{}]}'])
def test_damaged_results_are_not_overwritten(tmp_path, content):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(UserError, match=r"gpu-check\.json: .*; delete it to repeat all checks"):
        run(tmp_path, [made("process")])
    assert (tmp_path / RECORD).read_text() == content


@pytest.mark.slow
def test_killed_program_resumes(tmp_path):
    """`kill -9` in the middle of a check: no worker survives, and complete checks are kept."""
    command = [
        sys.executable, "-m", "benchmarks.gpu_check", "--dry-run", "--out", str(tmp_path),
        "--checks", "rates", "swiglu, bfloat16", "gated_norm, ",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / RECORD).exists():
            assert running.poll() is None
            time.sleep(0.01)
        processes = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        workers = [process for process in processes if parent_of(process) == running.pid]
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert workers
    before = Record.read(tmp_path / RECORD).entries
    end = time.monotonic() + 30
    while any(parent_of(worker) is not None for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.1)
    resumed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    after = Record.read(tmp_path / RECORD).entries
    assert len(after) == 4 and all(entry.done for entry in after)
    assert [entry for entry in before if entry.done] == after[: sum(entry.done for entry in before)]
    assert "rates of the device: kept" in resumed.stdout


@pytest.mark.slow
def test_dry_run_is_complete(tmp_path, capsys):
    program.main(["--dry-run", "--out", str(tmp_path), "--note", "Tried."])
    text, found = written(tmp_path)
    not_run = {name: result[NOT_RUN] for name, result in found.items() if NOT_RUN in result}
    assert all("=" in name for name in not_run)
    assert {reason.partition(",")[0] for reason in not_run.values()} == {
        "runs on cuda", "this backend is selected automatically",
    }  # fmt: skip
    assert not [name for name, result in found.items() if FAILURE in result]
    for part in (
        "Tried.", "Dry run on a CPU", "none failed", "| ssd | torch | bfloat16 | passed", "MFU", "matrix products",
        "`tiny`, 2 windows of 64 bases: **", "times the published arrangement", "copy", "launch of a small kernel",
        "2 x `DeepSpeed synchronize()`", "step 3 is skipped", "identical to the uninterrupted run, bit for bit",
        "loss on real windows: falls", "float32: loss differs by", "bimamba2-tiny, 128 bases", "## Made with",
    ):  # fmt: skip
        assert part in text, part
    assert capsys.readouterr().out.endswith(f"{tmp_path / PAGE}\n")
    check_page_of_partial_results(Record.read(tmp_path / RECORD))
    program.main(["--dry-run", "--out", str(tmp_path), "--minutes", "0"])
    assert written(tmp_path)[1] == found


def check_page_of_partial_results(record):
    for number, entry in enumerate(record.entries):
        for partial in (
            {},
            {"backends": {}},
            {"seconds": []},
            {key: entry.result[key] for key in list(entry.result)[:2]},
        ):
            for key in (FAILURE, NOT_RUN):
                entries = record.entries.copy()
                entries[number] = replace(entry, result={**partial, key: "a reason"})
                assert "a reason" in render(replace(record, entries=entries), None)


@pytest.mark.slow
@pytest.mark.parametrize("transformers", [True, False])
def test_bare_machine(tmp_path, transformers):
    """Checks that lack a package are not run; the others are."""
    hidden = {"pydantic", "pydantic_core", "zstandard", "deepspeed", "ray", "mlflow", "xopen", "typer", "rich"}
    hidden |= set() if transformers else {"transformers", "yaml", "tokenizers", "safetensors"}
    (tmp_path / "sitecustomize.py").write_text(HIDE_PACKAGES.format(hidden=sorted(hidden)))
    command = [
        sys.executable, "-m", "benchmarks.gpu_check", "--dry-run", "--out", str(tmp_path), "--checks", "rates",
        "backends", "swiglu, bfloat16", "training, 2 windows", "DeepSpeed, as in training", "save and resume",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    text, found = written(tmp_path)
    outcomes = {name: result.get(NOT_RUN, result.get(FAILURE, "")) for name, result in found.items()}
    package = "pydantic" if transformers else "transformers"
    missing = "" if transformers else "transformers is not installed"
    assert outcomes == {
        "rates of the device": "", "swiglu, bfloat16": "",
        **dict.fromkeys(("backends, first start", "backends, second start", "training, 2 windows"), missing),
        "DeepSpeed, as in training": f"{package} is not installed",
        "save and resume": f"{package} is not installed",
    }  # fmt: skip
    assert f"| save and resume | not run | {package} is not installed |" in text


def test_batches_that_do_not_fit_are_halved(monkeypatch):
    measured = []

    def measure(cell):
        measured.append(cell.windows)
        if cell.windows > 2:
            raise torch.OutOfMemoryError
        return {"device": "NVIDIA H200"}

    monkeypatch.setattr(speed_checks, "measure", measure)
    assert speed_checks.cell(windows=8) == {"device": "NVIDIA H200", "windows": 2, "peak_flops": 989e12}
    assert measured == [8, 4, 2]
    monkeypatch.setattr(speed_checks, "measure", lambda cell: measure(Cell(windows=4)))
    with pytest.raises(torch.OutOfMemoryError):
        speed_checks.cell(windows=1)


def test_alternatives_are_not_run_if_unsupported_or_selected():
    settings = {"device": "cpu", "dtype": "bfloat16", "model": "tiny"}
    assert speed_checks.alternative(ops={"ssd": "triton"}, **settings) == {NOT_RUN: "runs on cuda, not on cpu"}
    selected = {NOT_RUN: "this backend is selected automatically"}
    assert speed_checks.alternative(ops={"ssd": "torch"}, **settings) == selected


def test_plan():
    for sizes in (DRY_RUN, H200):
        checks = plan.plan(sizes)
        assert len({check.name for check in checks}) == len(checks)
        assert len({json.dumps([check.function, check.settings, check.environment]) for check in checks}) >= (
            len(checks) - 1  # backends are selected twice
        )
    groups = list(dict.fromkeys(check.group for check in plan.plan(H200)))
    assert groups[:8] == [
        plan.RATES, plan.BACKENDS, plan.KERNELS, plan.SPEED, plan.WAITS, plan.PROFILE, plan.ENGINE, plan.TRAINING,
    ]  # fmt: skip


def test_options(tmp_path, capsys):
    program.main(["--list", "--checks", "DeepSpeed"])
    assert capsys.readouterr().out.splitlines()[0] == "DeepSpeed, as in training"
    for arguments, message in (
        (["--checks", "no such thing"], "--checks no such thing: no such check"),
        (["--page", str(tmp_path / "absent.json")], "absent.json: no such file"),
        (["--account", str(ROOT / "pyproject.toml")], "pyproject.toml: damaged"),
    ):
        with pytest.raises(SystemExit, match=message):
            program.main(arguments)


def speed(name, windows, seconds, arrangement="ours", **more):
    settings = {"model": "ldarnet-110m", "windows": windows, "length": 4096, "arrangement": arrangement}
    bases = windows * 4096
    result = {
        "windows": windows, "bases": bases, "seconds": [seconds], "peak_flops": 1e15, "model_flops_per_base": 3e8,
        "bases_per_second": {"median": bases / seconds, "best": bases / seconds}, "start_up": {"set_up_seconds": 9.0},
        "source": "yeast", **more,
    }  # fmt: skip
    return Entry(Check(name, plan.SPEED, "", settings), result, 10.0)


@pytest.fixture
def paper(tmp_path):
    def cell(arrangement, seconds):
        work = {"program": "pretrain", "preset": "ldarnet-110m", "windows": 8, "length": 4096}
        parts = {name: {"launches": 10, "bytes": 20, "seconds": spent} for name, spent in seconds.items()}
        return {"workload": {**work, "arrangement": arrangement}, "bases": 32768, "parts": parts}

    ours = {"scan": 0.01, "convolution": 0.005, "matrix products, bfloat16": 0.02, "matrix products, float32": 0.005}
    content = {
        "made_with": ["- Date: 2026-11-30 16:44 UTC"],
        "rates": {"memory": 4e12},
        "cells": [cell("ours", ours), cell("published", {"scan": 0.06})],
    }
    (tmp_path / "2026-12-01-gpu-account.json").write_text(json.dumps(content))
    old = content | {"made_with": ["- Date: 2026-11-29 16:44 UTC"]}
    (tmp_path / "2026-12-02-gpu-account.json").write_text(json.dumps(old))
    found = account.read(account.newest(tmp_path))
    assert found is not None and found.name == "2026-12-01-gpu-account.json"
    return found


def test_page_compares_with_the_estimate(paper):
    entries = [
        speed("ours", 8, 0.1),
        speed("published", 8, 0.15, "published"),
        speed("cut", 32, 0.4, **{FAILURE: "timeout after 90 s"}),
        Entry(Check("broken", plan.SPEED, "", {**speed("", 8, 1.0).check.settings}), {FAILURE: "Error: a|b"}, 3.0),
        Entry(Check("rates", plan.RATES, ""), {"memory": 3e12, "bfloat16": 5e14}),
    ]
    text = render(Record({"device": "NVIDIA H200"}, ["- Commit: abc"], entries), paper)
    # 32,768 bases in 0.1 s; 3e8 FLOP each, at 1e15 FLOP/s; the estimate is 40 ms, and 60 ms for `published`
    assert "**327,680 bases/s, MFU 9.8%** (estimate: at most 819,200 and 24.6%)" in text
    assert "**1.50 times the published arrangement** (estimate: 1.50)" in text
    assert "| 327,680 | 100.0 | 9.8% | 40.0 | 2.50 | 24.6% |" in text
    assert "3 checks complete, **2 failed**, 0 not run" in text
    assert "| broken | **failed** | Error: a\\|b | 3 |" in text
    assert "cut (stopped after 1 timed steps)" in text
    assert "| copy | 3 | 4 | 0.75 | TB/s |" in text
    assert "Dry run" not in text


def test_page_compares_parts_of_the_step(paper):
    operations = {
        "_TritonSSD": 0.015,
        "_TritonConvolutionBackward": 0.01,
        "aten::mm": 0.04,
        "_Tf32Linear": 0.01,
        "aten::add": 0.001,
    }
    result = {"operations": operations, "kernels": {"gemm": 0.08}, "step_seconds": 0.1, "launches": 21}
    settings = {"model": "ldarnet-110m", "windows": 8, "length": 4096, "kind": "kernels"}
    entry = Entry(Check("profile", plan.PROFILE, "", settings), result)
    text = render(Record({"device": "NVIDIA H200"}, [], [entry]), paper)
    assert "device busy for 80.0 ms (80%), 21 launches (estimate: 40)" in text
    assert "| matrix products | 50.00 | 62.5% | 25.00 | 2.00 |" in text
    assert "| not attributed | 4.00 | 5.0% | - | - |" in text
    assert "| total | 80.00 | 100.0% | 40.00 | 2.00 |" in text
    assert "| scan | 15.00 | 18.8% | 10.00 | 1.50 |" in text
    assert "| convolution | 10.00 | 12.5% | 5.00 | 2.00 |" in text


def test_page_states_wrong_results():
    settings = {"operation": "ssd", "dtype": "bfloat16"}
    backends = {
        "torch": {"max_error": 1e-3, "tolerance": 3e-2, "passed": True, "seconds": 1.0},
        "triton": {"max_error": 0.5, "tolerance": 3e-2, "passed": False, "seconds": 1.0},
        "mamba-ssm": {"error": "RuntimeError: no", "passed": False},
        "other": {"unsupported_reason": "needs a package"},
    }
    nan = {"planted_step": 3, "skipped_steps": [], "unchanged": False, "continues": True, "last_loss": 1.0}
    resumed = {
        "steps": 5, "restored": True, "identical": False, "max_difference": 1e-3, "deterministic": False,
        "max_difference_of_repeats": 2e-3,
    }  # fmt: skip
    losses = {"losses": [1.0] * 20, "first_loss": 1.0, "last_loss": 1.0, "averaged": 10, "steps": 20, "windows": 2}
    entries = [
        Entry(Check("ssd", plan.KERNELS, "", settings), {"backends": backends}),
        Entry(Check("planted NaN", plan.TRAINING, ""), {**nan, "passed": False}),
        Entry(Check("resume", plan.TRAINING, ""), resumed),
        Entry(Check("loss", plan.LEARNING, "", {"model": "tiny"}), {**losses, "source": "yeast", "falls": False}),
    ]
    text = render(Record({"device": "NVIDIA H200"}, [], entries), None)
    assert "kernels: 1 of 3 comparisons with the reference passed, **2 failed**" in text
    assert "| ssd | triton | bfloat16 | **failed** | 5.0e-01" in text
    assert "planted NaN: **failed** (planted step: 3; skipped steps: []; unchanged: False; continues: True)" in text
    assert "different from the uninterrupted run by 1.0e-03; two resumed runs differ by 2.0e-03" in text
    assert "loss: **does not fall**" in text
    assert "No estimate" in text


def test_account_of_this_repository_is_read():
    found = account.read(account.newest())
    assert found is not None
    ours, published = (found.steps["ldarnet-110m", 8, 4096, name] for name in ("ours", "published"))
    assert 0 < ours.total < published.total
    assert ours.launches > 100 and found.rates["memory"] > 1e12
