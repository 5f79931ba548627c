"""What all benchmark programs share: command line, exit status, and files in `benchmarks/results`."""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from ldarnet.doctor import examine_machine
from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path, make_folder
from ldarnet.program import OK, exit_status

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NAMED_PACKAGES = ("numpy", "transformers", "deepspeed", "mamba-ssm", "causal-conv1d", "flash-attn")


class ProgramParser(argparse.ArgumentParser):
    """Command line of a program; the first paragraph of the program's docstring is the help text.

    The parsed options include `command`, the command line for `provenance`. A wrong command line is a `UserError`.
    """

    def __init__(self, program: str, docstring: str | None) -> None:
        description = (docstring or "").partition("\n\n")[0]
        super().__init__(prog=f"python -m benchmarks.{program}", description=description)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an option. Its help text states the default, unless there is none or the text states it already."""
        default, text = settings.get("default"), settings.get("help") or ""
        if default not in (None, "", [], argparse.SUPPRESS) and "default" not in text and text != argparse.SUPPRESS:
            shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
            settings["help"] = f"{text} (default: {shown})"
        return super().add_argument(*names, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command line and record it in the option `command`."""
        words = list(sys.argv[1:] if args is None else args)
        options, rest = super().parse_known_args(words, namespace)
        options.command = shlex.join([*self.prog.split(), *words])
        return options, rest

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` that points to the help text."""
        raise UserError(f"{message}; see {self.prog} --help")


def add_result_options(parser: argparse.ArgumentParser, name: str | None, *, prefix: str = "") -> None:
    """Add the options `--name`, `--note` and `--out` of a results file; `--name` is required if `name` is None."""
    text = f"the results file is YYYY-MM-DD-{prefix}NAME.md"
    parser.add_argument("--name", default=name, required=name is None, help=text)
    parser.add_argument("--note", default="", help="text at the top of the results file")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the results file (default: benchmarks/results)"
    )


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and exit; errors are reported on stderr."""
    sys.exit(exit_status(lambda: main() or OK, name="this program"))


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


def commit(checkout: Path = ROOT) -> str:
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

    Call this before measuring, so that no measurement is lost.

    Raises:
        UserError: the file already exists (results are never overwritten), or the folder cannot be created.
    """
    file = folder / f"{datetime.now(UTC):%Y-%m-%d}-{name}.md"
    if file.exists():
        raise UserError(f"{file}: already exists; choose another --name")
    make_folder(folder)
    return file


def heading(title: str, options: argparse.Namespace) -> str:
    """First lines of a results file: title, note and provenance."""
    return "\n\n".join(filter(None, (f"# {title}", options.note, provenance(options.command))))


def page(title: str, sections: Mapping[str, str], note: str) -> str:
    """Markdown page with a heading per section; the note is the first section."""
    found = {"Note": note, **sections} if note else sections
    return f"# {title}\n\n" + "\n".join(f"## {name}\n\n{text}\n" for name, text in found.items())


def write_result(file: Path, text: str) -> None:
    """Write a file atomically, and print its path."""
    write_text(file, text)
    print(f"wrote {file}")


def write_text(file: Path, text: str) -> None:
    """Write a file atomically."""
    with atomic_path(file) as partial:
        partial.write_text(text, encoding="utf-8")
