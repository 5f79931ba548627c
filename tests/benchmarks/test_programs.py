"""What all benchmark programs share: help text, errors, results files, list of programs."""

import re
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.timed import timed
from ldarnet.errors import UserError
from ldarnet.program import FAILED

BENCHMARKS = Path(record.__file__).parent
MODULES = {
    file.parent.name if file.name == "__main__.py" else file.stem: ".".join(
        file.relative_to(record.ROOT).with_suffix("").parts
    )
    for file in sorted([*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("*/__main__.py")])
    if '__name__ == "__main__"' in file.read_text()
}
"""Module of each program."""
PROGRAMS = sorted(MODULES)
WITHOUT_FILE = ("context_model", "gpu_check", "scale", "soak")
ARGUMENTS = {
    "boundary_biology": ["yeast", "run", "--data", "."],
    "checkpoints": ["tiny"],
    "chunk_capacity": ["run"],
    "data": ["genome.fa"],
    "finetuning": ["--checkpoint", "run", "--tasks", "nt/H3", "--results", "."],
    "genomes": ["yeast=genome.fa"],
    "optimizers": ["--folder", "runs"],
    "precision": ["run"],
    "pretrain_quality": ["run"],
    "torch_compile": ["tiny"],
    "yeast_variants": ["run", "genome.fa", "genes.gff3"],
}
"""Required arguments, by program."""


def main_of(program):
    return import_module(MODULES[program]).main


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Restore the environment variables that `run_program` sets."""
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")


def ended(main, capsys):
    """Exit status and stderr of `run_program`."""
    with pytest.raises(SystemExit) as end:
        record.run_program(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_the_first_paragraph_of_the_docstring(program, capsys):
    with pytest.raises(SystemExit) as end:
        main_of(program)(["--help"])
    text = capsys.readouterr().out
    usage, description, *_ = text.split("\n\n")
    assert end.value.code == 0 and usage.startswith(f"usage: python -m benchmarks.{program} ")
    assert "SUPPRESS" not in text
    docstring = import_module(MODULES[program]).__doc__
    assert description.split() == docstring.partition("\n\n")[0].split()


@pytest.mark.parametrize("program", PROGRAMS)
def test_wrong_command_lines_are_reported_on_one_line(program, capsys):
    status, errors = ended(partial(main_of(program), ["--seeds"]), capsys)
    assert status == 1
    assert re.fullmatch(rf"error: .*; see python -m benchmarks\.{program} --help\n", errors)


@pytest.mark.parametrize("program", sorted({*PROGRAMS} - {*WITHOUT_FILE}))
def test_existing_results_are_found_before_anything_is_measured(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for prefix in ("", "finetuning-", "precision-", "pretrain-quality-"):
        for suffix in ("", "-yeast"):
            Path(f"{datetime.now(UTC):%Y-%m-%d}-{prefix}x{suffix}.md").write_text("published")
    with pytest.raises(UserError, match=r"x(-yeast)?\.md: already exists; choose another --name"):
        main_of(program)([*ARGUMENTS.get(program, []), "--name", "x", "--out", "."])
    assert {file.read_text() for file in tmp_path.iterdir()} == {"published"}


def test_errors_end_as_a_status(capsys):
    assert ended(lambda: None, capsys) == (0, "")
    assert ended(lambda: 3, capsys) == (3, "")
    assert ended(partial(timed, "-c", "import sys; sys.exit(sys.argv[1])", "no genome"), capsys) == (
        1,
        "error: exit status 1: python -c 'import sys; sys.exit(sys.argv[1])' 'no genome'; no genome\n",
    )
    status, errors = ended(lambda: 1 // 0, capsys)
    assert status == FAILED and errors.startswith("Traceback") and "ZeroDivisionError" in errors


def test_the_command_is_recorded_as_it_can_be_run_again():
    parser = record.ProgramParser("some", "Do it.")
    parser.add_argument("--note", default="")
    assert parser.parse_args(["--note", "two words"]).command == "python -m benchmarks.some --note 'two words'"
    assert parser.parse_args([]).command == "python -m benchmarks.some"


def test_help_states_defaults():
    parser = record.ProgramParser("some", "Do it.")
    parser.add_argument("--numbers", type=int, nargs="+", default=[0, 2], help="numbers")
    parser.add_argument("--limit", type=int, default=0, help="limit (default: none)")
    parser.add_argument("--text", default="", help="text")
    text = parser.format_help().partition("show this help")[2]
    assert re.findall(r"\S* ?\(default: .*\)|text$", text, re.M) == [
        "numbers (default: 0 2)",
        "limit (default: none)",
        "text",
    ]


def test_memory_is_that_of_the_program_alone():
    ours = bytearray(b"x") * 10**8
    _, small = timed("-c", "print('discarded')")
    _, large = timed("-c", f"bytearray(b'x') * {10**8}")
    assert small < len(ours) < large


def test_the_list_of_programs_is_complete():
    listed = re.findall(r"^\| \[?`(\w+)", (BENCHMARKS / "README.md").read_text(), re.M)
    assert sorted(listed) == PROGRAMS


def test_commit_outside_a_repository_is_unknown(tmp_path):
    assert record.commit(tmp_path) == "unknown"
