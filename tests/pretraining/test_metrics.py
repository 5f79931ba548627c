"""Content of metrics lines, independent of ZeRO stage and number of ranks."""

import json
import math

import pytest

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.pretraining.progress import PretrainProgress
from ldarnet.runtime.gradients import parts_of
from ldarnet.runtime.metrics_file import MetricsFile, read_metrics
from tests.support.ranks import WORKERS

SEVERAL_RUNS = WORKERS / "several_runs.py"
RATIO = ("schedule.ratio_start=2", "schedule.ratio_warmup=0.5")
VALIDATED = ("validation.every=1", "training.stop_after=2")


def lines(run):
    found = read_metrics(run / "metrics.jsonl")
    return ([line for line in found if line["split"] == split] for split in ("train", "valid"))


def test_gradient_parts_of_a_hierarchy():
    config = LDARNetConfig.preset(
        "tiny",
        arch_layout=["m1", ["m1t1", ["M1"], "m1"], "m1"],
        d_model=[16, 24, 32],
        d_intermediate=[0, 0, 32],
        attn_cfg={"num_heads": [2, 2, 2], "rotary_emb_dim": [8, 8, 8], "window_size": [7, 7, -1]},
    )
    parts = parts_of(LDARNetForMaskedLM(config))
    assert parts["model.backbone.encoder.norm.weight"] == "stage0/encoder"
    assert parts["model.backbone.main.router.q_proj.weight"] == "stage1/router"
    assert set(parts.values()) == {
        "embeddings",
        "lm_head",
        *(f"stage{depth}/{name}" for depth in (0, 1) for name in ("encoder", "router", "residual_proj", "decoder")),
        *("stage1/pad_dimension", "stage2/pad_dimension", "stage2/main"),
    }


def test_other_jsonl_files_are_truncated_on_resume(tmp_path):
    for step in (5, 10):
        file = MetricsFile(tmp_path, step - 1, "boundaries.jsonl")
        file.write({"step": step})
        file.close()
    MetricsFile(tmp_path, 7, "boundaries.jsonl").close()
    assert [line["step"] for line in read_metrics(tmp_path / "boundaries.jsonl")] == [5]


def test_mlm_loss_data_wait_and_warnings_are_printed(capsys):
    line = {"step": 1, "split": "train", "mlm_loss": 1.0, "bases_per_chunk": [4.0], "bases_per_second": 1e6}
    for waits, shown in ((0.02, False), (0.25, True)):
        display = PretrainProgress(True, total=1)
        display.step(line | {"data_wait": waits})
        printed = capsys.readouterr().out
        assert "MLM loss 1.0000" in printed
        assert ("data wait 25%" in printed) == shown
    display.warn("stage 0: [odd] brackets")
    assert "warning: stage 0: [odd] brackets" in capsys.readouterr().out


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    path = tmp_path_factory.mktemp("bed") / "regions.bed"
    rows = [(start, start + 150, "coding" if start % 400 else "repeat") for start in range(0, 1800, 200)]
    path.write_text("".join(f"second\t{start}\t{end}\t{name}\n" for start, end, name in rows))
    return path


@pytest.mark.slow
def test_metrics_do_not_depend_on_zero_stage_and_ranks(config_file, run_ranks, tmp_path, bed):
    common = f"{config_file} {' '.join((*RATIO, *VALIDATED))} validation.regions={bed}"
    named = {f"stage{stage}": f"training.zero_stage={stage}" for stage in range(4)}
    named |= {"clipped": "training.zero_stage=1 optimizer.clip=0.001", "offloaded": "training.offload=true"}
    named["profiled"] = "tracking.profile=[1,1]"
    runs = [f"{common} run.dir={tmp_path / name} {change}" for name, change in named.items()]
    drifting = (
        f"{config_file} run.dir={tmp_path / 'drifting'} model.target_ratio=1e3 training.steps=24 validation.windows=0"
    )
    runs += [f"{drifting} training.stop_after=12", drifting]
    output = run_ranks(2, *runs, script=SEVERAL_RUNS).succeed()
    run_ranks(1, f"{common} run.dir={tmp_path / 'alone'}", script=SEVERAL_RUNS).succeed()
    train, valid = lines(tmp_path / "stage1")
    assert len(train) == len(valid) == 2
    _check_train_line(train[0])
    _check_regions(valid[0])
    assert [line["target_ratio"] for line in train] == pytest.approx([2.0, 2.0 * 2 ** (1 / 5)])
    for name in (*named, "alone"):
        other_train, other_valid = lines(tmp_path / name)
        first = other_train[0]
        assert first["gradient_norms"] == pytest.approx(train[0]["gradient_norms"], rel=2e-3), name
        for key in ("boundary_histogram", "boundary_tokens", "boundary_rate", "period"):
            assert first[key] == train[0][key], (name, key)
        if name != "clipped":
            for region, scores in valid[0]["regions"].items():
                assert other_valid[0]["regions"][region]["mlm_loss"] == pytest.approx(scores["mlm_loss"], rel=1e-4)
    (trace,) = (tmp_path / "profiled/profiles").iterdir()
    assert trace.name == "rank-00000-step-00000001.json.gz"
    _check_samples_and_starts(tmp_path / "stage1")
    _check_drift_warning(tmp_path / "drifting", output)


def _check_drift_warning(run, output):
    """A drift that starts at step 1 is reported once, 20 steps later, although the run is stopped in between."""
    train, _ = lines(run)
    assert [line["step"] for line in train if "drift/stage0" in line["warnings"]] == [21, 22, 23, 24]
    assert output.count("warning: stage 0: compression has drifted from its target") == 1
    assert "since step 1;" in output


def _check_train_line(line):
    norms = line["gradient_norms"]
    assert math.hypot(*norms.values()) == pytest.approx(line["gradient_norm"], rel=1e-4)
    assert norms.keys() >= {"embeddings", "lm_head", "stage0/encoder", "stage0/router", "stage1/main"}
    assert min(norms.values()) > 0
    (histogram,) = line["boundary_histogram"]
    assert sum(histogram) == pytest.approx(1, abs=1e-3)
    assert sum(line["boundary_tokens"].values()) == pytest.approx(1, abs=1e-3)
    assert 1 <= line["chunk_imbalance"][0] <= 2
    assert sum(line["phase_share"].values()) == pytest.approx(1)
    assert 0 <= line["data_wait"] < 1
    assert line["memory"]["host"] > 50 * 2**20
    assert line["warnings"] == {}


def _check_regions(line):
    regions = line["regions"]
    assert set(regions) == {"coding", "repeat", "other"}
    assert sum(scores["scored"] for scores in regions.values()) == line["scored"]
    loss = sum(scores["scored"] * scores["mlm_loss"] for scores in regions.values()) / line["scored"]
    assert loss == pytest.approx(line["mlm_loss"])
    chunks = [scores["bases_per_chunk"][0] for scores in regions.values()]
    assert min(chunks) <= line["bases_per_chunk"][0] <= max(chunks)


def _check_samples_and_starts(run):
    samples = [json.loads(text) for text in (run / "boundaries.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [1, 2]
    for sample in samples:
        assert len(sample["bases"]) == len(sample["probability"]) == 64
        assert set(sample["bases"]) <= set("ACGT")
        chosen = [position for position, percent in enumerate(sample["probability"]) if percent > 50]
        assert set(chosen) <= set(sample["boundaries"][0])
    (start,) = [json.loads(text) for text in (run / "starts.jsonl").read_text().splitlines()]
    assert (start["step"], start["ranks"], start["zero_stage"]) == (0, 2, 1)
    assert start["kernels"]["ssd"] == "torch"
