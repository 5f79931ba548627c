"""Arms of an ablation: same data, masks and FLOPs; errors; and the printed plan."""

from pathlib import Path

import numpy as np
import pytest

from ldarnet.ablation.arms import resolve_arms
from ldarnet.ablation.downstream import finetune_config
from ldarnet.ablation.estimate import describe_plan
from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.cli.ablate import ablate
from ldarnet.data import ShardSet, Windows
from ldarnet.errors import UserError
from ldarnet.packaged import packaged_configs
from ldarnet.pretraining.masks import training_masking, validation_maskings
from ldarnet.program import call
from ldarnet.tokenization import tokenization_or_bases
from ldarnet.tokenization.bpe import BPE
from tests.support.ranks import ROOT
from tests.support.sample_ablation import load, write

TOKENS = {
    "model.tokenizer": {"method": "kmers", "k": 6},
    "model.arch_layout": ["M1"],
    "model.d_model": [32],
    "model.d_intermediate": [64],
}
ARMS = {"learned": {}, "grid": {"model.chunking": {"method": "grid"}}, "6-mers": TOKENS}
SPANS = {"data.mask_span": 6}


def test_arms_see_the_same_windows_and_masked_bases(tmp_path: Path, shards: Path) -> None:
    """Of token arms, every target token covers exactly the target bases."""
    path = write(tmp_path, arms=ARMS, set=SPANS | {"data.shards": str(shards)})
    arms = resolve_arms(load(path))
    seen = {}
    for name, arm in arms.items():
        config = arm.config
        windows = Windows(ShardSet.open(config.data.shards), "train", config.data.length, seed=config.run.seed)
        ids, _ = windows.read(windows.locations(np.arange(16)))
        tokenizer = tokenization_or_bases(arm.sized.config.tokenizer)
        masks = {"train": training_masking(config, tokenizer), **validation_maskings(config, tokenizer)}
        for key, masking in masks.items():
            covered = masking.windows(ids, "fingerprint", np.arange(16)).labels != IGNORE_INDEX
            seen[name, key] = np.repeat(covered, 6, axis=1) if tokenizer is not None else covered
        assert arm.sized.config.to_dict() == config.model.build({}).to_dict()
    assert [key for name, key in seen if name == "6-mers"] == ["train", "span6"]
    assert [key for name, key in seen if name == "grid"] == ["train", "span1", "span6"]
    for name in ("grid", "6-mers"):
        for key in ("train", "span6"):
            assert seen["learned", key].any() and (seen["learned", key] == seen[name, key]).all(), (name, key)


def test_arms_are_sized_to_the_flops_of_the_reference(tmp_path: Path) -> None:
    arms = resolve_arms(
        load(write(tmp_path, arms=ARMS, set=SPANS, sizing={"tolerance": 0.05}), "set.model.preset=quickstart")
    )
    flops = {name: arm.sized.cost.training_flops for name, arm in arms.items()}
    assert all(abs(value / flops["learned"] - 1) <= 0.05 for value in flops.values())
    assert arms["grid"].config.model.build({}).to_dict() == arms["grid"].sized.config.to_dict()
    measured = load(
        write(tmp_path, arms=ARMS, set=SPANS, sizing={"enabled": False}), "sizing.bases_per_chunk.learned=[6.5]"
    )
    assert resolve_arms(measured)["learned"].sized.cost.bases_per_chunk == (6.5,)


