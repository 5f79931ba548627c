"""Files in `benchmarks/results`: their names, the provenance section, and atomic writes."""

import argparse
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from ldarnet.doctor import examine_machine
from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path

RESULTS = Path(__file__).parent / "results"
NAMED_PACKAGES = ("numpy", "transformers", "deepspeed", "mamba-ssm", "causal-conv1d", "flash-attn")


def add_result_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options `--name`, `--note` and `--out` of a program that writes a results file."""
    parser.add_argument("--name", default=name, help="the results file is YYYY-MM-DD-NAME.md (default: %(default)s)")
    parser.add_argument("--note", default="", help="text at the top of the results file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results file")


def provenance(command: str) -> str:
    """Markdown list of date, commit, hardware, package versions and command."""
    info = examine_machine()
    machine, build = info["machine"], info["torch"]
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_gib']:.0f} GiB)" for gpu in build["gpus"]) or "no GPU"
    versions = {
        "Python": info["python"],
        "ldarnet": info["ldarnet"],
        "torch": build["version"],
        "CUDA": build["cuda"],
    }
    versions |= {
        package["name"]: package["version"] for package in info["packages"] if package["name"] in NAMED_PACKAGES
    }
    facts = {
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Commit": commit(),
        "Hardware": f"{processor()}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB memory; {gpus}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "Command": f"`{command}`",
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def commit(checkout: Path = RESULTS.parent) -> str:
    """Abbreviated commit hash, with a note about any uncommitted changes; ``unknown`` if this is no git repository."""
    try:
        name, changes = (
            subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + (" with uncommitted changes" if changes else "")


def processor() -> str:
    """CPU model as reported by the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return examine_machine()["machine"]["system"]
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def result_file(name: str, folder: Path = RESULTS) -> Path:
    """Return the path of a new results file, `YYYY-MM-DD-<name>.md`, and create its folder.

    Raises:
        UserError: the file already exists; results are never overwritten.
    """
    file = folder / f"{datetime.now(UTC):%Y-%m-%d}-{name}.md"
    if file.exists():
        raise UserError(f"{file}: already exists; choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    return file


def write_result(name: str, text: str, folder: Path = RESULTS) -> Path:
    """Write `YYYY-MM-DD-<name>.md` atomically and return its path.

    Raises:
        UserError: the file already exists (results are never overwritten), or the disk is full.
    """
    file = result_file(name, folder)
    write_text(file, text)
    return file


def write_text(file: Path, text: str) -> None:
    """Write a file atomically."""
    with atomic_path(file) as partial:
        partial.write_text(text, encoding="utf-8")
