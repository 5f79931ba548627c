"""The files around the code: what the README says can be done, what is shipped, and what must not be in the tree."""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from ldarnet.cli import COMMANDS
from ldarnet.doctor import KERNEL_PINS
from ldarnet.ops import backends_of, operations
from ldarnet.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GUIDES = ("README.md", "CONTRIBUTING.md")
MADE_HERE = {".git", ".venv", "runs", "__pycache__", ".hypothesis", ".pytest_cache", ".ruff_cache", ".mypy_cache"}


def tree() -> list[Path]:
    """Every file of the project, without what its tools make."""
    kept = [path for path in ROOT.iterdir() if path.name not in MADE_HERE]
    paths = [path for place in kept for path in ([place] if place.is_file() else place.rglob("*")) if path.is_file()]
    return [path for path in paths if not MADE_HERE & set(path.relative_to(ROOT).parts)]


@pytest.mark.parametrize("guide", GUIDES)
def test_every_make_target_that_is_named_exists(guide: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^ *|[`$&] ?)make ([a-z-]+)", (ROOT / guide).read_text(), re.MULTILINE))
    assert {"quickstart", "test"} <= targets
    assert named
    assert named <= targets


@pytest.mark.parametrize("guide", GUIDES)
def test_every_file_that_is_named_exists(guide: str) -> None:
    text = (ROOT / guide).read_text()
    links = set(re.findall(r"\]\(([^)#:]+)\)", text))
    commands = set(re.findall(r"\b((?:launch|configs|benchmarks|sharding)/[\w/.-]+\.\w+)", text))
    assert links
    assert not {path for path in links | commands if not (ROOT / path).exists()}


def test_every_module_that_is_run_by_name_exists() -> None:
    named = {
        name
        for guide in GUIDES
        for name in re.findall(r"python -m ((?:sharding|ldarnet)[\w.]*)", (ROOT / guide).read_text())
    }
    assert named
    assert not {name for name in named if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()}


def test_every_subcommand_that_is_named_exists() -> None:
    named = {
        word
        for guide in GUIDES
        for word in re.findall(r"(?:^|`|bin/)ldarnet ([a-z-]+)", (ROOT / guide).read_text(), re.M)
    }
    assert named
    assert named <= {*COMMANDS}


def test_the_tree_holds_no_absolute_path_of_a_machine_and_no_package_host() -> None:
    # Written in parts, so that this file does not hold them itself.
    folders = "|".join(("home", "root", "work", "Users", "tmp", "scratch"))
    hosts = r"|".join((r"pypi\.org", r"pythonhosted\.org", r"download\.pytorch\.org", r"conda\.anaconda\.org"))
    forbidden = re.compile(rf"(?<![\w.}}~\]])/(?:{folders})/\w|{hosts}|--(?:extra-)?index-url|--find-links")
    found = []
    for path in tree():
        content = path.read_bytes()
        if path == Path(__file__) or b"\0" in content:
            continue
        for number, line in enumerate(content.decode().splitlines(), 1):
            if match := forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert not found


def test_the_bundled_genome_is_small_and_tells_where_it_is_from() -> None:
    files = [path for path in (ROOT / "sharding" / "genomes").rglob("*") if path.is_file()]
    genomes = [path for path in files if ".fa" in path.suffixes]
    assert genomes
    assert sum(path.stat().st_size for path in genomes) <= 600_000
    for genome in genomes:
        source = (genome.parent / "SOURCE.md").read_text()
        assert hashlib.sha256(genome.read_bytes()).hexdigest() in source
        assert all(word in source for word in ("source", "version", "licence"))


def test_pins_agree_wherever_they_are_written() -> None:
    extra = dict(requirement.split("==") for requirement in PROJECT["optional-dependencies"]["kernels"])
    assert extra == KERNEL_PINS
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert dict(re.findall(r'"([\w-]+)==([\w.]+)"', dockerfile)).items() >= KERNEL_PINS.items()
    set_up = (ROOT / "launch" / "setup_env.sh").read_text()
    (torch_version,) = re.findall(r"^TORCH_VERSION=(.+)$", set_up, re.MULTILINE)
    assert f'"torch=={torch_version}"' in dockerfile
    # What is said of a missing kernel names the extra, and so the versions that are compared above.
    told = {backend.install for operation in operations() for backend in backends_of(operation).values()}
    assert {text for text in told if "pip" in text} == {'pip install --no-build-isolation ".[kernels]"'}


def test_the_changelog_tells_of_this_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_the_wheel_works_away_from_the_source(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--no-deps", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"ldarnet-{__version__}-")
    names = ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ldarnet", "sharding", f"ldarnet-{__version__}.dist-info"}
    for path in (ROOT / "sharding" / "genomes").rglob("*"):
        if path.is_file() and not MADE_HERE & set(path.parts):
            assert path.relative_to(ROOT).as_posix() in names
    subprocess.run([*pip, "install", *quiet, "--target", tmp_path / "site", wheel], check=True)
    program = [sys.executable, "-P", "-m", "sharding.build", "--out", tmp_path / "shards"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    subprocess.run(program, check=True, cwd=tmp_path, env=environment, capture_output=True)
    assert (tmp_path / "shards" / "index.json").is_file()
