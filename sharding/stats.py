"""Summarize a shard set in tables and plots: ``ldarnet stats SET [--out DIR]``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ldarnet import markdown
from ldarnet.console import make_console, percent_bar
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path, space_errors, write_json_atomic
from ldarnet.program import run
from ldarnet.threads import usable_cpus
from sharding.composition import GC_WINDOW, KINDS, Counts, count_set

_MAX_ROWS = 40
_IN_NO_SPLIT = "(in no split)"
_WHOLE = "all"


@dataclass(frozen=True, slots=True)
class StatsTable:
    """A table of text cells; the first column holds names. Line breaks in column titles are for the terminal only."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def as_markdown(self) -> str:
        """Format as Markdown."""
        columns = [column.replace("\n", " ") for column in self.columns]
        rows = [tuple(map(markdown.escape, row)) for row in self.rows]
        return f"## {self.title}\n\n{markdown.table(columns, rows)}\n"

    def as_rich(self) -> Table:
        """Format for a terminal, with at most 40 rows."""
        table = Table(
            title=self.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, collapse_padding=True
        )
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number > 0)
        for row in self.rows[:_MAX_ROWS]:
            table.add_row(*row)
        if len(self.rows) > _MAX_ROWS:
            table.add_row(f"and {len(self.rows) - _MAX_ROWS} more (--out writes all)")
        return table


def compute_stats(shards: ShardSet, counts: Counts) -> dict[str, Any]:
    """Compute all statistics of a set, as written to ``stats.json``.

    ``n_share`` and ``masked_share`` are fractions of all bases; ``gc`` is the fraction of G and C among A, C, G and T.
    ``bits_per_base`` of ``total`` counts all files on disk: the shards, including tar headers, and the index.
    ``bits_per_base`` of a species counts only its packed blocks.
    """
    index = shards.index
    names = [*index.splits, _IN_NO_SPLIT]
    lengths, of_species = index.contigs.length, index.contigs.species
    block_bytes = np.bincount(of_species[index.blocks.contig], index.blocks.size, minlength=len(index.species))
    species: dict[str, Any] = {}
    for number, name in enumerate(index.species):
        own = lengths[of_species == number]
        species[name or _WHOLE] = {
            **_composition(counts.letters[number].sum(axis=0)),
            "contigs": len(own),
            "longest": int(own.max()),
            "n50": n50(own),
            "bits_per_base": 8 * float(block_bytes[number]) / float(own.sum()),
            "splits": {
                split: _composition(row) for split, row in zip(names, counts.letters[number], strict=True) if row.any()
            },
            f"gc_of_{GC_WINDOW}_base_windows": counts.gc[number].tolist(),
        }
    return {
        "fingerprint": shards.fingerprint,
        "tool": index.tool,
        "total": {
            **_composition(counts.letters.sum(axis=(0, 1))),
            "species": len(index.species),
            "contigs": len(lengths),
            "longest": int(lengths.max()),
            "n50": n50(lengths),
            "shards": len(index.shards),
            "blocks": len(index.blocks),
            "bytes": (size := _size(shards)),
            "bits_per_base": 8 * size / int(lengths.sum()),
        },
        "splits": {
            name: {**_composition(row), "intervals": len(index.splits.get(name, ()))}
            for name, row in zip(names, counts.letters.sum(axis=0), strict=True)
            if row.any()
        },
        "species": species,
    }


def n50(lengths: np.ndarray) -> int:
    """N50 in bases: contigs of at least this length together hold at least half of all bases."""
    sizes = np.sort(lengths)[::-1]
    return int(sizes[np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)])


