"""Fine-tuning runs: output files, summaries and errors."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ldarnet import LDARNetForSequenceClassification
from ldarnet.errors import UserError
from ldarnet.finetuning.classifier import build_classifier
from ldarnet.finetuning.folds import split
from ldarnet.finetuning.results import _nothing_learned
from ldarnet.finetuning.run import finetune_on
from ldarnet.finetuning.summary import _over_folds
from ldarnet.finetuning.targets import ClassTargets
from ldarnet.model import load_backbone
from ldarnet.tasks.metrics import interval, scores
from tests.support.planted import lines, predictions, read_config, result, run, write_config, write_rows

SPLITS = {"valid", "test", "test_leak_free"}


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """Configuration file of a finished run of two folds; the run folder is `run` beside it."""
    path = write_config(tmp_path_factory.mktemp("finetune"))
    assert finetune_on(world, read_config(path)).finished
    return path


@pytest.fixture
def copied(finished, tmp_path):
    """Copy of the finished run, with its configuration."""
    shutil.copytree(finished.parent, tmp_path / "copy")
    return tmp_path / "copy" / "config.yaml"


def test_run_folder_is_complete(finished):
    folder = finished.parent / "run"
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "data.json",
        "summary.json",
        "summary.txt",
        "export",
    }
    for fold in (0, 2):
        left = {path.name for path in (folder / f"fold{fold}").iterdir()}
        assert left == {
            *("best", "config.yaml", "confusion.png", "metrics.jsonl", "predictions.tsv", "result.json", "roc.png")
        }
        assert read_config(folder / f"fold{fold}/config.yaml").folds.only == [fold]
    assert not (folder / "fold1").exists()
    assert (folder / "fold0/roc.png").read_bytes().startswith(b"\x89PNG")


def test_result_matches_the_predictions(finished):
    run_dir = finished.parent / "run"
    for fold in (0, 2):
        left, rows = result(run_dir, fold), predictions(run_dir, fold)
        assert [row["name"] for row in rows] == [f"row2-{number}" for number in range(40)]
        labels = np.array([left["classes"].index(row["label"]) for row in rows])
        probabilities = np.array([[float(row["p_no"]), float(row["p_yes"])] for row in rows])
        assert probabilities.sum(1) == pytest.approx(1)
        assert [row["predicted"] for row in rows] == [left["classes"][number] for number in probabilities.argmax(1)]
        found = scores(labels, probabilities)
        assert {key: left["test"][key] for key in found} == pytest.approx(found)
        assert [row["leak_free"] for row in rows] == ["0"] + 39 * ["1"]  # the first one is in training
        assert left["rows"] == {"train": 72, "valid": 24, "test": 40, "test_leak_free": 39}
        found = scores(labels[1:], probabilities[1:])
        assert {key: left["test_leak_free"][key] for key in found} == pytest.approx(found)


def test_result_records_the_run(finished):
    left = result(finished.parent / "run")
    assert (left["task"], left["suite"], left["arm"], left["mode"]) == (finished.parent.name, "own", "random", "full")
    assert (left["fold"], left["folds"], left["seed"]) == (0, 4, 42)
    assert left["settings"]["optimizer.lr"] == 1e-2
    assert left["settings"]["training.batch"] == 16
    assert not {"run.dir", "folds.only", "training.zero_stage", "data.train"} & left["settings"].keys()
    assert left["versions"]["torch"] == torch.__version__
    json.dumps(left, allow_nan=False)


def test_metrics_are_written_per_epoch_and_before_training(finished):
    left, epochs = result(finished.parent / "run"), lines(finished.parent / "run")
    assert [(line["epoch"], line["step"], line["split"]) for line in epochs] == [
        (0, 0, "valid"),
        (1, 5, "valid"),
        (2, 10, "valid"),
    ]
    best = max(epochs[1:], key=lambda line: line["mcc"])
    assert left["best_epoch"] == best["epoch"]
    assert left["epochs"] == 2
    assert left["valid"] == {key: best[key] for key in left["valid"]}
    assert left["bases_per_chunk"] == {"before": epochs[0]["bases_per_chunk"], "after": best["bases_per_chunk"]}
    assert len(left["bases_per_chunk"]["before"]) == 1
    assert epochs[0]["train_loss"] is None
    assert epochs[1]["train_loss"] > 0


def test_summary_is_over_the_finished_folds(finished):
    run_dir = finished.parent / "run"
    summary = json.loads((run_dir / "summary.json").read_text())
    values = [result(run_dir, fold)["test"]["mcc"] for fold in (0, 2)]
    assert summary["folds"] == values
    assert summary["numbers"] == [0, 2]
    assert (summary["mean"], summary["interval"]) == pytest.approx(interval(values))
    assert summary["leak_free"]["folds"] == [result(run_dir, fold)["test_leak_free"]["mcc"] for fold in (0, 2)]
    best = max((0, 2), key=lambda fold: result(run_dir, fold)["valid"]["mcc"])
    assert summary["export"]["fold"] == best
    exported, kept = (load_file(run_dir / name / "model.safetensors") for name in ("export", f"fold{best}/best"))
    assert exported.keys() == kept.keys()
    assert all(torch.equal(exported[name], kept[name]) for name in kept)
    assert "2 of 4 folds have not been trained; set folds.only=null" in (run_dir / "summary.txt").read_text()


def test_finished_folds_are_kept_and_new_ones_added(world, copied, capsys):
    folder = copied.parent / "run"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("fold*/*") if path.name != "config.yaml"}
    run(world, copied, f"run.dir={folder}", "folds.only=[0,1]", "training.zero_stage=0")
    assert "fold 0 is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((folder / "summary.json").read_text())["numbers"] == [0, 1, 2]


def test_same_seed_same_numbers_whatever_the_order_of_folds(world, finished, tmp_path):
    again = run(world, finished, f"run.dir={tmp_path / 'again'}", "folds.only=[2]")
    assert lines(again, 2) == lines(finished.parent / "run", 2)
    assert predictions(again, 2) == predictions(finished.parent / "run", 2)


def test_another_configuration_is_refused(world, copied):
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.01 -> 0\.1.*another run\.dir, or delete"):
        run(world, copied, f"run.dir={copied.parent / 'run'}", "optimizer.lr=0.1")


def test_other_rows_are_refused(world, copied):
    other = write_rows(copied.parent / "train.csv", 96, seed=3)
    with pytest.raises(UserError, match="different rows of the task"):
        run(world, copied, f"run.dir={copied.parent / 'run'}", f"data.train={other}", "folds.only=[1]")


def test_fold_with_a_single_class_is_rejected(world, tmp_path):
    path = write_config(tmp_path, folds={"count": 30, "only": [0, 1, 2, 3], "stratified": False})
    with pytest.raises(
        UserError,
        match=rf"fold \d of {tmp_path.name} would validate on \d rows of the single class '(yes|no)'; set folds",
    ):
        run(world, path)


def test_undefined_metrics_are_null_with_a_warning(world, tmp_path, capsys):
    path = write_config(tmp_path)
    table = (tmp_path / "test.csv").read_text().splitlines()
    (tmp_path / "test.csv").write_text("\n".join([table[0], *(row for row in table if row.endswith(",yes"))]) + "\n")
    folder = run(world, path, "folds.only=[0]", "training.epochs=1")
    left = result(folder)
    assert (left["test"]["mcc"], left["test"]["auroc"], left["test"]["auprc"]) == (None, None, None)
    assert left["test"]["accuracy"] is not None
    printed = capsys.readouterr().out
    assert "MCC and AUROC and AUPRC of test are undefined for rows of a single class" in printed
    assert not (folder / "fold0/roc.png").exists()


def test_without_test_rows_results_are_from_validation(world, tmp_path):
    folder = run(world, write_config(tmp_path), "data.test=null", "folds.only=[0]", "training.epochs=1")
    left, rows = result(folder), predictions(folder)
    assert left["test"] is None
    _, valid = split(np.arange(96) % 2, ["no", "yes"], read_config(tmp_path / "config.yaml").folds)[0]
    assert [row["name"] for row in rows] == [f"row1-{row}" for row in valid]
    assert json.loads((folder / "summary.json").read_text())["split"] == "valid"


def test_lr_and_batch_come_from_the_registry(world, tmp_path):
    path = write_config(tmp_path, task="H4", data={"folder": str(tmp_path), "limit": 60})
    (tmp_path / "H4").mkdir()
    for name, rows in (("train", 96), ("test", 40)):
        write_rows(tmp_path / "H4" / f"{name}.csv", rows, seed=rows, classes=("0", "1"))
    folder = run(world, path, "optimizer.lr=null", "training.batch=null", "training.epochs=1", "folds.only=[0]")
    left = result(folder)
    assert (left["settings"]["optimizer.lr"], left["settings"]["training.batch"]) == (5e-5, 64)
    assert (left["rows"]["train"], left["rows"]["valid"], left["rows"]["test"]) == (45, 15, 40)
    assert (left["task"], left["suite"], left["classes"]) == ("H4", "nucleotide_transformer", ["0", "1"])


def test_ratio_loss_enters_training(world, finished, tmp_path):
    left = run(world, finished, f"run.dir={tmp_path / 'without'}", "training.ratio_weight=0", "folds.only=[0]")
    heavy = run(world, finished, f"run.dir={tmp_path / 'heavy'}", "training.ratio_weight=3", "folds.only=[0]")
    drift = {name: abs(result(name)["bases_per_chunk"]["after"][0] - 4) for name in (left, heavy)}
    assert drift[heavy] < drift[left]
    assert lines(left)[0] == lines(heavy)[0] == lines(finished.parent / "run")[0]


def test_both_strands_are_averaged(world, finished, tmp_path):
    both = run(world, finished, f"run.dir={tmp_path / 'both'}", "evaluation.strands=2", "folds.only=[0]")
    one, two = (
        np.array([float(row["p_yes"]) for row in predictions(name)]) for name in (finished.parent / "run", both)
    )
    assert not np.allclose(one, two)
    other, text = tmp_path / "test.csv", (finished.parent / "test.csv").read_text().splitlines()
    turned = [row.split(",") for row in text[1:]]
    strand = str.maketrans("ACGT", "TGCA")
    other.write_text("\n".join([text[0], *(f"{n},{s.translate(strand)[::-1]},{y}" for n, s, y in turned)]) + "\n")
    again = run(
        world,
        finished,
        f"run.dir={tmp_path / 'turned'}",
        "evaluation.strands=2",
        "folds.only=[0]",
        f"data.test={other}",
    )
    assert [float(row["p_yes"]) for row in predictions(again)] == pytest.approx(two, abs=2e-6)


def test_long_sequences_are_cropped_to_their_center_and_counted(world, tmp_path):
    path = write_config(tmp_path)
    folder = run(world, path, "data.max_length=50", "folds.only=[0]", "training.epochs=1")
    notes = json.loads((folder / "data.json").read_text())["notes"]
    long = sum(len(row.split(",")[1]) > 50 for name in ("train", "test") for row in (tmp_path / f"{name}.csv").open())
    assert f"{long} sequences were cropped to their 50 central bases" in notes


def test_checkpoint_initializes_weights_except_the_head(pretrained, finished):
    config = read_config(finished, f"checkpoint={pretrained}")
    assert config.arm == "checkpoint"
    network = build_classifier(config, ["no", "yes"], longest=40)
    kept, fresh = load_backbone(pretrained).state_dict(), network.model.state_dict()
    assert kept.keys() == fresh.keys()
    assert all(torch.equal(kept[name], fresh[name]) for name in kept)
    again = build_classifier(read_config(finished, f"checkpoint={pretrained / 'export'}"), ["no", "yes"], longest=40)
    assert torch.equal(network.classifier.weight, again.classifier.weight)
    finetuned = build_classifier(
        read_config(finished, f"checkpoint={finished.parent / 'run'}"), ["no", "yes"], longest=40
    )
    best = LDARNetForSequenceClassification.from_pretrained(finished.parent / "run/export")
    assert torch.equal(finetuned.model.embeddings.weight, best.model.embeddings.weight)
    assert not torch.equal(finetuned.classifier.weight, best.classifier.weight)


def test_warns_when_nothing_was_learned_or_values_are_optimistic(world, tmp_path, capsys):
    path = write_config(tmp_path)
    rows = (tmp_path / "train.csv").read_text().splitlines()
    few = [row.replace(",yes", ",no") if number > 16 else row for number, row in enumerate(rows)]
    (tmp_path / "train.csv").write_text("\n".join(few))
    folder = run(world, path, "folds.only=[0]", "training.epochs=1", "data.test=null")
    printed = capsys.readouterr().out
    assert "fold 0: every row is predicted as " in printed and "nothing was learned" in printed
    assert (
        "validation rows also selected the best epoch, so these values are optimistic"
        in (folder / "summary.txt").read_text()
    )
    kmers = run(world, path, "folds.only=[0]", "data.test=null", "model.baseline=kmers", f"run.dir={tmp_path}/kmers")
    assert (
        "validation rows also selected the penalty, so these values are optimistic"
        in (kmers / "summary.txt").read_text()
    )


@pytest.mark.parametrize(
    ("mcc", "auroc", "message"),
    [
        (0.1, 0.4, None),
        (
            -0.0001,
            None,
            "validation MCC of the best epoch is -0.0001, no better than predicting one class: nothing",
        ),
        (0.0, 0.5, ": nothing was learned; try a higher optimizer.lr"),
        (0.0, 0.97, "though validation AUROC is 0.97 (0.5: random ranking); try a higher"),
    ],
)
def test_warning_distinguishes_ranking_from_nothing_learned(tmp_path, mcc, auroc, message):
    warnings = {}
    for arm, change in (("network", "task=own"), ("kmers", "model.baseline=kmers")):
        config = read_config(write_config(tmp_path), change)
        job = SimpleNamespace(config=config, targets=ClassTargets(["no", "yes"]))
        warnings[arm] = _nothing_learned(np.eye(2), job, 3, {"mcc": mcc, "auroc": auroc})
    assert len(warnings["network"]) == len(warnings["kmers"]) == (message is not None)
    if message is not None:
        assert message in warnings["network"][0] and "optimizer.lr" not in warnings["kmers"][0]


def test_the_interval_is_over_three_folds_or_more():
    assert _over_folds([0.1, 0.2]) == {"folds": [0.1, 0.2], "mean": pytest.approx(0.15), "interval": None}
    assert _over_folds([0.1, 0.2, 0.6])["interval"] == pytest.approx(4.302653 * 0.2645751 / 3**0.5)
    assert _over_folds([0.1, None, 0.6])["mean"] is None


def test_class_names_are_not_parsed_as_math(world, tmp_path):
    path = write_config(tmp_path)
    for name in ("train.csv", "test.csv"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace(",yes", ",$a^$").replace(",no", ",$b_$"))
    folder = run(world, path, "folds.only=[0]", "training.epochs=1", "model.baseline=kmers")
    assert (folder / "fold0/confusion.png").is_file() and (folder / "fold0/roc.png").is_file()


def test_mlflow_runs_of_folds_are_nested(world, tmp_path):
    from mlflow import MlflowClient

    path = write_config(tmp_path, tracking={"mlflow": True, "parent": "0" * 32, "name": "a trial"})
    folder = run(world, path, "folds.only=[0]", "training.epochs=1")
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    kept = client.get_run(json.loads((folder / "fold0/mlflow.json").read_text())["run_id"])
    assert (kept.info.status, kept.info.run_name) == ("FINISHED", "a trial/fold0")
    assert kept.data.tags["mlflow.parentRunId"] == "0" * 32
    assert (kept.data.tags["task"], kept.data.tags["fold"]) == (tmp_path.name, "0")
    assert kept.data.metrics["test/mcc"] == result(folder)["test"]["mcc"]
    assert [entry.step for entry in client.get_metric_history(kept.info.run_id, "valid/mcc")] == [0, 5]
    names = {artifact.path for artifact in client.list_artifacts(kept.info.run_id)}
    assert names == {"config.yaml", "confusion.png", "predictions.tsv", "result.json", "roc.png"}
