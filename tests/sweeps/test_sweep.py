"""Sweeps on Ray with a stub of fine-tuning: trials, retries, early stopping, choice and resume."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ldarnet.errors import UserError
from tests.support.ranks import Ranks
from tests.support.sample_sweep import run, starts, write
from tests.support.waiting import wait_for_lines

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.fixture(autouse=True)
def compared(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Path]]:
    """Arms that the last sweep passed to the comparison; the stub writes too little for a real one."""
    arms: dict[str, list[Path]] = {}
    monkeypatch.setattr("ldarnet.sweeps.report.write_comparison", lambda results, folder: arms.update(results))
    return arms


def test_settings_are_chosen_by_validation_and_failures_are_retried(
    tmp_path: Path, compared: dict[str, list[Path]]
) -> None:
    faults = {
        "nt/H3 0.0001 fold0": {"kind": "kill", "times": 1},
        "nt/H4 0.001 fold1": {"kind": "transient", "times": 1},
        "nt/H4 0.001 fold0": {"kind": "late", "times": 1},
    }
    path = write(tmp_path, script={"faults": faults})
    _, first, _ = run(path, "sweep.tasks=H3")
    assert sum(starts(path).values()) == 4 + 1
    # An added task trains only its own folds.
    sweep, second, report = run(path)
    printed = first + second
    assert sweep.done and not sweep.failed and not sweep.interrupted
    # The stub's test scores decrease with its validation scores.
    assert {task: entry["chosen"]["setting"] for task, entry in report["tasks"].items()} == {
        "nt/H3": "lr=0.0001",
        "nt/H4": "lr=0.001",
    }
    assert "killed by SIGKILL" in printed and "a network did not answer" in printed
    found = starts(path)
    assert [found.pop(f"H{name}") for name in ("3/lr=0.0001/fold0", "4/lr=0.001/fold1", "4/lr=0.001/fold0")] == [2] * 3
    assert set(found.values()) == {1} and len(found) == 5
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert f"classifier: ldarnet predict {tmp_path}/out/trials/nt/H3/lr=0.0001/fold1/export my.fa" in summary
    assert {entry["classifier"] for entry in report["tasks"].values()} == {"fold1"}
    settings = report["tasks"]["nt/H3"]["settings"]
    assert settings["lr=0.0001"]["validation"] == {"0": 0.5, "1": 0.501}
    assert settings["lr=0.0001"]["mean"] == pytest.approx(0.5005)
    trials = tmp_path / "out" / "trials" / "nt" / "H3"
    assert (trials / "lr=0.0001" / "fold1" / "fold1" / "best" / "weights").exists()
    assert not (trials / "lr=0.001" / "fold1" / "fold1" / "best").exists()
    assert {str(file.relative_to(trials.parent)) for file in compared["out"]} == {
        f"{setting}/fold{fold}/fold{fold}/result.json" for setting in ("H3/lr=0.0001", "H4/lr=0.001") for fold in (0, 1)
    }
    # A finished sweep trains nothing.
    run(path)
    assert sum(starts(path).values()) == 5 + 3 * 2


def test_shared_error_ends_the_task_and_divergence_only_its_setting(tmp_path: Path) -> None:
    faults = {
        "nt/H3 0.001 fold0": {"user_error": "fold 0 has diverged", "epoch": 2},
        **{f"nt/H4 {lr} fold0": {"user_error": "H4.csv: no such file", "epoch": 1} for lr in (0.0001, 0.001)},
        "nt/H4ac 0.0001 fold0": {"kind": "kill", "times": 99},
    }
    path = write(tmp_path, script={"faults": faults})
    sweep, printed, report = run(path, "sweep.tasks=[H3, H4, H4ac]", "sweep.retries=1", "resources.concurrent=1")
    assert sweep.failed and not sweep.done
    found = starts(path)
    assert "H3/lr=0.001/fold1" not in found and found["H3/lr=0.001/fold0"] == 1
    assert {name for name in found if name.startswith("H4/")} == {"H4/lr=0.0001/fold0", "H4/lr=0.001/fold0"}
    assert found["H4ac/lr=0.0001/fold0"] == 2 and "H4ac/lr=0.0001/fold1" not in found
    tasks = report["tasks"]
    assert tasks["nt/H3"]["chosen"]["setting"] == "lr=0.0001" and tasks["nt/H4ac"]["chosen"]["setting"] == "lr=0.001"
    assert tasks["nt/H4"]["chosen"] is None and "H4.csv: no such file" in tasks["nt/H4"]["why"]
    assert "settings failed: 1" in tasks["nt/H3"]["why"]
    assert "fold 0 has diverged" in printed and "log.txt" in printed
    # The next launch retries failed folds.
    (tmp_path / "out" / "script.yaml").write_text(json.dumps({"scores": {}}))
    before = starts(path)
    sweep, _, report = run(path, "sweep.tasks=[H3, H4ac]")
    assert sweep.done and not sweep.failed
    retried = {"H3/lr=0.001/fold0", "H3/lr=0.001/fold1", "H4ac/lr=0.0001/fold0", "H4ac/lr=0.0001/fold1"}
    assert {name for name, number in starts(path).items() if number != before.get(name)} == retried


def test_trials_that_fall_behind_are_stopped_permanently(tmp_path: Path) -> None:
    search = {"folds": [0], "asha": {"grace": 1, "reduction": 2}}
    path = write(tmp_path, epochs=6, script={"seconds": 0.7}, search=search)
    _, printed, report = run(path, "sweep.tasks=H3", "resources.concurrent=1")
    entry = report["tasks"]["nt/H3"]
    assert entry["chosen"]["setting"] == "lr=0.0001" and "settings stopped early: 1" in entry["why"]
    assert entry["settings"]["lr=0.001"]["stopped"] == {"0": 1} and "stopped early after epoch 1" in printed
    assert starts(path) == {"H3/lr=0.0001/fold0": 1, "H3/lr=0.001/fold0": 1, "H3/lr=0.0001/fold1": 1}
    stopped = tmp_path / "out" / "trials" / "nt" / "H3" / "lr=0.001" / "fold0"
    assert len((stopped / "fold0" / "metrics.jsonl").read_text().splitlines()) < 6
    # An added setting is compared with trials of previous launches.
    _, _, report = run(path, "sweep.tasks=H3", "space.optimizer.lr=[1e-4, 1e-3, 1e-2]")
    assert report["tasks"]["nt/H3"]["settings"]["lr=0.01"]["stopped"] == {"0": 1}
    assert starts(path)["H3/lr=0.001/fold0"] == 1


def test_invalid_combination_of_values_is_not_started(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        set={"optimizer.lr": 1e-4},
        space={"model.baseline": ["cnn", "kmers"], "training.mode": ["full", "probe"]},
        search={"kind": "optuna", "trials": 4, "folds": [0]},
    )
    sweep, printed, report = run(path, "sweep.tasks=H3")
    settings = report["tasks"]["nt/H3"]["settings"]
    failed = {name for name, setting in settings.items() if "training.mode=probe" in setting["failed"].get("0", "")}
    assert failed == {name for name in settings if "probe" in name} and 0 < len(failed) < len(settings)
    assert sweep.done and "training.mode=probe cannot be" in printed


def test_optuna_resumes(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        space={"optimizer.lr": {"low": 1e-6, "high": 1e-2, "log": True}},
        search={"kind": "optuna", "trials": 3, "folds": [0]},
    )
    _, _, report = run(path, "sweep.tasks=H3")
    first = report["tasks"]["nt/H3"]["settings"]
    assert len(first) == 3 and len(report["tasks"]["nt/H3"]["results"]) == 2
    _, _, report = run(path, "sweep.tasks=H3", "search.trials=6")
    entry = report["tasks"]["nt/H3"]
    assert len(entry["settings"]) == 6 and first.keys() <= entry["settings"].keys()
    assert entry["chosen"]["setting"] == max(entry["settings"], key=lambda name: entry["settings"][name]["mean"])
    assert set(starts(path).values()) == {1}


def test_trials_share_a_gpu(tmp_path: Path) -> None:
    path = write(tmp_path, script={"wait": 0}, space={"optimizer.lr": [1e-4]})
    together: list[bool] = []

    def meet() -> None:
        """Release the trials once both have started, or after two minutes."""
        until = time.monotonic() + 120
        while len(starts(path)) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        together.append(len(starts(path)) == 2)
        (tmp_path / "out" / "go").touch()

    meeting = threading.Thread(target=meet)
    meeting.start()
    run(path, "sweep.tasks=[H3]", "resources.gpus=0.5")
    meeting.join()
    lines = [file.read_text().split() for file in path.parent.rglob("starts")]
    assert [line[1:] for line in lines] == [["GPUs", "[0]"]] * 2
    assert together == [True], "trials ran one after the other"


def test_more_resources_than_the_cluster_has_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"resources\.gpus=64: no node of the cluster has enough of both"):
        run(write(tmp_path), "resources.gpus=64", "resources.ranks=64", "resources.launcher=deepspeed")


def test_folder_with_another_configuration_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path, folds=2)
    run(path, "sweep.tasks=H3", "space.optimizer.lr=[1e-4]")
    with pytest.raises(UserError, match=r"training\.epochs: 2 -> 3"):
        run(path, "set.training.epochs=3")
    with pytest.raises(UserError, match=r"keys of space: optimizer\.lr -> optimizer\.weight_decay"):
        run(path, "space={optimizer.weight_decay: [0.1]}", "set.optimizer.lr=1e-4")


DRIVER = """
import pathlib, sys
from tests.support.sample_sweep import run
run(pathlib.Path(sys.argv[1]))
"""


def test_killed_and_interrupted_sweeps_resume(run_ranks: Callable[..., Ranks], tmp_path: Path) -> None:
    path = write(tmp_path, epochs=6, script={"seconds": 0.5, "saving": 2.0})
    (tmp_path / "driver.py").write_text(DRIVER)
    killed = run_ranks(1, path, script=tmp_path / "driver.py", launched=False)
    wait_for_lines(path.parent, 15)
    killed.kill()
    saving = 14.0  # longer than the 10 seconds that Ray Tune would wait
    write(tmp_path, epochs=6, script={"seconds": 0.5, "saving": saving})

    def interrupt() -> None:
        wait_for_lines(path.parent, 33)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    interrupted, printed, _ = run(path)
    assert interrupted.interrupted and not interrupted.done and not interrupted.failed
    assert "already done" in printed and "search not finished" in printed
    assert "stopped by SIGINT" in printed and "run the same command again to resume" in printed
    trained = {file.parent.parent for file in path.parent.rglob("metrics.jsonl")}  # others have nothing to save
    assert all((folder / "saved").exists() or any(folder.rglob("result.json")) for folder in trained), (
        "the sweep exited before its trials had saved"
    )

    sweep, _, _ = run(path)
    assert sweep.done and len(list(path.parent.rglob("result.json"))) == 8
    assert sum(starts(path).values()) <= 8 + 2 * 2  # two trials were running at each of the two interruptions
    for file in path.parent.rglob("metrics.jsonl"):
        assert [json.loads(line)["epoch"] for line in file.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
