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
from benchmarks.gpu_check import plan
from benchmarks.gpu_check import speed as speed_checks
from benchmarks.gpu_check.page import render
from benchmarks.gpu_check.plan import DRY_RUN, H200
from benchmarks.gpu_check.results import FAILURE, NOT_RUN, Check, Record
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


def test_planned_checks_that_were_not_reached_are_known(tmp_path):
    record, _ = run(tmp_path, [made("process", name="first"), made("process", name="second")])
    assert record.not_reached == []
    replace(record, entries=record.entries[:1]).write(tmp_path / "interrupted.json")
    assert Record.read(tmp_path / "interrupted.json").not_reached == ["second"]


def test_a_dry_run_has_a_folder_of_its_own():
    assert program.parse([]).out == Path("runs/gpu-check")
    assert program.parse(["--dry-run"]).out == Path("runs/gpu-check-dry-run")
    assert program.parse(["--dry-run", "--out", "x"]).out == Path("x")


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
        "`tiny`, 2 windows of 64 bases: **", "times the published implementation", "copy", "launch of a small kernel",
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
        with pytest.raises(UserError, match=message):
            program.main(arguments)
