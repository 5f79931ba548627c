"""Measure time and memory of opening a task from a large csv file, and of training the 6-mer baseline on one fold.

The rows are random bases; half of the rows contain a motif. Each program runs in its own process. Memory is the peak
resident set size of the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.record import provenance, write_result
from ldarnet.errors import UserError
from ldarnet.program import run

MOTIF = b"TATAAAAGGC"
ROWS_PER_WRITE = 10_000
OPEN = """import sys
from pathlib import Path
from ldarnet.tasks import open_task
open_task(None, train=Path(sys.argv[1]))"""
COMMAND = "import sys; from ldarnet.cli import main; main()"


def table_rows(
    rows: Annotated[int, typer.Option(min=100, help="Rows of the table.")] = 1_000_000,
    length: Annotated[int, typer.Option(min=50, help="Bases per row.")] = 200,
    name: Annotated[str, typer.Option(help="The results file is YYYY-MM-DD-NAME.md.")] = "million-rows",
    note: Annotated[str, typer.Option(help="Text at the top of the results file.")] = "",
) -> None:
    """Measure time and memory of opening a task from a csv file, and of training the 6-mer baseline on one fold.

    Writes benchmarks/results/YYYY-MM-DD-NAME.md.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rows.csv"
        write_table(table, rows, length)
        arguments = ["--config", "classify", "model.baseline=kmers"]
        data = [f"data.train={table}", f"run.dir={folder}/run"]
        lines = [
            ("start Python and import the task package", *measure("import ldarnet.tasks")),
            (f"open the task ({table.stat().st_size / 1e6:,.0f} MB of csv)", *measure(OPEN, str(table))),
            (
                f"`ldarnet finetune {' '.join(arguments)}`, 8 fits on {rows * 9 // 10:,} rows",
                *measure(COMMAND, "finetune", *arguments, *data),
            ),
        ]
    text = [
        f"# A csv of {rows:,} rows",
        *([note] if note else []),
        provenance(f"python -m benchmarks.table_rows --rows {rows} --length {length}"),
        f"Rows of {length} random bases; half of them contain {MOTIF.decode()}. Each line is one process; memory is "
        "its largest resident set.",
        "| program | seconds | memory, GiB |\n| --- | ---: | ---: |\n"
        + "\n".join(f"| {what} | {seconds:,.0f} | {memory:.2f} |" for what, seconds, memory in lines),
    ]
    print(write_result(name, "\n\n".join(text) + "\n"))


def write_table(table: Path, rows: int, length: int) -> None:
    """Write a csv with columns sequence and label."""
    rng = np.random.default_rng(0)
    with table.open("wb") as file:
        file.write(b"sequence,label\n")
        for begin in range(0, rows, ROWS_PER_WRITE):
            count = min(ROWS_PER_WRITE, rows - begin)
            bases = np.frombuffer(b"ACGT", np.uint8)[rng.integers(4, size=(count, length))]
            bases[::2, 20 : 20 + len(MOTIF)] = np.frombuffer(MOTIF, np.uint8)
            file.write(b"".join(b"%s,%d\n" % (row.tobytes(), 1 - at % 2) for at, row in enumerate(bases)))


def measure(program: str, *arguments: str) -> tuple[float, float]:
    """Run a Python program; return the elapsed seconds and the peak resident set size in GiB.

    Raises:
        UserError: the program failed.
    """
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError(
            f"{arguments[0] if arguments else program}: failed; fix the error above and run the benchmark again"
        )
    return time.perf_counter() - begin, usage.ru_maxrss / 2**20


if __name__ == "__main__":
    sys.exit(run(table_rows, name="python -m benchmarks.table_rows"))
