"""Programs that read a folder with a malformed file end normally or with one line, and write nothing outside it.

Every metadata file that runs, shard sets, downloads and sweeps leave behind is mutated; new files are covered
automatically. The tests take a sample with a fixed seed; set `LARGER_SAMPLE` to a large number to try all.
"""

import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ldarnet.cli.verify import verify_models
from ldarnet.comparison.compare import find_results, write_comparison
from ldarnet.config import FinetuneConfig, RunConfig, load_config
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.finetuning.fold import FoldTraining
from ldarnet.finetuning.predict import Classifier
from ldarnet.finetuning.run import finetune_on
from ldarnet.genome.fasta import read_contigs
from ldarnet.genome.sources import SequenceSource
from ldarnet.io.retry import Retry
from ldarnet.model import load_backbone, load_model, write_model
from ldarnet.model.heads import LDARNetForMaskedLM
from ldarnet.pretraining.results import write_results
from ldarnet.pretraining.run import train_on
from ldarnet.program import call
from ldarnet.report.page import write_report
from ldarnet.runtime.distributed import World
from ldarnet.runtime.metrics_file import read_metrics
from ldarnet.tasks import find_task
from ldarnet.tasks.downloads import fetch_task
from sharding import stats, verify
from sharding.build import build
from sharding.fetch import fetch
from sharding.published import Registry
from tests.support import planted, sample_sweep
from tests.support.made_results import make_predictions, make_run
from tests.support.malformed import METADATA, Left, Reader, change_tensors, copy_folder, problem
from tests.support.publishers import Server
from tests.support.ranks import LEARNING, write_config
from tests.support.resuming import no_training, no_trials

