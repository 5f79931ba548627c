"""Shards of random bases, and real ranks: processes that meet over gloo on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKERS = ROOT / "tests/workers"
PROGRAM = ROOT / "launch/pretrain.py"
TIMEOUT_SECONDS = 300

TINY = {
    "model": {"preset": "tiny"},
    "data": {"length": 64},
    "training": {"steps": 10, "batch": 8, "accumulation": 2, "timeout_minutes": 2},
    "checkpoint": {"every": 4, "keep": 2},
    "validation": {"every": 5, "windows": 10},
    "tracking": {"mlflow": False},
}


def _rank_environment(rank: int, world: int, port: int) -> dict[str, str]:
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
    }


class Ranks:
    """Processes of one job."""

    def __init__(self, world: int, script: Path, arguments: list[str]) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(script), *arguments],
                env=_rank_environment(rank, world, port),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]

    def wait(self) -> list[tuple[int, str, str]]:
        """Status, standard output and standard error of each rank."""
        try:
            outputs = [process.communicate(timeout=TIMEOUT_SECONDS) for process in self.processes]
        finally:
            self.kill()
        return [(process.returncode, *output) for process, output in zip(self.processes, outputs, strict=True)]

    def succeed(self) -> str:
        """Wait, demand that all ranks end well, and return what rank 0 printed."""
        results = self.wait()
        for status, output, errors in results:
            assert status == 0, output + errors
        return results[0][1]

    def kill(self) -> None:
        """Kill what still runs, with SIGKILL."""
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., Ranks]:
    """Start `world` ranks of a script (by default the training program) with the same arguments."""

    def start(world: int, *arguments: object, script: Path = PROGRAM) -> Ranks:
        return Ranks(world, script, [str(argument) for argument in arguments])

    return start


def build_shards(folder: Path, seed: int) -> Path:
    """A shard set of 40,000 random bases for training and 2,000 for validation."""
    bases = (
        np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(seed).integers(0, 4, 42_000)].tobytes().decode()
    )
    return shards_from(folder, f">first\n{bases[:40_000]}\n>second\n{bases[40_000:]}\n")


def shards_from(folder: Path, text: str) -> Path:
    """A shard set of the contigs in FASTA, of which `second` is for validation."""
    fasta, shards = folder / "contigs.fa", folder / "shards"
    fasta.write_text(text)
    subprocess.run(
        [sys.executable, "-m", "sharding.build", "--out", str(shards), "--split", "valid=second", str(fasta)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shard set."""
    return build_shards(tmp_path_factory.mktemp("data"), seed=0)


@pytest.fixture
def shards_of(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a shard set of a FASTA text with contigs `first` and `second`, the latter for validation."""
    return lambda text: shards_from(tmp_path, text)


@pytest.fixture(scope="session")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    return build_shards(tmp_path_factory.mktemp("other-data"), seed=1)


@pytest.fixture
def config_file(tmp_path: Path, shards: Path) -> Path:
    """A configuration of a run of 10 steps in the test's own folder."""
    tree = {**TINY, "run": {"dir": str(tmp_path / "run")}}
    tree["data"] = {**TINY["data"], "shards": str(shards)}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path
