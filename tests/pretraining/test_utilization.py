"""Estimated cost, FLOP/s and MFU of a run."""

import pytest

from ldarnet import LDARNetConfig
from ldarnet.config import load_config
from ldarnet.model.cost import cost, dense_bf16_peak
from ldarnet.pretraining.meters import Utilization
from ldarnet.pretraining.progress import PretrainProgress
from ldarnet.runtime.metrics_file import read_metrics
from ldarnet.runtime.tracking import _metrics


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A1000", None),
        ("Tesla V100-SXM2-32GB", None),
        ("", None),
    ],
)
def test_peak_of_each_gpu(gpu, peak):
    assert dense_bf16_peak(gpu) == peak


def test_utilization_follows_speed_chunks_and_devices():
    config = LDARNetConfig.preset("ldarnet-110m")
    one = Utilization(config, 4096, devices=1, peak=1e15)
    flops = one.metrics(1e6, [4.0])["flops_per_second"]
    assert flops == cost(config, 4096).training_flops * 1e6
    assert one.metrics(1e6, [4.0])["mfu"] == flops / 1e15
    assert one.metrics(1e6, [2.0])["mfu"] > one.metrics(1e6, [4.0])["mfu"]
    assert Utilization(config, 4096, devices=4, peak=1e15).metrics(1e6, [4.0])["mfu"] == flops / 4e15
    assert Utilization(config, 4096, devices=1, peak=None).metrics(1e6, [4.0]) == {"flops_per_second": flops}


def test_mfu_is_printed_and_tracked_if_known(capsys):
    line = {"step": 1, "split": "train", "mlm_loss": 1.0, "bases_per_chunk": [4.0], "bases_per_second": 1e6}
    for known in ({}, {"mfu": 0.376}):
        display = PretrainProgress(True, total=1)
        display.step(line | known)
        assert ("MFU 38%" in capsys.readouterr().out) == bool(known)
        names = {metric.key for metric in _metrics(line | known, 0)}
        assert ("train/mfu" in names) == bool(known)


def test_launch_prints_estimated_cost(config_file, run_ranks, tmp_path):
    arguments = ("--config", config_file, "training.stop_after=2", "validation.windows=0")
    output = run_ranks(2, *arguments).succeed()
    config = load_config(config_file)
    model = config.model.build({})
    expected = cost(model, config.data.length)
    (shown,) = [line for line in output.splitlines() if line.startswith("cost ")]
    assert f"{expected.forward_flops / 1e3:.1f} kFLOP per base forward" in shown
    assert f"{expected.activation_bytes / 1e3:.1f} kB per base" in shown
    assert f"{expected.activation_bytes * 64 * 2 / 1e3:.1f} kB per rank" in shown
    assert "MFU" not in output
    for line in read_metrics(tmp_path / "run/metrics.jsonl"):
        flops = cost(model, config.data.length, line["bases_per_chunk"]).training_flops * line["bases_per_second"] / 2
        assert line["flops_per_second"] == pytest.approx(flops)
        assert "mfu" not in line
