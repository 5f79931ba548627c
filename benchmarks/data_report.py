"""Markdown report of `benchmarks.data`."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.record import page, provenance
from ldarnet.markdown import table

Result = dict[str, Any]
BATCH = 32
"""Windows per batch."""
FAR = 10**9
"""Position in the window order, in windows, at which a run is resumed or windows are located."""


def report(found: dict[str, Result], options: argparse.Namespace) -> str:
    """Render the results file."""
    sections = {
        "Made with": provenance(options.command),
        "Building": _building(found, options),
        "Loading": _loading(found, options),
        "Latency and memory": _latency(found, options),
    }
    return page(f"Shards and batches of {options.fasta.name}", sections, options.note)


def _building(found: dict[str, Result], options: argparse.Namespace) -> str:
    naive = found["naive tar"]
    named = (
        ("reading the plain FASTA file only", "read plain"),
        ("sharding.build from plain FASTA", "build plain"),
        (f"sharding.build from plain FASTA, {options.cores} copies in as many processes", "build plain, all cores"),
        ("decompressing the .gz file only", "decompress gz"),
        ("sharding.build from .gz", "build gz"),
        (f"one tar member per window of {options.length:,} bases (webdataset)", "naive tar"),
    )

    def cells(result: Result) -> list[object]:
        bits = f"{result['bits']:.3f}" if "bits" in result else ""
        ratio = f"{result['speed'] / naive['speed']:.1f}" if "speed" in naive else ""
        return [f"{result['speed'] / 1e6:,.0f}", ratio, bits, f"{result['peak'] / 2**20:,.0f}"]

    note = (
        "One process per row, unless stated otherwise. Reading and decompressing count bytes including headers and "
        "line ends; other rows count bases. Bits per base include all files. `naive` is one tar member per window; it "
        "drops case and incomplete windows."
    )
    header = ["", "Mb/s", "relative to naive", "bits per base", "peak MiB"]
    return note + "\n\n" + table(header, _rows(found, named, cells))


def _loading(found: dict[str, Result], options: argparse.Namespace) -> str:
    base = found["published"]
    named = (
        ("published loader: pyfaidx with read-ahead of one million bases", "published"),
        ("published loader without read-ahead", "published, no read-ahead"),
        ("webdataset with one member per window, LDARNet's encoding and masks", "naive tar, webdataset"),
        ("ours, one process", "ours"),
        (f"ours, {options.cores} processes in total", "ours, all cores"),
    )

    def cells(result: Result) -> list[object]:
        ratio = f"{result['speed'] / base['speed']:.1f}" if "speed" in base else ""
        first = f"{result['first'] * 1e3:,.0f}" if "first" in result else ""
        peak = f"{result['peak'] / 2**20:,.0f}" if "peak" in result else ""
        return [f"{result['speed'] / 1e6:,.2f}", ratio, first, peak]

    note = (
        f"Batches of {BATCH} windows of {options.length:,} bases in random order, with masks and labels, for "
        f"{options.seconds:.0f} s after the first batch. The published loader is a reimplementation."
    )
    header = ["", "million bases/s", "relative to published", "first batch, ms", "peak MiB"]
    return note + "\n\n" + table(header, _rows(found, named, cells))


def _rows(
    found: dict[str, Result], named: Sequence[tuple[str, str]], cells: Callable[[Result], list[object]]
) -> Iterator[Sequence[object]]:
    """Yield one table row per measurement; a failed measurement has the error message in its row."""
    for label, name in named:
        result = found[name]
        yield [label, result["failure"], "", "", ""] if "failure" in result else [label, *cells(result)]


def _latency(found: dict[str, Result], options: argparse.Namespace) -> str:
    rows: list[Sequence[object]] = []
    batch, far = found["first batch"], found["synthetic"]
    if "failure" in batch:
        rows.append(["first batch of this genome", batch["failure"]])
    else:
        rows += [
            ["opening the set and loading the first batch", f"{batch['first'] * 1e3:,.0f} ms"],
            [
                f"opening the set and loading the first batch, resumed at position {FAR:,}",
                f"{batch['resumed'] * 1e3:,.0f} ms",
            ],
        ]
    if "failure" in far or "failure" in batch:
        rows.append(["synthetic index", far.get("failure", "see above")])
    else:
        rows += [
            [
                f"opening an index of {far['bases'] / 1e9:,.0f} Gb and checking its hashes",
                f"{far['open'] * 1e3:,.0f} ms",
            ],
            ["computing the window layout", f"{far['lay out'] * 1e3:,.0f} ms"],
            [f"locating the window at position {FAR:,}", f"{far['locate'] * 1e3:,.1f} ms"],
            ["opening, layout and locating together", f"{far['resumed'] * 1e3:,.0f} ms"],
            ["locating each of 100,000 windows", f"{far['locate each'] * 1e6:,.2f} us"],
            [
                "peak memory of the process that opens this index, including the mapped index",
                f"{far['peak'] / 2**20:,.0f} MiB",
            ],
            ["peak memory of a process that loads the first batch of this genome", f"{batch['peak'] / 2**20:,.0f} MiB"],
        ]
    return table(["", ""], rows)
