"""statistics.json of an arm: windows, seeds and pairs, and errors."""

import json

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForCausalLM, LDARNetForMaskedLM
from ldarnet.ablation.records import StatisticsRecord
from ldarnet.ablation.statistics import statistics, write_statistics
from ldarnet.errors import UserError
from ldarnet.io.records import read_record
from ldarnet.model import write_model
from ldarnet.program import run
from tests.support.ranks import write_config

TOKENS = {"tokenizer": {"method": "kmers", "k": 6}, "arch_layout": ["M1"], "d_model": [64], "d_intermediate": [64]}
ARMS = {
    "learned": {},
    "grid": {"chunking": {"method": "grid"}},
    "swapped": {"chunking": {"method": "swapped"}},
    "two-stages": {
        "arch_layout": ["m1", ["m1", ["M1"], "m1"], "m1"],
        "d_model": [32] * 3,
        "d_intermediate": [0, 0, 64],
    },
    "6-mers": TOKENS,
    "track": {"chunking": {"method": "file", "track": "0" * 64}},
    "causal": {"causal": True},
}


@pytest.fixture(scope="module")
def ablation(tmp_path_factory, shards):
    """Ablation with two pretrained seeds of every arm; seed 2 is not pretrained."""
    folder = tmp_path_factory.mktemp("ablation")
    seeds = {"0": {"state": "finished"}, "1": {"state": "finished"}, "2": {"state": "failed", "reason": "killed"}}
    record = {"version": 1, "reference": "learned", "tasks": [], "modes": [], "seeds": [0, 1, 2]}
    record["arms"] = {arm: {"config": {}, "seeds": seeds} for arm in ARMS}
    (folder / "ablation.json").write_text(json.dumps(record))
    for arm, changes in ARMS.items():
        for seed in (0, 1):
            path = folder / "arms" / arm / f"seed{seed}" / "pretrain"
            path.mkdir(parents=True)
            causal = "causal" in changes
            validation = {} if causal else {"mask_spans": [1, 6]}
            write_config(path, shards, model={"causal": causal}, data={"length": 60}, validation=validation)
            torch.manual_seed(seed)
            attention = {} if "arch_layout" not in changes else {"attn_cfg": {}}
            kind = LDARNetForCausalLM if causal else LDARNetForMaskedLM
            model = kind(LDARNetConfig.preset("tiny", **changes, **attention))
            write_model(model, path / "export")
            (path / "summary.txt").write_text("finished")
    return folder


def written(folder, arm):
    return read_record(write_statistics(folder, arm), StatisticsRecord, hint="write again")


def test_statistics_of_a_grid(ablation):
    found = written(ablation, "grid")
    assert list(found["seeds"]) == ["0", "1"]
    (stage,) = found["seeds"]["0"]
    assert stage["bases_per_chunk"] == 4
    assert [length for length, count in enumerate(stage["chunk_lengths"], start=1) if count] == [4]
    assert stage["strands"]["jaccard"] == 1  # 60 is a multiple of 4
    assert set(stage["leak"]) == {"span1", "span6"}
    boundaries, bases = stage["leak"]["span1"]["within"]["1"]
    assert boundaries == pytest.approx(bases, abs=0.1)
    assert stage["stability"]["substitution"]["affected"]["0"] == 0
    assert stage["stability"]["insertion"]["affected"]["8"] > 0.5
    (pair,) = found["pairs"]
    assert pair["seeds"] == ["0", "1"]
    assert pair["stages"][0]["jaccard"] == 1


def test_seeds_of_the_learned_router_differ(ablation):
    found = written(ablation, "learned")
    (agreement,) = found["pairs"][0]["stages"]
    assert 0 < agreement["jaccard"] < 1
    assert agreement["interval"][0] <= agreement["jaccard"] <= agreement["interval"][1]
    assert set(found["seeds"]["1"][0]["stability"]) == {"substitution", "insertion", "deletion"}


def test_statistics_are_reproducible(ablation):
    first = write_statistics(ablation, "learned").read_bytes()
    assert write_statistics(ablation, "learned").read_bytes() == first


def test_every_router_has_statistics(ablation):
    found = written(ablation, "two-stages")
    assert [len(found["seeds"]["0"]), len(found["pairs"][0]["stages"])] == [2, 2]


def test_boundaries_of_another_sequence_have_no_stability(ablation):
    assert written(ablation, "swapped")["seeds"]["0"][0]["stability"] == {}


def test_causal_models_read_no_masks(ablation):
    found = written(ablation, "causal")
    (stage,) = found["seeds"]["0"]
    assert stage["leak"] == {}
    assert stage["bases_per_chunk"] > 1 and stage["strands"]["jaccard"] < 1
    assert set(stage["stability"]) == {"substitution", "insertion", "deletion"}
    assert len(found["pairs"][0]["stages"]) == 1


@pytest.mark.parametrize("arm", ["6-mers", "track"])
def test_arms_that_predict_no_boundaries_have_no_statistics(ablation, arm):
    found = written(ablation, arm)
    assert found["seeds"] == {"0": [], "1": []}
    assert found["pairs"][0]["stages"] == []


def test_command_prints_the_file(ablation, capsys):
    assert run(statistics, [str(ablation), "grid"], name="statistics") == 0
    assert capsys.readouterr().out.strip() == str(ablation / "arms" / "grid" / "statistics.json")


ALL_FAILED = {"config": {}, "seeds": {"2": {"state": "failed"}}}


@pytest.mark.parametrize(
    ("arm", "change", "message"),
    [
        ("other", {}, "no arm other; use one of learned, grid"),
        ("grid", {"arms": {"grid": ALL_FAILED}, "reference": "grid"}, "no seed of arm grid is pretrained"),
        ("grid", {"reference": "other"}, r"ablation.json: the reference other is not an arm; run"),
        ("grid", {"arms": {"../grid": {"config": {}, "seeds": {}}}}, r"ablation.json: damaged \(.*plain file name"),
        ("grid", {"arms": 3}, r"ablation.json: damaged \(arms"),
    ],
)
def test_errors_are_one_line(ablation, tmp_path, arm, change, message):
    record = json.loads((ablation / "ablation.json").read_text()) | change
    (tmp_path / "ablation.json").write_text(json.dumps(record))
    (tmp_path / "arms").symlink_to(ablation / "arms")
    with pytest.raises(UserError, match=message) as error:
        write_statistics(tmp_path, arm)
    assert "\n" not in str(error.value)


def test_other_folders_are_an_error(tmp_path):
    with pytest.raises(UserError, match="not an ablation"):
        write_statistics(tmp_path, "grid")
