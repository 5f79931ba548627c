"""Recipes in CONTRIBUTING: add an arm as one file, a metric as one entry, a task as one registry entry."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import cohen_kappa_score

from ldarnet.comparison.compare import find_results, write_comparison
from ldarnet.errors import UserError
from ldarnet.finetuning import arms
from ldarnet.finetuning.run import finetune_on
from ldarnet.runtime.distributed import World
from ldarnet.tasks import registry
from ldarnet.tasks.metrics import METRICS, Metric
from tests.support.planted import MOTIF, read_config, result, write_config, write_rows

MOTIF_ARM = f'''
"""Baseline: whether a sequence holds a fixed motif."""

import numpy as np

from ldarnet.finetuning.arms import BASELINE, Arm, register
from ldarnet.finetuning.evaluation import Outputs
from ldarnet.finetuning.job import FoldResult
from ldarnet.finetuning.learning import log_fit


def learner(job, context):
    def learn(fold, tracker):
        valid = job.rows.subset(job.folds[fold][1])
        line = log_fit(job, fold, outputs(valid.sequences).metrics(valid.labels), 0.0, context, tracker)
        return FoldResult(None, 1, line, [], line["seconds"], outputs(job.reported(fold)[0].sequences))

    return learn


def outputs(sequences):
    found = np.array(["{MOTIF}" in sequence for sequence in sequences], dtype=np.float32)
    return Outputs(np.stack([1 - found, found], axis=1)[None], [])


register(
    Arm(
        option=BASELINE,
        name="motif",
        description="motif search",
        learner=learner,
        fit="nothing to fit",
        selection="motif",
        ignored=("model.", "optimizer.", "schedule.", "training.", "run.seed"),
    )
)
'''


@pytest.fixture
def motif_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of an arm that is defined in a separate file."""
    folder = tmp_path / "arms"
    folder.mkdir()
    (folder / "motif.py").write_text(MOTIF_ARM, encoding="utf-8")
    monkeypatch.setattr(arms, "__path__", [*arms.__path__, str(folder)])
    yield "motif"
    arms._ARMS.pop((arms.BASELINE, "motif"), None)
    sys.modules.pop("ldarnet.finetuning.arms.motif", None)


@pytest.fixture
def kappa(monkeypatch: pytest.MonkeyPatch) -> str:
    """Key of a metric that is registered for one test."""

    def score(labels: np.ndarray, probabilities: np.ndarray) -> float:
        return float(cohen_kappa_score(labels, probabilities.argmax(1)))

    monkeypatch.setitem(METRICS, "kappa", Metric("Cohen's kappa", score, minimum=-1.0))
    return "kappa"


def test_a_new_arm_and_metric_appear_in_results_and_comparison(
    world: World, tmp_path: Path, motif_arm: str, kappa: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path)
    runs = {}
    for arm in (motif_arm, "kmers"):
        config = read_config(path, f"model.baseline={arm}", f"evaluation.metric={kappa}", f"run.dir={tmp_path / arm}")
        assert finetune_on(world, config).finished
        runs[arm] = config.run.dir

    found = result(runs[motif_arm])
    assert (found["arm"], found["metric"]) == (motif_arm, kappa)
    assert found["valid"][kappa] == 1 and found["test"][kappa] > 0.9
    assert json.loads((runs[motif_arm] / "summary.json").read_text())["metrics"][kappa]["folds"]
    assert "kappa" in (runs[motif_arm] / "summary.txt").read_text()
    assert "motif search" in capsys.readouterr().out

    write_comparison({arm: find_results(run) for arm, run in runs.items()}, tmp_path / "compared")
    with (tmp_path / "compared" / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == motif_arm and row["metric"] == kappa]
    assert {row["fold"] for row in rows} == {"0", "2"}
    assert "Cohen's kappa" in (tmp_path / "compared" / "results.md").read_text()


def test_mistyped_extensions_suggest_the_closest_name(tmp_path: Path, motif_arm: str, kappa: str) -> None:
    path = write_config(tmp_path)
    with pytest.raises(UserError, match=r"model\.baseline=motiff: no such arm; did you mean 'motif'\?"):
        arms.arm_of(read_config(path, "model.baseline=motiff"))
    with pytest.raises(UserError, match="'kapa' is not a metric; did you mean 'kappa'"):
        read_config(path, "evaluation.metric=kapa")


def test_a_task_with_one_registry_entry_runs(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = yaml.safe_load(Path(registry.__file__).with_name("registry.yaml").read_text(encoding="utf-8"))
    entry = {"rows": [96, 40], "length": [48, 56], "classes": 2, "lr": 1e-3, "leakage": None}
    known["suites"]["nucleotide_transformer"]["tasks"]["planted"] = entry
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump(known), encoding="utf-8")
    monkeypatch.setattr(registry, "_REGISTRY", tmp_path / "registry.yaml")
    registry.all_tasks.cache_clear()
    try:
        (tmp_path / "files" / "planted").mkdir(parents=True)
        for seed, (split, rows) in enumerate({"train": 96, "test": 40}.items()):
            write_rows(tmp_path / "files" / "planted" / f"{split}.csv", rows, seed, classes=("0", "1"))
        path = write_config(tmp_path, task="planted", data={"folder": str(tmp_path / "files")}, optimizer={})
        config = read_config(path, "model.baseline=kmers", "folds.only=[0]")
        assert finetune_on(world, config).finished
    finally:
        registry.all_tasks.cache_clear()

    found = result(config.run.dir)
    assert (found["task"], found["suite"]) == ("planted", "nucleotide_transformer")
    assert found["settings"]["optimizer.lr"] == 1e-3
    assert found["rows"]["test"] == 40
