"""bf16 autocast leaves weights, router and losses in float32."""

import pytest
import torch

from ldarnet.config import load_config
from ldarnet.pretraining.run import train_on
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import slow_bf16
from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import WORKERS


def test_autocast_dtypes_of_each_operation(config_file, run_ranks):
    script = WORKERS / "autocast_step.py"
    assert "bf16 step done" in run_ranks(1, config_file, script=script).succeed()


def test_a_bf16_run_follows_the_fp32_run(config_file, run_ranks, tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        arguments = ("--config", config_file, f"run.dir={folder}", f"training.precision={precision}")
        run_ranks(1, *arguments, "validation.windows=0").succeed()
        losses.append([line["loss"] for line in read_metrics(folder / "metrics.jsonl")])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize(
    ("capabilities", "slow"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, False),
        ({}, False),
    ],
)
def test_bf16_without_hardware_support_is_warned_about(capabilities, slow, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    cpu, gpu = (World.alone(torch.device(name)) for name in ("cpu", "cuda"))
    warning = slow_bf16(True, cpu)
    assert (warning is not None) == slow
    if warning:
        assert "this CPU has no bf16" in warning and warning.endswith("use training.precision=fp32")
    assert slow_bf16(False, cpu) is None and slow_bf16(True, gpu) is None


def test_the_warning_is_printed_once(config_file, monkeypatch, capsys, world):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    for precision, count in (("bf16", 1), ("fp32", 0)):
        overrides = [f"training.precision={precision}", f"run.dir={config_file.parent / precision}", "training.steps=1"]
        train_on(world, load_config(config_file, [*overrides, "validation.windows=0"]))
        assert capsys.readouterr().out.count("warning: training.precision=bf16: this CPU has no bf16") == count
