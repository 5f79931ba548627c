"""Shards of random bases, and ranks that run as processes on this machine and communicate over gloo."""

import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ldarnet.runtime.ports import free_port
from sharding.build import build

ROOT = Path(__file__).parents[2]
WORKERS = ROOT / "tests/workers"
PROGRAM = ROOT / "launch/pretrain.py"
TIMEOUT_SECONDS = 300

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.support.rank_imports", "tests.support.ranks"])

TINY: dict[str, dict[str, Any]] = {
    "model": {"preset": "tiny"},
    "data": {"length": 64},
    "training": {"steps": 10, "batch": 8, "accumulation": 2, "timeout_minutes": 2},
    "checkpoint": {"every": 4, "keep": 2},
    "validation": {"every": 5, "windows": 10},
    "tracking": {"mlflow": False},
}
LEARNING: dict[str, dict[str, Any]] = {"model": {"target_ratio": 2, "ratio_weight": 1}, "optimizer": {"lr": 0.02}}
"""Configuration changes that make losses and chunk boundaries change visibly within 10 steps."""


def _environment(**variables: str) -> dict[str, str]:
    """Environment of a rank: that of this process, on the CPU, with one thread."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
        **variables,
    }


class Rank(_FORKSERVER.Process):
    """A process that runs a script as `python SCRIPT ARGUMENTS` would.

    A fork server that has imported the training programs starts it, which saves about seven CPU seconds per rank.
    """

    def __init__(
        self, script: Path, arguments: list[str], environment: dict[str, str], folder: Path, cwd: Path
    ) -> None:
        self.output, self.errors = folder / "stdout", folder / "stderr"
        self.output.touch()
        self.errors.touch()
        super().__init__(target=_run_script, args=(script, arguments, environment, cwd, self.output, self.errors))

    def poll(self) -> int | None:
        """Exit status; None while the process runs."""
        return self.exitcode

    def wait(self) -> int | None:
        """Wait for the process and return its exit status."""
        self.join(TIMEOUT_SECONDS)
        return self.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        assert self.pid is not None
        if self.is_alive():
            os.kill(self.pid, number)


def _run_script(
    script: Path, arguments: list[str], environment: dict[str, str], cwd: Path, output: Path, errors: Path
) -> None:
    for descriptor, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    multiprocessing.set_start_method("fork", force=True)  # the default of a new Python process on Linux
    sys.argv, sys.path[:0] = [str(script), *arguments], [str(script.parent)]
    runpy.run_path(str(script), run_name="__main__")


class Ranks:
    """The ranks of one job.

    Args:
        launched: whether to set the environment variables of a launcher. If False, the process is a single program.
        variables: environment variables that replace those of this process and of the launcher.
    """

    def __init__(
        self,
        world: int,
        script: Path,
        arguments: list[str],
        cwd: Path = ROOT,
        *,
        launched: bool = True,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.processes = []
        port = str(free_port())
        for rank in range(world):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment = _environment(**(place if launched else {}) | dict(variables or {}))
            folder = Path(self._folder.name) / str(rank)
            folder.mkdir()
            self.processes.append(Rank(script, arguments, environment, folder, cwd))
        with pytest.MonkeyPatch.context() as patch:  # the imports of the fork server depend on these variables
            for name, value in _environment().items():
                patch.setenv(name, value)
            for process in self.processes:
                process.start()

    def wait(self) -> list[tuple[int, str, str]]:
        """Wait for all ranks and return the exit status, stdout and stderr of each."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        try:
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
                assert process.exitcode is not None, "\n".join(rank.errors.read_text() for rank in self.processes)
            return [(rank.exitcode or 0, rank.output.read_text(), rank.errors.read_text()) for rank in self.processes]
        finally:
            self.kill()

    def succeed(self) -> str:
        """Wait, check that every rank exits with status 0, and return the stdout of rank 0."""
        results = self.wait()
        for status, output, errors in results:
            assert status == 0, output + errors
        return results[0][1]

    def kill(self) -> None:
        """Kill ranks that are still running with SIGKILL, and remove their output."""
        for process in self.processes:
            process.kill()
            process.join()
        self._folder.cleanup()


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., Ranks]:
    """Start `world` ranks of a script (by default the training program) with the same arguments and variables."""

    def start(world: int, *arguments: object, script: Path = PROGRAM, launched: bool = True, **variables: str) -> Ranks:
        return Ranks(world, script, [str(argument) for argument in arguments], launched=launched, variables=variables)

    return start


def build_shards(folder: Path, seed: int) -> Path:
    """A shard set of 40,000 random bases for training and 2,000 for validation."""
    bases = (
        np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(seed).integers(0, 4, 42_000)].tobytes().decode()
    )
    return shards_from(folder, f">first\n{bases[:40_000]}\n>second\n{bases[40_000:]}\n")


def shards_from(folder: Path, text: str) -> Path:
    """A shard set of FASTA text with contigs `first` (training) and `second` (validation)."""
    fasta, shards = folder / "contigs.fa", folder / "shards"
    fasta.write_text(text)
    build(shards, [fasta], contig_splits={"valid": ["second"]})
    return shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a shard set of random bases."""
    return build_shards(tmp_path_factory.mktemp("data"), seed=0)


@pytest.fixture
def shards_of(tmp_path: Path) -> Callable[[str], Path]:
    """Build a shard set of FASTA text with contigs `first` (training) and `second` (validation)."""
    return lambda text: shards_from(tmp_path, text)


@pytest.fixture(scope="session")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a shard set of other random bases than `shards`."""
    return build_shards(tmp_path_factory.mktemp("other-data"), seed=1)


def write_config(folder: Path, shards: Path, **changes: dict[str, Any]) -> Path:
    """Write the configuration of a run of a tiny model for 10 steps.

    Args:
        folder: existing folder for config.yaml; the run folder is `run` in it.
        changes: keys to add or override, by section.
    """
    tree = TINY | {"run": {"dir": str(folder / "run")}, "data": TINY["data"] | {"shards": str(shards)}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree | {name: tree.get(name, {}) | values for name, values in changes.items()}))
    return path


@pytest.fixture
def config_file(tmp_path: Path, shards: Path) -> Path:
    """Configuration of a run of 10 steps in the folder of the test."""
    return write_config(tmp_path, shards)
