"""HTML report of fine-tuning runs: contents, learning curve, errors."""

import base64
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ldarnet.cli import app
from ldarnet.errors import UserError
from ldarnet.finetuning.report import write_finetuning_report
from ldarnet.runtime.distributed import World
from tests.support.planted import result, run, write_config

CNN = ("model.baseline=cnn", "training.epochs=1")


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a run of two folds and a run on half of the rows; task data beside them."""
    folder = tmp_path_factory.mktemp("enhancers")
    path = write_config(folder)
    run(world, path, *CNN, "task=a <b> & c")
    run(world, path, *CNN, "task=a <b> & c", "data.limit=48", f"run.dir={folder / 'half'}")
    return folder


def titles(page: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", page)


def test_the_page_is_complete_and_self_contained(runs: Path, tmp_path: Path) -> None:
    assert write_finetuning_report(runs / "run", tmp_path / "page.html") == 2
    page = (tmp_path / "page.html").read_text()
    assert titles(page) == [
        "Notes",
        "Training",
        *(f"Fold {fold}: {kind}" for fold in (0, 2) for kind in ("confusion matrix", "ROC")),
    ]
    assert "a &lt;b&gt; &amp; c" in page and "a <b>" not in page
    for fold in (0, 2):
        left = result(runs / "run", fold)
        low, high = left["intervals"]["accuracy"]
        assert f"{left['test']['accuracy']:.4f} [{low:.4f}, {high:.4f}]" in page
        png = (runs / f"run/fold{fold}/roc.png").read_bytes()
        assert base64.b64encode(png).decode() in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page


def test_a_learning_curve_needs_runs_on_the_same_rows(runs: Path, world: World, tmp_path: Path) -> None:
    write_finetuning_report(runs / "run", tmp_path / "page.html", [runs / "half"])
    assert "Learning curve" in titles((tmp_path / "page.html").read_text())
    other = run(world, write_config(tmp_path / "other"), *CNN, "folds.only=[0]", "evaluation.metric=auroc")
    with pytest.raises(UserError, match=r"other/run: another evaluation\.metric than in the run of the report"):
        write_finetuning_report(runs / "run", tmp_path / "page.html", [other])


def test_results_of_earlier_versions_have_no_intervals(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "run", tmp_path / "old")
    for path in folder.glob("fold*/result.json"):
        content = json.loads(path.read_text())
        del content["intervals"], content["notes"]
        path.write_text(json.dumps(content))
        for figure in path.parent.glob("*.png"):
            figure.unlink()
    write_finetuning_report(folder, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert titles(page) == ["Training"]
    assert f"{result(folder)['test']['mcc']:.4f}" in page


def test_unfinished_and_damaged_runs_are_errors(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "run", tmp_path / "damaged")
    lines = folder / "fold0/metrics.jsonl"
    lines.write_text(lines.read_text().replace('"mcc": ', '"mcc": "x", "old": '))
    with pytest.raises(UserError, match=r"fold0/metrics\.jsonl.*mcc.*delete the folder of the fold"):
        write_finetuning_report(folder, tmp_path / "page.html")
    for path in folder.glob("fold*/result.json"):
        path.unlink()
    with pytest.raises(UserError, match="no finished fold to report; finish a fold"):
        write_finetuning_report(folder, tmp_path / "page.html")


def test_the_command_writes_into_the_run_folder(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "run", tmp_path / "run")
    done = CliRunner().invoke(app, ["report", str(folder), "--curve", str(runs / "half")])
    assert done.exit_code == 0, done.output
    assert f"wrote HTML report of {folder} (finished folds: 2): {folder / 'report.html'}" in done.output
    assert "Learning curve" in titles((folder / "report.html").read_text())
    refused = CliRunner().invoke(app, ["report", str(folder), "--every", "5"])
    assert isinstance(refused.exception, UserError)
