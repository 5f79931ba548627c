"""Measure time and memory of opening a task from large tables, and of training the 6-mer baseline on one fold.

The rows are random bases; half of the rows contain a motif. Each program runs in its own process. Memory is the peak
resident set size of the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.record import provenance, write_result
from ldarnet import markdown
from ldarnet.errors import UserError
from ldarnet.program import run

MOTIF = b"TATAAAAGGC"
FORMATS = ("csv", "tsv", "parquet")
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
    """Measure time and memory of opening a task from csv, tsv and Parquet, and of one fold of the 6-mer baseline.

    Writes benchmarks/results/YYYY-MM-DD-NAME.md.
    """
    with tempfile.TemporaryDirectory() as folder:
        tables = {form: Path(folder) / f"rows.{form}" for form in FORMATS}
        for table in tables.values():
            write_table(table, rows, length)
        config = ["--config", "classify", "model.baseline=kmers"]
        fit = ["finetune", *config, f"data.train={tables['csv']}", f"run.dir={folder}/run"]
        programs = {
            "start Python and import the task package": ("import ldarnet.tasks",),
            **{
                f"open the task ({table.stat().st_size / 1e6:,.0f} MB of {form})": (OPEN, str(table))
                for form, table in tables.items()
            },
            f"`ldarnet finetune {' '.join(config)}`, 8 fits on {rows * 9 // 10:,} rows": (COMMAND, *fit),
        }
        cells = []
        for what, program in programs.items():
            seconds, memory = measure(*program)
            print(f"{what}: {seconds:,.0f} s, {memory:.2f} GiB", flush=True)
            cells.append((what, f"{seconds:,.0f}", f"{memory:.2f}"))
    text = [
        f"# Tables of {rows:,} rows",
        *([note] if note else []),
        provenance(f"python -m benchmarks.table_rows --rows {rows} --length {length}"),
        f"Rows of {length} random bases; half of them contain {MOTIF.decode()}. Each line is one process; memory is "
        "its largest resident set.",
        markdown.table(("program", "seconds", "memory, GiB"), cells),
    ]
    print(write_result(name, "\n\n".join(text) + "\n"))


def write_table(table: Path, rows: int, length: int) -> None:
    """Write a table with columns sequence and label; its suffix is one of `FORMATS`."""
    if table.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        schema = pyarrow.schema({"sequence": pyarrow.string(), "label": pyarrow.int64()})
        with parquet.ParquetWriter(table, schema) as writer:
            for sequences, labels in _parts(rows, length):
                columns = {"sequence": [sequence.decode() for sequence in sequences], "label": labels}
                writer.write_table(pyarrow.table(columns, schema))
        return
    separator = {".csv": b",", ".tsv": b"\t"}[table.suffix]
    with table.open("wb") as file:
        file.write(separator.join([b"sequence", b"label\n"]))
        for sequences, labels in _parts(rows, length):
            lines = (b"%s%s%d\n" % (one, separator, label) for one, label in zip(sequences, labels, strict=True))
            file.write(b"".join(lines))


def _parts(rows: int, length: int) -> Iterator[tuple[list[bytes], list[int]]]:
    """Yield sequences and their labels, up to `ROWS_PER_WRITE` at a time."""
    rng = np.random.default_rng(0)
    for begin in range(0, rows, ROWS_PER_WRITE):
        count = min(ROWS_PER_WRITE, rows - begin)
        bases = np.frombuffer(b"ACGT", np.uint8)[rng.integers(4, size=(count, length))]
        bases[::2, 20 : 20 + len(MOTIF)] = np.frombuffer(MOTIF, np.uint8)
        yield [row.tobytes() for row in bases], [1 - at % 2 for at in range(count)]


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
