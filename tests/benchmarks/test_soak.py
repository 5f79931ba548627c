"""Invalid arguments of the soak test; tests/pretraining/test_soak.py runs a short soak test."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def soak(out, config):
    command = [sys.executable, "-m", "benchmarks.soak", "--out", out, "--config", config]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_existing_folder_is_rejected(tmp_path):
    (tmp_path / "precious").write_text("mine")
    ended = soak(tmp_path, "configs/pretrain/quickstart.yaml")
    assert ended.returncode == 1
    assert ended.stderr == f"error: {tmp_path}: already exists; remove it or choose another folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_invalid_configuration_creates_no_folder(tmp_path):
    ended = soak(tmp_path / "out", "not-there.yaml")
    assert ended.stderr.startswith("error: cannot read the configuration")
    assert not (tmp_path / "out").exists()
