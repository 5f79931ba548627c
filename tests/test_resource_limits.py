"""Full disk, file size limit (ulimit -f) and full /dev/shm: commands report one line and leave no incomplete file."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, save_published_checkpoint
from ldarnet.data import ShardSet
from ldarnet.data.index import Index
from ldarnet.io.files import NotWritableError
from ldarnet.model import write_model
from sharding.build import build

ROOT = Path(__file__).parents[1]
COMMAND = ("-c", "from ldarnet.cli import main; main()")
LOADER = """
import sys
from ldarnet.data import Masking, ShardSet, Windows, training_steps
from ldarnet.program import exit_status
def work():
    windows = Windows(ShardSet.open(sys.argv[1]), "train", 64)
    options = {"micro_batch": 4, "accumulation": 1, "rank": 0, "world": 1, "first_step": 0, "last_step": 9}
    return len(list(training_steps(windows, Masking(), workers=2, **options)))
sys.exit(exit_status(work, name="loader"))
"""
FULL_SHM = """
mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 4096 /dev/zero > /dev/shm/file && exec "$@"
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Folder with a model, a published checkpoint, a genome, a shard set and a table of rows."""
    folder = tmp_path_factory.mktemp("inputs")
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    write_model(model, folder / "model")
    save_published_checkpoint(model, folder / "model.pt")
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), 20_000)) for _ in range(3)]
    (folder / "genome.fa").write_text("".join(f">chr{at}\n{bases}\n" for at, bases in enumerate(sequences)))
    build(folder / "shards", [folder / "genome.fa"], contig_splits={"valid": ["chr2"]})
    rows = [f"{sequences[at % 3][10 * at : 10 * at + 60]},{at % 2}" for at in range(60)]
    (folder / "rows.csv").write_text("\n".join(["sequence,label", *rows, ""]))
    return folder


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


CASES = {
    "export": ("export model {out}", "out"),
    "convert to .pt": ("convert model {out}.pt", "out.pt"),
    "convert from .pt": ("convert model.pt {out}", "out"),
    "shard": ("shard --out {out} genome.fa --split valid=chr2", "out/index.json"),
    "unshard": ("unshard shards --out {out}.fa", "out.fa"),
    "unshard, compressed": ("unshard shards --out {out}.fa.gz", "out.fa.gz"),
    "unshard to 2bit": ("unshard shards --out {out}.2bit", "out.2bit"),
    "stats": ("stats shards --workers 1 --out {out}", "out/stats.json"),
}


@pytest.mark.parametrize("size", [40, 1500])
@pytest.mark.parametrize("case", CASES)
def test_a_file_size_limit_is_one_line_and_the_command_can_be_repeated(
    ldarnet, inputs, tmp_path, monkeypatch, case, size
):
    monkeypatch.chdir(inputs)
    words, result = CASES[case]
    arguments = words.format(out=tmp_path / "out").split()
    with file_size_limit(size):
        status, _, errors = ldarnet(*arguments)
    assert (status, errors.count("\n")) == (1, 1), errors
    assert errors.startswith(f"error: file size limit exceeded while writing {tmp_path / 'out'}")
    assert not (tmp_path / result).exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name.startswith(".")]
    assert ldarnet(*arguments).status == 0
    assert (tmp_path / result).exists()


@pytest.mark.parametrize("size", [100, 3000, 100_000])
def test_a_table_of_the_index_is_complete_or_absent(inputs, tmp_path, size):
    index = ShardSet.open(inputs / "shards").index
    rows = np.zeros((10_000, 2), np.int64)
    large = Index(index.tool, index.recipe, index.contigs, index.splits, rows, index.blocks, index.shards)
    with file_size_limit(size), pytest.raises(NotWritableError, match="file size limit exceeded while writing"):
        large.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"contigs.npy"}


def program(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    environment.pop("PYTHONUNBUFFERED", None)  # buffered output is written after the command
    command = [*map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, check=False, **options)


@pytest.mark.parametrize("arguments", [["tasks"], ["--help"], ["stats", "shards", "--workers", "1"]], ids=" ".join)
def test_a_full_standard_output_is_one_line(inputs, arguments):
    with Path("/dev/full").open("w") as full:
        ended = program(sys.executable, *COMMAND, *arguments, stdout=full, cwd=inputs)
    assert (ended.returncode, ended.stderr) == (
        1,
        "error: cannot write to standard output (No space left on device); redirect it to another disk\n",
    )


STOPPED = "import sys; from ldarnet.program import exit_status; sys.exit(exit_status(lambda: print() or 75, name='x'))"


@pytest.mark.parametrize(
    ("redirection", "errors"), [("> /dev/full", 1), (">&-", 0), ("| true", 0), ("> /dev/null", 0)], ids=str
)
def test_the_exit_status_does_not_depend_on_standard_output(redirection, errors):
    script = f'set -o pipefail; "$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}'
    ended = program("bash", "-c", script, sys.executable, STOPPED, stdout=subprocess.DEVNULL)
    assert (ended.returncode, ended.stderr.count("\n")) == (75, errors), ended.stderr


SHM = {
    "shard": ("--workers", (*COMMAND, "shard", "--out", "{out}", "genome.fa", "a=genome.fa", "--workers", "2")),
    "verify": ("--workers", (*COMMAND, "verify", "shards", "--workers", "2")),
    "stats": ("--workers", (*COMMAND, "stats", "shards", "--workers", "2")),
    "training": ("data.workers", ("-c", LOADER, "shards")),
}


@pytest.mark.parametrize("case", SHM)
def test_a_full_dev_shm_is_one_line(inputs, tmp_path, case):
    if program("unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm").returncode:
        pytest.skip("mounting a file system in a private namespace needs root")
    option, words = SHM[case]
    arguments = [word.replace("{out}", str(tmp_path / "out")) for word in words]
    isolated = ("unshare", "-m", "sh", "-c", FULL_SHM, "sh", sys.executable, *arguments)
    ended = program(*isolated, cwd=inputs, timeout=120, stdout=subprocess.DEVNULL)
    assert (ended.returncode, ended.stderr) == (
        1,
        f"error: {option}: no space left on /dev/shm, which worker processes need for their locks; free some space "
        "there, or enlarge it (docker: --shm-size)\n",
    )


TRAINING = {
    "pretrain": "data.shards=shards data.length=64 model.preset=tiny training.steps=2 training.batch=2",
    "finetune": "data.train=rows.csv model.preset=tiny training.epochs=1 folds.only=[0]",
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [6000, 12_000])
@pytest.mark.parametrize("command", TRAINING)
def test_training_with_a_file_size_limit_ends_with_one_error(inputs, tmp_path, command, size):
    config = {"pretrain": "quickstart", "finetune": "classify"}[command]
    arguments = [command, "--config", config, *TRAINING[command].split(), f"run.dir={tmp_path / 'run'}"]
    ended = program(
        *(sys.executable, *COMMAND, *arguments, "tracking.mlflow=false"),
        stdout=subprocess.PIPE,
        cwd=inputs,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: file size limit exceeded while writing ")
    assert not list(tmp_path.rglob("*.safetensors"))
