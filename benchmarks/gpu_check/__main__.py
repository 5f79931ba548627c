"""Check and measure LDARNet on one GPU.

    python -m benchmarks.gpu_check

Writes `gpu-check.md` and `gpu-check.json`, which are updated after every check. The same command resumes: complete
checks are kept if code, versions and GPU are the same. Checks that need a package that is not installed are reported as
not run; torch and triton suffice for the first ones. `--dry-run` tests the program on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.gpu_check import account
from benchmarks.gpu_check.page import render
from benchmarks.gpu_check.plan import DRY_RUN, H200, environment, machine, plan
from benchmarks.gpu_check.results import Check, Record
from benchmarks.gpu_check.session import Session
from benchmarks.record import ProgramParser, run_program, write_result
from ldarnet.errors import UserError
from ldarnet.program import INTERRUPTED, OK

OUT, DRY_RUN_OUT = "runs/gpu-check", "runs/gpu-check-dry-run"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ProgramParser("gpu_check", __doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=12.0, help="time limit of this call")
    add("--out", type=Path, help=f"folder of the results (default: {OUT}; with --dry-run: {DRY_RUN_OUT})")
    add("--checks", nargs="+", default=[], metavar="TEXT", help="run only checks whose name contains one of the texts")
    add("--list", action="store_true", help="print the checks and exit")
    add("--account", type=Path, help="JSON file of benchmarks.gpu_account (default: the newest in benchmarks/results)")
    add("--note", default="", help="text at the top of the page")
    add("--page", type=Path, metavar="FILE", help="only write the page of this gpu-check.json again, next to it")
    add("--dry-run", action="store_true", help="test this program on a CPU, with tiny sizes")
    options = parser.parse_args(arguments)
    options.out = options.out or Path(DRY_RUN_OUT if options.dry_run else OUT)
    return options


def selected(checks: Sequence[Check], texts: Sequence[str]) -> list[Check]:
    """Checks whose name contains one of the texts; all checks without texts.

    Raises:
        UserError: a text is not in any name.
    """
    for text in texts:
        if not any(text in check.name for check in checks):
            raise UserError(f"--checks {text}: no such check; see --list")
    return [check for check in checks if not texts or any(text in check.name for text in texts)]


def run(options: argparse.Namespace) -> None:
    """Run the checks and print the path of the page.

    Raises:
        UserError: the machine, a file or an option cannot be used.
    """
    draw = partial(render, paper=account.read(options.account or account.newest()), note=options.note)
    if options.page:
        write_result(options.page.with_suffix(".md"), draw(Record.read(options.page)))
        return
    sizes = DRY_RUN if options.dry_run else H200
    checks = selected(plan(sizes), options.checks)
    if options.list:
        print(*(check.name for check in checks), sep="\n")
        return
    session = Session(options.out, options.minutes, draw, machine(sizes, options.command), environment(sizes))
    try:
        session.run(checks, partial(print, flush=True))
    finally:
        session.close()
    print(f"wrote {session.page}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return the exit status."""
    options = parse(arguments)
    try:
        run(options)
    except KeyboardInterrupt:
        print(f"interrupted; completed checks are in {options.out}; run the same command again to resume")
        return INTERRUPTED
    return OK


if __name__ == "__main__":
    run_program(main)
