"""Readers of malformed files end normally or with a one-line error, and write nothing outside their folders.

Every metadata file that runs, shard sets, downloads and sweeps leave behind is mutated; new files are covered
automatically. The tests take a sample with a fixed seed; set `LARGER_SAMPLE` to a large number to try all.
"""

import os
import random
import shutil
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ldarnet.comparison.compare import find_results, write_comparison
from ldarnet.config import load_config
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.finetuning.fold import FoldTraining
from ldarnet.finetuning.predict import Classifier
from ldarnet.finetuning.run import finetune_on
from ldarnet.genome.fasta import read_contigs
from ldarnet.genome.sources import SequenceSource
from ldarnet.io.retry import Retry
from ldarnet.model import load_backbone, load_model, write_model
from ldarnet.model.modeling import LDARNetForMaskedLM
from ldarnet.pretraining.results import write_results
from ldarnet.pretraining.run import train_on
from ldarnet.program import call
from ldarnet.report.page import write_report
from ldarnet.runtime.distributed import World
from ldarnet.sweeps import run_sweep
from ldarnet.tasks import find_task
from ldarnet.tasks.downloads import fetch_task
from sharding import stats, verify
from sharding.build import build
from sharding.fetch import fetch
from sharding.published import Registry
from tests.support import planted, sample_sweep
from tests.support.made_results import make_predictions, make_run
from tests.support.mutations import mutations
from tests.support.publishers import Server
from tests.support.ranks import LEARNING, write_config

ROOT = Path(__file__).parents[1] / "ldarnet"
SAMPLE = 8
"""Malformed files of each folder in the fast test."""
LARGER_SAMPLE = 40
"""Malformed files of each folder in the slow test."""
METADATA = {".json", ".jsonl", ".yaml", ".tsv"}
BINARY = {".npy", ".npz"}
SMALL = {"block": 700, "shard_size": 2000}
QUICK = Retry(max_attempts=1, first_wait=0.01)
MAX_MESSAGE = 1500

Reader = Callable[[Path, Path], Any]
"""Called with a copy of a folder, and with an empty folder for output."""


