"""Pretraining of causal models: next-base loss, its metrics, resuming, and what is refused."""

import math

import pytest
import torch
from torch.nn import functional as F

from ldarnet import LDARNetForCausalLM, LDARNetForMaskedLM
from ldarnet.alphabet import N
from ldarnet.config import load_config
from ldarnet.data import NextBase, ShardSet, validation_batches
from ldarnet.errors import UserError
from ldarnet.io.run_lines import read_metrics_lines
from ldarnet.model import load_model
from ldarnet.pretraining.masks import validation_maskings
from ldarnet.report.page import write_report
from ldarnet.runtime.metrics_file import read_metrics
from ldarnet.tokenization.kmers import Kmers
from tests.pretraining.test_tokens import SHAPE
from tests.support.ranks import WORKERS, write_config
from tests.support.two_runs import assert_same, metrics_lines, unbroken_and_resumed

MASKED_KEYS = {"loss", "mlm_loss", "mask_loss", "copy_loss", "bits_per_masked_base", "accuracy", "token_accuracy"}
"""Metrics of masked models; values over next bases must not appear under these names."""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, shards):
    model = {"preset": "tiny", "causal": True}
    return write_config(tmp_path_factory.mktemp("causal"), shards, model=model, optimizer={"lr": 0.02})


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["1 rank", "2 ranks"])
def runs(request, config_file, run_ranks):
    return unbroken_and_resumed(run_ranks, request.param, config_file)


def test_stop_and_resume_is_exact(runs):
    assert_same(runs)


def test_metrics_have_their_own_names_and_match_the_saved_model(config_file, runs):
    config, train = load_config(config_file), metrics_lines(runs / "unbroken", "train")
    assert not MASKED_KEYS & {key for line in read_metrics(runs / "unbroken/metrics.jsonl") for key in line}
    assert len({line["next_base_loss"] for line in train}) == 10
    model = load_model(runs / "unbroken/checkpoints/step-00000010", LDARNetForCausalLM)
    ((_, masking),) = validation_maskings(config).items()
    shards, length = ShardSet.open(config.data.shards), config.data.length
    (batch,) = validation_batches(
        shards,
        "valid",
        length=length,
        max_windows=config.validation.windows,
        batch=config.validation.windows,
        rank=0,
        world=1,
        masking=masking,
    )
    ids = batch.input_ids.long()
    logits, following = model(ids).logits[:, :-1], ids[:, 1:]
    target = following < N
    loss = F.cross_entropy(logits[target], following[target]).item()
    shares = following[target].bincount() / target.sum()
    expected = {
        "next_base_loss": loss,
        "bits_per_base": loss / math.log(2),
        "next_base_accuracy": (logits.argmax(-1) == following)[target].double().mean().item(),
        "composition_loss": torch.distributions.Categorical(shares).entropy().item(),
        "scored": int(target.sum()),
    }
    line = metrics_lines(runs / "unbroken", "valid")[-1]
    assert {key: line[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert model(ids, labels=ids).next_base_loss.item() == pytest.approx(loss, rel=1e-5)


def test_the_report_names_the_loss(runs, tmp_path):
    write_report(runs / "unbroken", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "validation next-base loss" in page and "validation loss" not in page


def test_losses_of_different_kinds_in_one_file_are_refused(runs, tmp_path):
    text = (runs / "unbroken/metrics.jsonl").read_text()
    path = tmp_path / "metrics.jsonl"
    path.write_text(text + text.replace("next_base_loss", "mlm_loss"))
    with pytest.raises(UserError, match="has mlm_loss, line 1 has next_base_loss"):
        list(read_metrics_lines(path))


def test_a_masked_model_is_not_loaded_as_a_causal_one(runs):
    with pytest.raises(UserError, match="LDARNetForCausalLM, not LDARNetForMaskedLM; choose a pretrained model that"):
        load_model(runs / "unbroken", LDARNetForMaskedLM)


def test_a_run_cannot_become_masked(runs, config_file, run_ranks):
    arguments = f"{config_file} run.dir={runs}/unbroken model.causal=false training.steps=12"
    ((status, _, errors),) = run_ranks(1, arguments, script=WORKERS / "several_runs.py").wait()
    assert status and "causal" in errors


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_number_of_ranks(config_file, run_ranks):
    losses = []
    for world in (1, 2):
        run = config_file.parent / f"alone-{world}"
        run_ranks(world, f"{config_file} run.dir={run}", script=WORKERS / "several_runs.py").succeed()
        losses.append([line["next_base_loss"] for line in metrics_lines(run, "train")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_a_causal_model_of_tokens(tmp_path, shards, run_ranks):
    model = SHAPE | {"causal": True, "tokenizer": {"method": "kmers", "k": 3}}
    config = write_config(tmp_path, shards, model=model, optimizer={"lr": 0.02})
    run_ranks(1, f"{config} run.dir={tmp_path}/run", script=WORKERS / "several_runs.py").succeed()
    line = metrics_lines(tmp_path / "run", "valid")[-1]
    assert 1 < line["next_base_loss"] < 2 and "next_token_accuracy" in line and "next_base_accuracy" not in line
    assert not MASKED_KEYS & line.keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.mask_rate=0.3", "data.mask_rate: a causal model predicts the next base, and nothing is masked"),
        ("data.mask_span=6", "data.mask_span: a causal model"),
        ("validation.mask_spans=[1,6]", "validation.mask_spans: a causal model"),
        ("model.chunking={selection: top_k}", "selection=top_k does not work with causal=true; use threshold"),
    ],
)
def test_contradictory_settings_are_refused(config_file, override, message):
    with pytest.raises(UserError, match=message):
        load_config(config_file, [override])
    load_config(config_file, [override, "model.causal=false"])


def test_targets_are_the_next_bases():
    ids = torch.tensor([[0, 1, 4, 2, 3, 3], [4, 4, 4, 4, 4, 4]], dtype=torch.uint8).numpy()
    windows = NextBase().windows(ids, "", torch.arange(2).numpy())
    assert windows.labels.tolist() == [[1, -100, 2, 3, 3, -100], [-100] * 6]
    assert windows.target_bases.tolist() == [4, 0]
    assert (windows.input_ids == ids).all()


def test_targets_are_the_next_tokens():
    ids = torch.tensor([[0, 1, 2, 3, 3, 3, 1, 4]], dtype=torch.uint8).numpy()
    kmers = Kmers(3)
    windows = NextBase(kmers).windows(ids, "", torch.arange(1).numpy())
    tokens = kmers.encode(ids[0]).tolist()
    assert windows.input_ids.tolist() == [tokens]
    assert windows.labels[0].tolist() == [token if token != N else -100 for token in tokens[1:]] + [-100]
    assert windows.target_bases.tolist() == [4]
