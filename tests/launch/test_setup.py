"""`make setup` creates .venv; stubs replace python, nvidia-smi and uname."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
echo "$@" >>calls
case "$*" in
*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"+cpu") echo cpu >.venv/installed ;;
*"check torch=="*) [ -e .venv/installed ] || echo cuda >.venv/installed ;;
*torch.version.cuda*) grep -q cuda .venv/installed && echo 13.0 ;;
esac
exit 0
"""
"""Stub of Python; like pip, it keeps the build of torch that was installed first."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Folder with the files that `make setup` reads; the stubs report a Linux machine without a GPU."""
    for name in ("Makefile", "launch/setup_env.sh", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    stubs = {"python": PYTHON, "nvidia-smi": "#!/bin/sh\nexit 1\n", "uname": "#!/bin/sh\necho Linux\n"}
    for name, text in stubs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def make(project: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `make setup` with the given make variables."""

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        names = ("TORCH", "PYTHON", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        environment["PATH"] = f"{project / 'bin'}{os.pathsep}{environment['PATH']}"
        settings = [f"{name}={value}" for name, value in ({"PYTHON": project / "bin" / "python"} | variables).items()]
        command = ["make", "setup", *settings]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)

    return run


def installs(project: Path) -> int:
    return (project / "calls").read_text().count("install --disable-pip-version-check --editable")


def test_later_commands_keep_a_cuda_build(project, make):
    assert make(TORCH="cuda").returncode == 0
    assert make().returncode == make(TORCH="cuda").returncode == 0
    assert installs(project) == 1
    os.utime(project / ".venv" / "ready-auto", (0, 0))
    assert make().returncode == 0  # the stamp file is old, as after a change of pyproject.toml
    assert installs(project) == 2
    assert "+cpu" not in (project / "calls").read_text()


def test_without_a_gpu_a_new_environment_gets_the_cpu_build(project, make):
    assert make().returncode == make().returncode == make(TORCH="cpu").returncode == 0
    assert installs(project) == 1
    assert "+cpu" in (project / "calls").read_text()


def test_a_request_for_another_build_is_rejected_and_changes_nothing(project, make):
    assert make().returncode == 0
    refused = make(TORCH="cuda")
    assert refused.returncode != 0
    assert "TORCH=cuda: .venv has the cpu build of torch; remove .venv" in refused.stderr
    assert make().returncode == 0
    assert installs(project) == 1
    shutil.rmtree(project / ".venv")
    assert make(TORCH="cuda").returncode == 0


@pytest.mark.parametrize(("build", "other"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_an_older_environment_without_a_record_keeps_its_build(project, make, build, other):
    assert make(TORCH=build).returncode == 0
    for name in ("torch-build", "ready-auto", f"ready-{build}"):
        (project / ".venv" / name).unlink()
    assert f"TORCH={other}: .venv has the {build} build of torch; remove .venv" in make(TORCH=other).stderr
    assert make().returncode == 0
    assert ("+cpu" in (project / "calls").read_text()) == (build == "cpu")


def test_an_unknown_build_is_rejected(make):
    assert "TORCH=rocm: unknown torch build; use auto, cpu or cuda" in make(TORCH="rocm").stderr
