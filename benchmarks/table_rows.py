"""Measure time and memory of opening a task from large tables, and of training the 6-mer baseline on one fold.

The rows are random bases; half of the rows contain a motif. Each program runs in its own process. Memory is the peak
resident set size of the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from benchmarks.timed import timed
from ldarnet import markdown

MOTIF = b"TATAAAAGGC"
MIN_ROWS, MIN_LENGTH = 100, 50
FORMATS = ("csv", "tsv", "parquet")
ROWS_PER_WRITE = 10_000
OPEN = """import sys
from pathlib import Path
from ldarnet.tasks import open_task
open_task(None, train=Path(sys.argv[1]))"""
COMMAND = "import sys; from ldarnet.cli import main; main()"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the results file and print its path."""
    parser = ProgramParser("table_rows", __doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    parser.add_argument("--length", type=int, default=200, help="bases per row")
    add_result_options(parser, "million-rows")
    options = parser.parse_args(arguments)
    rows, length = options.rows, options.length
    if rows < MIN_ROWS or length < MIN_LENGTH:
        parser.error(f"--rows must be at least {MIN_ROWS} and --length at least {MIN_LENGTH}")
    file = result_file(options.name, options.out)
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
            seconds, memory = timed("-c", *program)
            print(f"{what}: {seconds:,.0f} s, {memory / 2**30:.2f} GiB", flush=True)
            cells.append((what, f"{seconds:,.0f}", f"{memory / 2**30:.2f}"))
    text = [
        heading(f"Tables of {rows:,} rows", options),
        f"Rows of {length} random bases; half of them contain {MOTIF.decode()}. Each line is one process; memory is "
        "its largest resident set.",
        markdown.table(("program", "seconds", "memory, GiB"), cells),
    ]
    write_result(file, "\n\n".join(text) + "\n")


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


if __name__ == "__main__":
    run_program(main)
