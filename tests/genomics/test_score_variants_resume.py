"""Interrupted `ldarnet score-variants`: the same command resumes, and other settings are an error."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldarnet.errors import UserError
from ldarnet.genomics.variants import run, unfinished
from tests.support.genomics import random_bases, save, write_genome

ROOT = Path(__file__).parents[2]
CONTIGS = {"chr1": random_bases(400), "chr2": random_bases(300, 1)}
BATCH = 4
SLOW = """
import sys, time
from ldarnet.genomics.variants import run, unfinished
unfinished.PART_SECONDS = 0.0
read_pairs = run.read_pairs
def slow(*arguments):
    time.sleep(0.2)
    return read_pairs(*arguments)
run.read_pairs = slow
from ldarnet.cli import main
sys.argv = ["ldarnet", *sys.argv[1:]]
main()
"""
"""A command that saves scores after every batch, and leaves time to kill it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def command(model, tmp_path):
    """Arguments for 60 substitutions, deletions and symbolic alleles on two contigs."""
    genome = write_genome(tmp_path / "g.fa", CONTIGS)
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for contig, bases in CONTIGS.items():
        for number in range(30):
            at = 5 + 9 * number
            ref = bases[at : at + 2] if number % 7 == 3 else bases[at]
            alt = "<DEL>" if number % 11 == 5 else bases[at] if len(ref) == 2 else "ACGT"["ACGT".index(ref) - 1]
            lines.append(f"{contig}\t{at + 1}\t.\t{ref}\t{alt}\t.\t.\t.")
    (tmp_path / "v.vcf").write_text("\n".join(lines) + "\n")

    def arguments(name: str, *options: object) -> list[object]:
        files = ["--out", tmp_path / f"{name}.vcf", "--out", tmp_path / f"{name}.parquet"]
        settings = ["--window", 32, "--batch", BATCH, "--device", "cpu"]
        return ["score-variants", model, tmp_path / "v.vcf", genome, *files, *settings, *options]

    return arguments


def kill_after_parts(arguments: list[object], folder: Path, parts: int) -> None:
    """Run the slow command, and kill it once it has written some files of scores."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, *map(str, arguments)], cwd=ROOT)
    try:
        while len(list(folder.glob("*.f64"))) < parts:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL


def contents(folder: Path, name: str) -> list[bytes]:
    return [(folder / f"{name}.{suffix}").read_bytes() for suffix in ("vcf", "parquet")]


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """List that gains the number of alleles of each batch that is scored from now on."""
    read_pairs, batches = run.read_pairs, []

    def counted(model, pairs):
        batches.append(len(pairs))
        return read_pairs(model, pairs)

    monkeypatch.setattr(run, "read_pairs", counted)
    return batches


def test_a_killed_run_resumes_with_the_same_bytes(ldarnet, command, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    assert ldarnet(*command("whole"))[0] == 0
    folder = tmp_path / ".killed.vcf.partial"
    kill_after_parts(command("killed"), folder, 3)
    assert not (tmp_path / "killed.vcf").exists()
    (folder / ".000009.f64.1234abcd.partial").write_bytes(b"cut")  # a file that was being written
    saved = len(list(folder.glob("[0-9]*.f64")))

    batches = count_passes(monkeypatch)
    status, printed, errors = ldarnet(*command("killed"))
    assert status == 0 and "60 alleles" in printed
    assert errors == f"resuming with {saved * BATCH:,} of 60 alleles scored\n"
    assert len(batches) == sum(-(-(30 - 3) // BATCH) for _ in CONTIGS) - saved
    assert contents(tmp_path, "killed") == contents(tmp_path, "whole")
    assert not folder.exists() and not list(tmp_path.glob(".*"))


@pytest.fixture
def interrupted(ldarnet, command, tmp_path, monkeypatch) -> Path:
    """Folder of a run that failed in its fifth batch."""
    pytest.importorskip("pyarrow")
    read_pairs, calls = run.read_pairs, []

    def failing(model, pairs):
        calls.append(pairs)
        if len(calls) == 5:
            raise UserError("stop here")
        return read_pairs(model, pairs)

    with monkeypatch.context() as patch:
        patch.setattr(run, "read_pairs", failing)
        status, _, errors = ldarnet(*command("out"))
    assert status != 0 and "stop here" in errors
    return tmp_path / ".out.vcf.partial"


def test_scores_before_an_error_are_kept(ldarnet, command, interrupted, tmp_path):
    assert ldarnet(*command("whole"))[0] == 0
    status, _, errors = ldarnet(*command("out"))
    assert (status, errors) == (0, f"resuming with {4 * BATCH} of 60 alleles scored\n")
    assert contents(tmp_path, "out") == contents(tmp_path, "whole")


def test_an_error_before_the_first_scores_leaves_nothing(ldarnet, command, tmp_path, monkeypatch):
    def failing(*_):
        raise UserError("stop here")

    monkeypatch.setattr(run, "read_pairs", failing)
    assert ldarnet(*command("out"))[0] != 0
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("change", ["batch", "genome", "ldarnet", "model", "variants", "window"])
def test_other_settings_are_an_error(ldarnet, command, interrupted, tmp_path, monkeypatch, change):
    arguments, message = command("out"), f"unfinished scores with another {change}; run the earlier command again"
    before = {path.name: path.read_bytes() for path in interrupted.iterdir()}
    if change in ("batch", "window"):
        arguments, old = command("out", f"--{change}", 16), {"batch": BATCH, "window": 32}[change]
        message = f"unfinished scores with another {change} ({old}, now 16); run the earlier command again"
    elif change == "genome":
        write_genome(tmp_path / "g.fa", CONTIGS | {"chr2": CONTIGS["chr2"] + "A"})
    elif change == "ldarnet":
        monkeypatch.setattr("ldarnet.version.__version__", "9.9")
        message = "unfinished scores with another ldarnet ("
    elif change == "model":
        arguments[1] = save(tmp_path / "other", ratio_weight=0.5)
    else:
        path = tmp_path / "v.vcf"
        path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    status, _, errors = ldarnet(*arguments)
    assert status != 0 and errors.count("\n") == 1 and message in errors, errors
    assert {path.name: path.read_bytes() for path in interrupted.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"\0" * 41, json.dumps({"model": 1}).encode()])
@pytest.mark.parametrize("name", ["000000.f64", "key.json"])
def test_damaged_scores_are_one_error(ldarnet, command, interrupted, name, content):
    if name.endswith(".f64"):
        content += b"\xff" * 3
    (interrupted / name).write_bytes(content)
    status, _, errors = ldarnet(*command("out"))
    assert status != 0 and errors.count("\n") == 1
    assert f"{name}: damaged" in errors and f"delete {interrupted} and run the same command again" in errors, errors


def test_a_second_process_is_refused(ldarnet, command, tmp_path):
    key = unfinished.ScoringKey("0" * 64, "0" * 64, "0" * 64, 32, BATCH, "cpu", ["llr"], "1")
    with unfinished.UnfinishedScores(tmp_path / ".out.vcf.partial", key):
        status, _, errors = ldarnet(*command("out"))
    assert status != 0 and "another process scores to this file; wait for it" in errors