def tables(stats: dict[str, Any]) -> list[StatsTable]:
    """Create the tables of the set, the splits, the species (largest first), and the splits of each species."""
    total, splits, species = stats["total"], stats["splits"], stats["species"]
    largest = sorted(species, key=lambda name: -species[name]["bases"])
    named = len(species) > 1 or _WHOLE not in species
    rows: list[tuple[str, ...]] = [
        ("fingerprint", stats["fingerprint"][:16]),
        *((key, f"{total[key]:,}") for key in ("bases", "species", "contigs", "shards", "blocks", "bytes")),
        ("bits per base on disk", f"{total['bits_per_base']:.3f}"),
    ]
    found = [
        StatsTable("Set", ("", "value"), rows),
        StatsTable(
            "Splits",
            ("split", "intervals", *_HEADS),
            [(name, f"{entry['intervals']:,}", *_cells(entry)) for name, entry in splits.items()],
        ),
        StatsTable(
            "Species" if named else "Contigs",
            ("species", "contigs", "N50", *_HEADS, "packed\nbits/base"),
            [(name, *_contig_cells(species[name])) for name in largest],
        ),
    ]
    if named and len(splits) > 1:
        rows = [(name, split, *_cells(entry)) for name in largest for split, entry in species[name]["splits"].items()]
        found.append(StatsTable("Splits by species", ("species", "split", *_HEADS), rows))
    return found


_HEADS = ("bases", "GC", "N", "other", "masked")


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    shares = (f"{entry[key]:.1%}" for key in ("gc", "n_share"))
    return short(entry["bases"]), *shares, f"{entry['letters']['other']:,}", f"{entry['masked_share']:.1%}"


def _contig_cells(entry: dict[str, Any]) -> tuple[str, ...]:
    return f"{entry['contigs']:,}", short(entry["n50"]), *_cells(entry), f"{entry['bits_per_base']:.3f}"


def short(bases: int) -> str:
    """Format a length with three significant digits, such as 924 kb or 63.0 Mb."""
    for unit, size in (("Gb", 10**9), ("Mb", 10**6), ("kb", 10**3)):
        if bases >= size:
            return f"{bases / size:.3g} {unit}" if bases < 1000 * size else f"{bases / size:,.0f} {unit}"
    return f"{bases} b"


def _composition(row: np.ndarray) -> dict[str, Any]:
    letters = dict(zip(KINDS, row.tolist(), strict=True))
    masked = letters.pop("masked")
    bases, known = sum(letters.values()), sum(letters[base] for base in "ACGT")
    return {
        "bases": bases,
        "letters": letters,
        "gc": (letters["C"] + letters["G"]) / max(known, 1),
        "n_share": letters["N"] / max(bases, 1),
        "masked": masked,
        "masked_share": masked / max(bases, 1),
    }


def _size(shards: ShardSet) -> int:
    tables = sum(path.stat().st_size for path in shards.folder.iterdir() if path.suffix in (".json", ".npy", ".txt"))
    return tables + sum(shard.size for shard in shards.index.shards)


def write(out: Path, shards: ShardSet, stats: dict[str, Any]) -> list[Path]:
    """Write ``stats.json``, ``stats.md`` and the plots to a folder.

    Raises:
        UserError: the folder cannot be used, or the disk is full.
    """
    from sharding.plots import draw

    try:
        with space_errors(out):
            out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out}: is a file, not a folder; choose another --out") from None
    write_json_atomic(out / "stats.json", stats, indent=1)
    plots = draw(out, stats, shards.index)
    text = "\n".join(table.as_markdown() for table in tables(stats))
    images = "".join(f"\n![{path.stem}]({path.name})\n" for path in plots)
    with atomic_path(out / "stats.md") as partial:
        partial.write_text(f"# {markdown.escape(str(shards.location))}\n\n{text}{images}", encoding="utf-8")
    return [out / "stats.json", out / "stats.md", *plots]


def main(
    place: Annotated[str, typer.Argument(metavar="SET", help="Folder or URL of the shard set.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write stats.json, stats.md and plots to this folder.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Worker processes. Default: one per core.")
    ] = None,
) -> None:
    """Summarize a shard set by species and split.

    Report base composition, GC, N, soft-masked bases, contig lengths, splits and file sizes. Every block is read once
    and verified against its hash.
    """
    console = make_console()
    shards = ShardSet.open(place)
    with percent_bar("counting", int(shards.index.contigs.length.sum())) as advance:
        counts = count_set(shards, workers or usable_cpus(), advance)
    stats = compute_stats(shards, counts)
    for table in tables(stats):
        console.print(table.as_rich())
    if out:
        paths = write(out, shards, stats)
        console.print(f"wrote {', '.join(map(str, paths))}")


if __name__ == "__main__":
    sys.exit(run(main, name="python -m sharding.stats"))