def test_chunks_whose_length_depends_on_the_data_are_measured(tmp_path: Path, shards: Path) -> None:
    words, track = tmp_path / "words.json", tmp_path / "track.bed"
    BPE(["A C", "G T"]).backend().save(str(words))
    track.write_text("".join(f"first\t{at}\t{at + 5}\n" for at in range(0, 39_990, 10)))
    arms = {
        "learned": {},
        "bpe": {"model.chunking.method": "bpe", "model.chunking_tokenizer": str(words)},
        "file": {"model.chunking.method": "file", "data.boundaries": str(track)},
    }
    resolved = resolve_arms(load(write(tmp_path, arms=arms, set={"data.shards": str(shards)})))
    chunks = {name: arm.sized.cost.bases_per_chunk for name, arm in resolved.items()}
    assert chunks["learned"] == (4.0,)
    # Each of 2 pairs occurs at 1/16 of the bases, so about 1/8 of the bases do not begin a word; masks change this.
    assert 1.05 < chunks["bpe"][0] < 1.15
    assert 4.5 < chunks["file"][0] < 5.1


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"data.length": 120}, r"arms\.other: data\.length is 120, but 60 in the reference learned"),
        ({"training.batch": 8}, r"arms\.other: training\.batch is 8, but 4"),
        ({"data.mask_rate": 0.3}, r"arms\.other: validates with masks of span 1 and mask_rate=0\.3"),
        ({"validation.mask_spans": [3]}, r"arms\.other: validates with masks of span 3"),
        ({"validation.windows": 0}, r"arms\.other: validation\.windows=0"),
        ({"training.stop_after": 3}, r"arms\.other: training\.stop_after=3 is not supported"),
        ({"model.chunking.method": "gird"}, r"arms\.other: .*gird"),
        ({"optimiser.lr": 1}, r"arms\.other: .*unknown key optimiser"),
        (TOKENS, r"arms\.other: .*data\.mask_span: tokens of 6 bases"),
        (TOKENS | SPANS | {"model.tokenizer": {"method": "kmers", "k": 4}}, r"no span of whole tokens; add 4"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_arms_that_cannot_be_compared_are_errors(tmp_path: Path, arm: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_arms(load(write(tmp_path, arms={"learned": {}, "other": arm})))


def test_mask_rates_may_differ_with_equal_validation(tmp_path: Path) -> None:
    arms = {"learned": {}, "rate-30": {"data.mask_rate": 0.3}}
    resolved = resolve_arms(load(write(tmp_path, arms=arms, set={"validation.mask_rate": 0.15})))
    assert resolved["rate-30"].config.data.mask_rate == 0.3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ablation.reference=x"], r"ablation\.reference=x is not an arm; choose from learned, grid"),
        (["arms={learned: {}, ../x: {}}"], r"'\.\./x' is not a valid name"),
        (["ablation.seeds=[1, 1]"], r"ablation\.seeds=\[1, 1\]: duplicate value"),
        (["lr.values=[0.1, 0.1]"], r"lr\.values=\[0\.1, 0\.1\]: duplicate value"),
        (["downstream.tasks=[]"], r"tasks is empty"),
        (["downstream.finetune=null"], r"tasks needs finetune"),
        (["sizing.bases_per_chunk.x=[4.0]"], r"sizing\.bases_per_chunk: x is not an arm"),
        (["downstream.set.task=H4"], r"downstream\.set\.task: set for each run by the ablation"),
        (["downstream.tasks=[H33]"], r"task=H33: no published task"),
        (["downstream.set.data.folder=missing"], r"downstream: data\.folder=missing: no such folder"),
    ],
)
def test_wrong_configurations_are_errors(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        finetune_config(load(write(tmp_path), *overrides))


def test_plan_is_printed_without_ray_and_without_running_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    path = write(tmp_path, arms=ARMS, set=SPANS)
    assert call(ablate, ["--config", str(path), "--plan", "plan.flops_per_second=1e9"]) == 0
    printed = capsys.readouterr().out
    assert "3 arms, 27 runs" in printed and "2,400 bases per run (10 steps), seeds 0, 1" in printed
    assert "learning rate of each arm from 0.001, 0.01 in 5 steps" in printed
    assert "downstream: nt/H3; probe, finetune" in printed
    assert "| 6-mers | M1 | 32 |" in printed and "1.0 GFLOP/s per run (plan.flops_per_second)" in printed
    assert "0.15 of the bases in spans of 6: learned, grid, 6-mers" in printed
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["script.yaml"]


def test_speed_is_measured_without_a_setting(tmp_path: Path) -> None:
    text = describe_plan(load(write(tmp_path, downstream={})))
    assert "measured on this machine: learned, 4 windows of 60 bases" in text and "downstream: none" in text


@pytest.mark.parametrize("name", sorted(name for name in packaged_configs() if name.startswith("ablation/")))
def test_packaged_configurations_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their arms can be sized, except those that need files which users make."""
    monkeypatch.chdir(ROOT)
    config = load(packaged_configs()[name])
    files = [arm for arm, changes in config.arms.items() if "model.tokenizer.file" in changes]
    arms = resolve_arms(load(packaged_configs()[name], *(f"arms.{arm}=null" for arm in files)))
    tolerance = config.sizing.tolerance
    assert all(abs(arm.sized.difference) <= tolerance for arm in arms.values())
    assert finetune_config(config) is not None
