"""Checkpoints resume on any number of ranks, at any ZeRO stage, with or without offload."""

import pytest
from safetensors.torch import load_file

from ldarnet import LDARNetForMaskedLM
from ldarnet.cli.export import export
from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import LEARNING, WORKERS, write_config

SEVERAL_RUNS = WORKERS / "several_runs.py"


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, shards):
    return write_config(
        tmp_path_factory.mktemp("elastic"),
        shards,
        training={"steps": 9},
        validation={"every": 3, "windows": 8},
        checkpoint={"every": 500},
        **LEARNING,
    )


def losses(run):
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 10))
    return [line[key] for line in lines for key in ("mlm_loss", "ratio_loss")]


@pytest.mark.slow
def test_losses_continue_across_ranks_and_zero_stages(config_file, run_ranks):
    """After steps 3 and 6 of 9, change ranks (2 -> 1 -> 2), ZeRO stage (1 -> 3 -> 2), or ranks, stage and offload."""
    folder = config_file.parent

    def start(name, engine, steps):
        stage, _, offload = engine.partition("-")
        return (
            f"{config_file} run.dir={folder}/{name} training.zero_stage={stage} "
            f"training.offload={bool(offload)} training.stop_after={steps}"
        )

    stages = [start("stages", "1", 3), start("stages", "3", 6), start("stages", "2", 9)]
    first = [start("ranks", "1", 3), start("both", "3-offload", 3)]
    run_ranks(2, start("unbroken", "1", 9), *stages, *first, script=SEVERAL_RUNS).succeed()
    run_ranks(1, start("ranks", "1", 6), start("both", "0", 6), script=SEVERAL_RUNS).succeed()
    run_ranks(2, start("ranks", "1", 9), start("both", "2-offload", 9), script=SEVERAL_RUNS).succeed()
    unbroken = losses(folder / "unbroken")
    for name in ("ranks", "stages", "both"):
        assert losses(folder / name) == pytest.approx(unbroken, rel=1e-5), name
    checkpoint = folder / "both/checkpoints/step-00000009"
    export(checkpoint, folder / "exported")
    exported = dict(LDARNetForMaskedLM.from_pretrained(folder / "exported").named_parameters())
    saved = load_file(checkpoint / "model.safetensors")
    assert exported.keys() == saved.keys()
    assert all(parameter.equal(saved[name]) for name, parameter in exported.items())