SAMPLE = 8
"""Malformed files of each folder in the fast test."""
LARGER_SAMPLE = 15
"""Malformed files of each folder in the slow test."""
SHARDS = METADATA | {".npy", ".npz"}
SMALL = {"block": 700, "shard_size": 2000}
QUICK = Retry(max_attempts=1, first_wait=0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk, and write reports without figures, which tests/report draws from damaged lines."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("ldarnet.report.page.draw_panels", lambda *_: {"figures": [], "empty": {}})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("left")


@pytest.fixture(scope="module")
def pretraining_config(base: Path, shards: Path) -> RunConfig:
    (base / "pretraining").mkdir()
    changes = {"training": {"steps": 4, "batch": 4, "timeout_minutes": 2}, "checkpoint": {"every": 2, "keep": 2}}
    return load_config(
        write_config(base / "pretraining", shards, **LEARNING, **changes, validation={"every": 2, "windows": 2})
    )


@pytest.fixture(scope="module")
def pretraining(base: Path, pretraining_config: RunConfig, world: World) -> dict[str, Left]:
    """An interrupted and a finished pretraining run."""
    config = pretraining_config
    stopped = base / "pretraining" / "stopped"
    first = config.training.model_copy(update={"stop_after": 2})
    train_on(world, _in(config, stopped).model_copy(update={"training": first}))
    write_results(config, train_on(world, config))
    for folder in (config.run.dir, stopped):
        (folder / "mlflow.json").write_text('{"tracking_uri": null, "run_id": "0123"}\n')

    def resume(run: Path, out: Path) -> None:
        again = _in(config, run)
        with no_training():
            result = train_on(world, again)
            if result.finished:
                write_results(again, result)

    readers: dict[str, Reader] = {
        "resume": resume,
        "verify": lambda run, out: verify_models(run),
        "report": lambda run, out: write_report(run, out / "report.html"),
        "export": lambda run, out: write_model(load_model(run, LDARNetForMaskedLM), out / "model"),
        "backbone": lambda run, out: load_backbone(run),
    }
    model: dict[str, Reader] = {
        "model": lambda folder, out: load_model(folder, LDARNetForMaskedLM),
        "verify": readers["verify"],
    }
    strict = frozenset(model)
    return {
        "stopped": Left(stopped, readers, strict=frozenset({"verify", "resume", "export", "backbone"})),
        "finished": Left(config.run.dir, readers),
        "checkpoint": Left(stopped / "checkpoints/step-00000002", model, strict=strict),
        "export": Left(config.run.dir / "export", model, strict=strict),
    }


def _in(config: Any, folder: Path) -> Any:
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": folder})})


@pytest.fixture(scope="module")
def finetuning_config(base: Path) -> FinetuneConfig:
    training = {"epochs": 2, "batch": 16, "timeout_minutes": 2}
    folds = {"count": 4, "only": [0], "stratified": True}
    return planted.read_config(planted.write_config(base / "finetuning", training=training, folds=folds))


@pytest.fixture(scope="module")
def finetuning(base: Path, finetuning_config: FinetuneConfig, world: World) -> dict[str, Left]:
    """An interrupted and a finished fine-tuning run."""
    config = finetuning_config
    finetune_on(world, config)
    stopped = base / "finetuning" / "stopped"
    step, taken = FoldTraining._step, []

    def stopping(fold: FoldTraining, epoch: int) -> bool:
        taken.append(step(fold, epoch))
        if len(taken) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return taken[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FoldTraining, "_step", stopping)
        finetune_on(world, _in(config, stopped))
    fasta = base / "finetuning" / "in.fa"
    fasta.write_text(">a\nACGTACGTACGTACGTACGT\n")

    def predict(run: Path, out: Path) -> None:
        with (out / "predictions.tsv").open("w") as file:
            Classifier(run).write(read_contigs(fasta), file, fasta)

    def resume(run: Path, out: Path) -> None:
        with no_training():
            finetune_on(world, _in(config, run))

    def compare(run: Path, out: Path) -> None:
        write_comparison({"arm": find_results(run)}, out)

    compared = base / "compared"
    make_run(compared, "nt/H3", [0.5, 0.6])
    make_predictions(compared, [0, 1, 0, 1] * 10, [[0, 1, 1, 1] * 10, [0, 1, 0, 0] * 10])
    readers: dict[str, Reader] = {"resume": resume, "verify": lambda run, out: verify_models(run)}
    return {
        "folds": Left(config.run.dir, readers | {"predict": predict, "compare": compare}),
        "unfinished fold": Left(stopped, readers),
        "classifier": Left(
            config.run.dir / "export",
            {"predict": predict, "verify": readers["verify"]},
            strict=frozenset({"predict", "verify"}),
        ),
        "compared": Left(compared, {"compare": compare}),
    }


def _interrupt(*_: object) -> None:
    raise InterruptedError


@pytest.fixture(scope="module")
def sharding(base: Path) -> dict[str, Left]:
    """A finished and an unfinished shard set."""
    folder = base / "sharding"
    folder.mkdir()
    rng = random.Random(0)
    for name in ("a", "b"):
        contigs = [f">{name}{number}\n{''.join(rng.choices('ACGTN', k=900))}\n" for number in range(4)]
        (folder / f"{name}.fa").write_text("".join(contigs))
    sources = [SequenceSource(str(folder / f"{name}.fa"), f"species-{name}") for name in ("a", "b")]
    build(folder / "set", sources, **SMALL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharding.build._index", _interrupt)
        with pytest.raises(InterruptedError):
            build(folder / "unfinished", sources, **SMALL)

    def read(path: Path, out: Path) -> None:
        shards = ShardSet.open(path)
        for name in list(shards.contigs)[:2]:
            shards.text(name, 0, 900)

    readers: dict[str, Reader] = {
        "read": read,
        "verify": lambda path, out: call(verify.main, [str(path), "--workers", "1"]),
        "stats": lambda path, out: call(stats.main, [str(path)]),
        "build": lambda path, out: build(path, sources, **SMALL),
    }
    return {
        "set": Left(folder / "set", readers, SHARDS),
        "unfinished": Left(folder / "unfinished", {"build": readers["build"]}, SHARDS),
    }


@pytest.fixture(scope="module")
def downloads(base: Path) -> Iterator[dict[str, Left]]:
    """A downloaded genome, an interrupted download, and the files of a task."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.add(
        "ucsc/goldenPath/sacCer3/bigZips/sacCer3.fa.gz", b"x" * 300_000, "ucsc/goldenPath/sacCer3/bigZips/md5sum.txt"
    )
    server.files |= {"H3/train.fna": b">r|0\nACGT\n>s|1\nACGT\n", "H3/test.fna": b">t|0\nAAAA\n>u|1\nACCA\n"}
    task, url = find_task("H3"), f"http://127.0.0.1:{server.server_port}"
    task = replace(task, files=tuple(replace(file, url=f"{url}/H3/{file.name}") for file in task.files))
    registry = Registry(server.mirrors)
    fetch(registry, "sacCer3", base / "fetched", retry=QUICK)
    server.breaks = 1
    with pytest.raises(UserError):
        fetch(registry, "sacCer3", base / "interrupted", retry=QUICK)
    fetch_task(task, base / "tasks", QUICK)

    def again(path: Path, out: Path) -> None:
        fetch(registry, "sacCer3", path, retry=QUICK)

    yield {
        "fetched": Left(base / "fetched", {"fetch": again}),
        "interrupted": Left(base / "interrupted", {"fetch": again}),
        "task": Left(base / "tasks", {"fetch": lambda path, out: fetch_task(task, path, QUICK)}),
    }
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def sweeping(base: Path) -> dict[str, Left]:
    """A sweep with finished folds, one fold that ASHA stopped, and settings that are not tried yet."""
    pytest.importorskip("ray")
    from ldarnet.jobs.trial import command_of
    from ldarnet.sweeps import run_sweep
    from ldarnet.sweeps.driver import Driver

    folder = base / "sweeping"
    folder.mkdir()
    search = {"kind": "optuna", "trials": 3, "folds": [0], "asha": {"grace": 1, "reduction": 2}}
    config = sample_sweep.load(sample_sweep.write(folder, search=search))

    def run_trials(driver: Driver, *_: object) -> None:
        for number in range(5):
            job = driver.suggest(str(number))
            assert job is not None
            environment = {**os.environ, **job["variables"]}
            subprocess.run(command_of(job, environment), check=True, env=environment, capture_output=True)
            task, setting, fold = driver._trials[str(number)]
            task.mark(setting, fold, "finished", 0.5)
        driver._folders.mark_stopped(job["task"], job["setting"], job["fold"], 1)

    def resume(path: Path, out: Path) -> None:
        moved = config.model_copy(update={"sweep": config.sweep.model_copy(update={"dir": path})})
        with no_trials(), (out / "console").open("w") as file:
            run_sweep(moved, str(sample_sweep.STUB), sample_sweep.Console(file=file))

    with no_trials(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Driver, "run", run_trials)
        run_sweep(config, str(sample_sweep.STUB), sample_sweep.Console(file=(folder / "console").open("w")))

    return {"sweep": Left(folder / "out", {"resume": resume})}


LEFT = {
    "pretraining": ("stopped", "finished", "checkpoint", "export"),
    "finetuning": ("folds", "unfinished fold", "classifier", "compared"),
    "sharding": ("set", "unfinished"),
    "downloads": ("fetched", "interrupted", "task"),
    "sweeping": ("sweep",),
}
every_folder = pytest.mark.parametrize(
    ("fixture", "name"), [(fixture, name) for fixture, names in LEFT.items() for name in names]
)


@every_folder
def test_readers_survive_a_sample_of_malformed_files(fixture, name, request, tmp_path):
    left = request.getfixturevalue(fixture)[name]
    rng = random.Random(name)
    found = list(left.cases(tmp_path / "area" / "absolute"))
    for case in rng.sample(found, min(SAMPLE, len(found))):
        kind = rng.choice(list(left.readers))
        assert problem(left, kind, case, tmp_path / "area") is None, f"{kind}: {case}"


@pytest.mark.slow
@every_folder
def test_readers_survive_a_larger_sample_of_malformed_files(fixture, name, request, tmp_path):
    left = request.getfixturevalue(fixture)[name]
    found: dict[str, str] = {}
    every = list(left.cases(tmp_path / "area" / "absolute"))
    for case in random.Random(f"larger {name}").sample(every, min(LARGER_SAMPLE, len(every))):
        for kind in left.readers:
            if (wrong := problem(left, kind, case, tmp_path / "area")) is not None:
                found.setdefault(f"{kind}: {case.file}: {wrong[0]}", f"{kind}: {case}: {wrong[1]}")
    assert not found, "\n".join(found.values())


@every_folder
def test_readers_accept_what_the_programs_left(fixture, name, request, tmp_path):
    """A reader that always fails would pass the tests of malformed files."""
    left = request.getfixturevalue(fixture)[name]
    for kind, reader in left.readers.items():
        copy, out = tmp_path / kind / "copy", tmp_path / kind / "out"
        copy_folder(left.folder, copy)
        out.mkdir()
        reader(copy, out)


CHECKPOINTS = {
    "pretraining": ("stopped", "checkpoints/step-00000002"),
    "finetuning": ("unfinished fold", "fold0/last/00000007"),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("fixture", CHECKPOINTS)
def test_resuming_refuses_non_finite_tensors(fixture, name, value, request, tmp_path):
    (left, checkpoint), run = CHECKPOINTS[fixture], tmp_path / "run"
    left = request.getfixturevalue(fixture)[left]
    copy_folder(left.folder, run)
    change_tensors(run / checkpoint / name, lambda tensor: tensor.index_fill(0, torch.tensor([0]), value))
    with pytest.raises(
        UserError, match=f"{name}: tensor '.*' contains NaN or infinity; restore it, or delete "
    ) as error:
        left.readers["resume"](run, tmp_path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_resuming_with_deepspeed_refuses_moments_that_do_not_fit(
    stage, pretraining, pretraining_config, world, tmp_path
):
    training = pretraining_config.training.model_copy(update={"zero_stage": stage})
    changes = {"NaN": lambda tensor: tensor * float("nan"), "has shape": lambda tensor: tensor[:1]}
    for message, change in changes.items():
        run = tmp_path / message
        copy_folder(pretraining["stopped"].folder, run)
        change_tensors(run / "checkpoints/step-00000002/optimizer.safetensors", change)
        with pytest.raises(UserError, match=f"optimizer.safetensors: tensor 'exp_avg_sq.*{message}"):
            train_on(world, _in(pretraining_config, run).model_copy(update={"training": training}))


def test_a_pretraining_run_with_malformed_lines_resumes_exactly(pretraining, pretraining_config, world, tmp_path):
    finished, run = pretraining["finished"].folder, tmp_path / "run"
    copy_folder(pretraining["stopped"].folder, run)
    damage_lines([run / name for name in ("metrics.jsonl", "boundaries.jsonl", "starts.jsonl")])
    (run / "mlflow.json").write_bytes(b"\0")
    (run / "checkpoints/pointers.json").unlink()
    assert train_on(world, _in(pretraining_config, run)).finished
    for name in ("model.safetensors", "optimizer.safetensors"):
        file = Path("checkpoints/step-00000004") / name
        assert (run / file).read_bytes() == (finished / file).read_bytes()
    losses = [
        [(line["step"], line["mlm_loss"]) for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (run, finished)
    ]
    assert losses[0] == losses[1]


def test_a_fold_with_malformed_lines_resumes_exactly(finetuning, finetuning_config, world, tmp_path):
    finished, run = finetuning["folds"].folder, tmp_path / "run"
    copy_folder(finetuning["unfinished fold"].folder, run)
    damage_lines([run / "fold0/metrics.jsonl"])
    assert finetune_on(world, _in(finetuning_config, run)).finished
    for file in ("fold0/best/model.safetensors", "fold0/predictions.tsv"):
        assert (run / file).read_bytes() == (finished / file).read_bytes()
    assert planted.lines(run) == planted.lines(finished)


def damage_lines(files: list[Path]) -> None:
    """Insert a damaged line before the last line, and append an incomplete line."""
    for file in files:
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join([*lines[:-1], b"\0\xff{]\n", lines[-1], b'{"step": ']))
