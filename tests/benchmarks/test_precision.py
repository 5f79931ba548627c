"""Effect of precision compared with the effect of the seed."""

import json

import pytest

from benchmarks.precision import compare, read_runs
from ldarnet.errors import UserError

CURVES = {
    ("fp32", 0): {10: 1.0, 20: 0.8},
    ("fp32", 1): {10: 1.4, 20: 1.0},
    ("bf16", 0): {10: 1.1, 20: 0.8},
    ("bf16", 1): {10: 1.3, 20: 1.3},
}


def test_differences_of_precision_and_seed():
    first, second = compare(CURVES)
    assert first == pytest.approx((10, 1.2, 1.2, 0.0, 0.1, 0.4))
    assert second == pytest.approx((20, 0.9, 1.05, 0.15, 0.3 / 2**0.5, 0.2))


@pytest.fixture
def run(tmp_path):
    def make(precision, seed, steps=10, **changes):
        folder = tmp_path / f"{precision}-{seed}"
        folder.mkdir()
        settings = {"run": {"dir": str(folder), "seed": seed}, "data": {"shards": "s", **changes}}
        settings["training"] = {"steps": 10, "precision": precision}
        (folder / "config.yaml").write_text(json.dumps(settings))
        (folder / "metrics.jsonl").write_text(f'{{"step": {steps}, "split": "valid", "mask_loss": {seed + 0.5}}}\n')
        return folder

    return make


def test_runs_are_grouped_by_precision_and_seed(run):
    folders = [run(precision, seed) for precision in ("fp32", "bf16") for seed in (0, 1)]
    curves, shared = read_runs(folders)
    assert curves == {(name, seed): {10: seed + 0.5} for name in ("fp32", "bf16") for seed in (0, 1)}
    assert "training.precision" not in shared
    with pytest.raises(UserError, match="an fp32 and a bf16 run for each"):
        read_runs(folders[:3])


def test_incomparable_runs_are_rejected(run):
    with pytest.raises(
        UserError, match=r"differs from .* in data.length; give runs that differ only in precision and seed"
    ):
        read_runs([run("fp32", 0), run("bf16", 0, length=64)])
    with pytest.raises(UserError, match="not finished; run its training command again"):
        read_runs([run("fp32", 1, steps=5)])
