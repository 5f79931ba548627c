"""The page of the program that checks a GPU, rendered from results."""

import json

import pytest

from benchmarks.gpu_check import account, plan
from benchmarks.gpu_check.page import render
from benchmarks.gpu_check.results import FAILURE, NOT_RUN, Check, Entry, Record


def test_checks_that_were_not_reached_are_counted_and_named():
    entries = [Entry(Check("first", plan.RATES, ""), {}), Entry(Check("second", plan.RATES, ""), {NOT_RUN: "no time"})]
    text = render(Record({"device": "NVIDIA H200"}, [], entries, ["first", "second", "third"]), None)
    assert "1 of 3 checks complete, none failed, 1 not run, 1 not reached" in text
    assert "third | not reached" in text


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
    def cell(arrangement, seconds, **more):
        work = {"program": "pretrain", "preset": "ldarnet-110m", "windows": 8, "length": 4096}
        parts = {name: {"launches": 10, "bytes": 20, "seconds": spent} for name, spent in seconds.items()}
        return {"workload": {**work, "arrangement": arrangement, **more}, "bases": 32768, "parts": parts}

    ours = {"scan": 0.01, "convolution": 0.005, "matrix products, bfloat16": 0.02, "matrix products, float32": 0.005}
    content = {
        "made_with": ["- Date: 2026-11-30 16:44 UTC"],
        "rates": {"memory": 4e12},
        "cells": [
            cell("ours", ours),
            cell("ours", {"scan": 1.0}, accumulation=24),  # not what this program measures
            cell("ours", {"scan": 1.0}, chunk_capacity_factor=1.25),
            cell("published", {"scan": 0.06}),
            cell("published", {"scan": 1.0}, ops={"ssd": "mamba-ssm"}),
        ],
    }
    (tmp_path / "2026-12-01-gpu-account.json").write_text(json.dumps(content))
    old = content | {"made_with": ["- Date: 2026-11-29 16:44 UTC"]}
    (tmp_path / "2026-12-02-gpu-account.json").write_text(json.dumps(old))
    newer = content | {"made_with": ["- Date: 2026-12-03 16:44 UTC"]}
    for name in ("gpu-account-static-chunks", "gpu-account-before", "other-gpu-account"):
        (tmp_path / f"2026-12-03-{name}.json").write_text(json.dumps(newer))
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
    assert "**1.50 times the published implementation** (estimate: 1.50)" in text
    assert "| 327,680 | 100.0 | 9.8% | 40.0 | 2.50 | 24.6% |" in text
    assert "3 of 5 checks complete, **2 failed**, 0 not run, 0 not reached" in text
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
        Entry(Check("step with a NaN loss", plan.TRAINING, ""), {**nan, "passed": False}),
        Entry(Check("resume", plan.TRAINING, ""), resumed),
        Entry(Check("loss", plan.LEARNING, "", {"model": "tiny"}), {**losses, "source": "yeast", "falls": False}),
    ]
    text = render(Record({"device": "NVIDIA H200"}, [], entries), None)
    assert "kernels: 1 of 3 comparisons with the reference passed, **2 failed**" in text
    assert "| ssd | triton | bfloat16 | **failed** | 5.0e-01" in text
    assert (
        "step with a NaN loss: **failed** (step with the NaN: 3; skipped steps: []; weights and moments unchanged: "
        "False; training continues: True)"
    ) in text
    assert "different from the uninterrupted run by 1.0e-03; two resumed runs differ by 2.0e-03" in text
    assert "loss: **does not fall**" in text
    assert "No estimate" in text


def test_account_of_this_repository_is_read():
    found = account.read(account.newest())
    assert found is not None
    ours, published = (found.steps["ldarnet-110m", 8, 4096, name] for name in ("ours", "published"))
    assert 0 < ours.total < published.total
    assert ours.launches > 100 and found.rates["memory"] > 1e12