@dataclass(frozen=True)
class Left:
    """A folder that a program left behind, and its readers."""

    folder: Path
    readers: dict[str, Reader]
    suffixes: frozenset[str] = frozenset(METADATA)

    def files(self) -> list[Path]:
        """Paths of the metadata files, relative to the folder."""
        found = sorted(path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return [path for path in found if path.suffix in self.suffixes]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("left")


@pytest.fixture(scope="module")
def pretraining(base: Path, shards: Path, world: World) -> dict[str, Left]:
    """An interrupted and a finished pretraining run."""
    (base / "pretraining").mkdir()
    changes = {"training": {"steps": 4, "batch": 4, "timeout_minutes": 2}, "checkpoint": {"every": 2, "keep": 2}}
    config = load_config(
        write_config(base / "pretraining", shards, **LEARNING, **changes, validation={"every": 2, "windows": 2})
    )
    stopped = base / "pretraining" / "stopped"
    first = config.training.model_copy(update={"stop_after": 2})
    train_on(world, _in(config, stopped).model_copy(update={"training": first}))
    write_results(config, train_on(world, config))
    for folder in (config.run.dir, stopped):
        (folder / "mlflow.json").write_text('{"tracking_uri": null, "run_id": "0123"}\n')

    def resume(run: Path, out: Path) -> None:
        again = _in(config, run)
        result = train_on(world, again)
        if result.finished:
            write_results(again, result)

    readers: dict[str, Reader] = {
        "resume": resume,
        "report": lambda run, out: write_report(run, out / "report.html"),
        "export": lambda run, out: write_model(load_model(run, LDARNetForMaskedLM), out / "model"),
        "backbone": lambda run, out: load_backbone(run),
    }
    exported: dict[str, Reader] = {"model": lambda folder, out: load_model(folder, LDARNetForMaskedLM)}
    return {
        "stopped": Left(stopped, readers),
        "stopped, without resume": Left(stopped, {kind: readers[kind] for kind in ("report", "export", "backbone")}),
        "finished": Left(config.run.dir, readers),
        "export": Left(config.run.dir / "export", exported),
    }


def _in(config: Any, folder: Path) -> Any:
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": folder})})


@pytest.fixture(scope="module")
def finetuning(base: Path, world: World) -> dict[str, Left]:
    """An interrupted and a finished fine-tuning run."""
    training = {"epochs": 2, "batch": 16, "timeout_minutes": 2}
    config = planted.read_config(planted.write_config(base / "finetuning", training=training))
    finetune_on(world, config)
    stopped = base / "finetuning" / "stopped"
    step, taken = FoldTraining._step, []

    def stopping(fold: FoldTraining, epoch: int) -> bool:
        taken.append(step(fold, epoch))
        if len(taken) == 5:
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
        finetune_on(world, _in(config, run))

    def compare(run: Path, out: Path) -> None:
        write_comparison({"arm": find_results(run)}, out)

    compared = base / "compared"
    make_run(compared, "nt/H3", [0.5, 0.6])
    make_predictions(compared, [0, 1, 0, 1] * 10, [[0, 1, 1, 1] * 10, [0, 1, 0, 0] * 10])
    return {
        "folds": Left(config.run.dir, {"resume": resume, "predict": predict, "compare": compare}),
        "unfinished fold": Left(stopped, {"resume": resume}),
        "classifier": Left(config.run.dir / "export", {"predict": predict}),
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
    suffixes = frozenset(METADATA | BINARY)
    return {
        "set": Left(folder / "set", readers, suffixes),
        "unfinished": Left(folder / "unfinished", {"build": readers["build"]}, suffixes),
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
    """A finished sweep."""
    pytest.importorskip("ray")
    folder = base / "sweeping"
    folder.mkdir()
    config = sample_sweep.load(sample_sweep.write(folder))
    sample_sweep.run(folder / "sweep.yaml")

    def resume(path: Path, out: Path) -> None:
        moved = config.model_copy(update={"sweep": config.sweep.model_copy(update={"dir": path})})
        run_sweep(moved, str(sample_sweep.STUB), sample_sweep.Console(file=(out / "console").open("w")))

    def compare(path: Path, out: Path) -> None:
        write_comparison({"arm": find_results(path)}, out)

    return {"sweep": Left(folder / "out", {"resume": resume, "compare": compare})}


def cases(left: Left, absolute: Path) -> Iterator[tuple[Path, str, bytes]]:
    """Yield file, description and content of every malformed variant of every metadata file.

    Args:
        absolute: path outside the folder, which no reader may write.
    """
    for file in left.files():
        for name, content in mutations(left.folder / file, absolute):
            yield file, name, content


def problem(left: Left, kind: str, file: Path, content: bytes, area: Path) -> tuple[str, str] | None:
    """Call a reader on a copy of the folder with one malformed file.

    Args:
        kind: name of the reader.
        area: folder for the copy; it is deleted first.

    Returns:
        Kind and description of what went wrong. None if the reader ended normally or with a one-line error.
    """
    copy, out = area / "above" / "parent" / "copy", area / "above" / "out"
    shutil.rmtree(area, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copytree(left.folder, copy, symlinks=True)
    (copy / file).write_bytes(content)
    found = _problem(left.readers[kind], copy, out)
    written = [path for path in area.rglob("*") if path.is_file() and not {copy, out} & set(path.parents)]
    return ("writes", f"wrote {written} outside its folder") if written else found


def _problem(reader: Reader, copy: Path, out: Path) -> tuple[str, str] | None:
    """Kind and description of what went wrong; None if the reader ended normally or with a one-line error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(copy, out)
    except UserError as error:
        message = str(error)
        if "\n" in message or "\0" in message or not 10 < len(message) <= MAX_MESSAGE:
            return "message", f"not one line: {message[:300]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename.startswith(str(ROOT))] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        return f"{type(error).__name__} {place}", f"{type(error).__name__} in {place}: {str(error)[:200]}"
    return None


LEFT = {
    "pretraining": ("stopped, without resume", "export"),
    "finetuning": ("classifier", "compared"),
    "sharding": ("set", "unfinished"),
    "downloads": ("fetched", "interrupted", "task"),
}
every_folder = pytest.mark.parametrize(
    ("fixture", "name"),
    [
        pytest.param(fixture, name, marks=pytest.mark.slow if fixture == "sweeping" else ())
        for fixture, names in LEFT.items()
        for name in names
    ],
)


@every_folder
def test_readers_survive_a_sample_of_malformed_files(fixture, name, request, tmp_path):
    left = request.getfixturevalue(fixture)[name]
    rng = random.Random(name)
    found = list(cases(left, tmp_path / "area" / "absolute"))
    for file, variant, content in rng.sample(found, min(SAMPLE, len(found))):
        kind = rng.choice(list(left.readers))
        assert problem(left, kind, file, content, tmp_path / "area") is None, f"{kind}: {file}: {variant}"


@pytest.mark.slow
@every_folder
def test_readers_survive_a_larger_sample_of_malformed_files(fixture, name, request, tmp_path):
    left = request.getfixturevalue(fixture)[name]
    found: dict[str, str] = {}
    every = list(cases(left, tmp_path / "area" / "absolute"))
    for file, variant, content in random.Random(f"larger {name}").sample(every, min(LARGER_SAMPLE, len(every))):
        for kind in left.readers:
            if (wrong := problem(left, kind, file, content, tmp_path / "area")) is not None:
                found.setdefault(f"{kind}: {file}: {wrong[0]}", f"{kind}: {file}: {variant}: {wrong[1]}")
    assert not found, "\n".join(found.values())


@every_folder
def test_readers_accept_what_the_programs_left(fixture, name, request, tmp_path):
    """A reader that always fails would pass the tests of malformed files."""
    left = request.getfixturevalue(fixture)[name]
    for kind, reader in left.readers.items():
        copy, out = tmp_path / kind / "copy", tmp_path / kind / "out"
        shutil.copytree(left.folder, copy, symlinks=True)
        out.mkdir()
        reader(copy, out)
