"""Write embeddings as npy, with a table of their rows, or as Parquet.

Vectors are written to a file while they are computed, so memory use does not depend on their number.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ldarnet.errors import UserError
from ldarnet.extras import optional_imports
from ldarnet.genomics.pooling import CHUNK_ROW, Level
from ldarnet.genomics.regions import GenomeRegion
from ldarnet.io.files import atomic_path
from ldarnet.io.tsv import tsv_writer

NPY, PARQUET = ".npy", ".parquet"
ROWS_SUFFIX = ".rows.tsv"
"""Suffix of the table of rows of an npy file, instead of `NPY`."""
_BLOCK_VALUES = 2**20


class VectorFile:
    """An npy file of float32 vectors that grows; a `ldarnet.genomics.pooling.Sink`.

    Attributes:
        rows: number of vectors so far.
    """

    def __init__(self, vectors: BinaryIO, chunks: BinaryIO, width: int) -> None:
        """Write a header.

        Args:
            vectors: the npy file.
            chunks: file for the rows of chunks, `CHUNK_ROW` without a header.
            width: dimension of the vectors.
        """
        self._file, self._chunks, self._width, self.rows = vectors, chunks, width, 0
        self._write_header()
        self._offset = vectors.tell()

    def put(self, row: int, vectors: np.ndarray) -> None:
        """Store vectors, (n, D), as rows ``row`` to ``row + n - 1``."""
        self._file.seek(self._offset + row * self._width * 4)
        self._file.write(vectors.astype("<f4").tobytes())
        self.rows = max(self.rows, row + len(vectors))

    def append(self, chunks: np.ndarray, vectors: np.ndarray) -> None:
        """Store the vectors of chunks, (n, D), after those before; ``chunks`` is (n,) of `CHUNK_ROW`."""
        self._chunks.write(chunks.tobytes())
        self.put(self.rows, vectors)

    def finish(self) -> None:
        """Write the number of vectors to the header."""
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._offset  # numpy reserves space for the number of rows
        self._file.flush()
        self._chunks.flush()

    def _write_header(self) -> None:
        shape = (self.rows, self._width)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "<f4", "fortran_order": False, "shape": shape})


@contextmanager
def embedding_file(
    out: Path, level: Level, regions: Sequence[GenomeRegion], width: int, strand: str, settings: Mapping[str, Any]
) -> Iterator[VectorFile]:
    """Yield a file for embeddings; when the block succeeds, write ``out``.

    Args:
        out: path that ends with `NPY` or `PARQUET`.
        level: what a row is.
        regions: the embedded regions.
        width: dimension of the embeddings.
        strand: strand that the model reads, as in BED files.
        settings: stored in the metadata of Parquet files.

    Raises:
        NotWritableError: the disk is full, or there is no permission to write.
        ModuleNotFoundError: pyarrow is not installed.
    """
    with atomic_path(out) as partial, tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        scratch = Path(folder)
        vectors = partial if out.suffix == NPY else scratch / "vectors.npy"
        with vectors.open("wb") as file, (scratch / "chunks").open("wb") as chunks:
            written = VectorFile(file, chunks, width)
            yield written
            written.finish()
        rows = RowTable(level, regions, strand, written.rows, scratch / "chunks")
        if out.suffix == NPY:
            with atomic_path(rows_path(out)) as table:
                rows.write_table(table)
        else:
            _write_parquet(partial, vectors, rows, width, settings)


def check_output(out: Path) -> None:
    """Check the suffix of a file to write, and that the packages for this format are installed.

    Raises:
        UserError: the format is not supported.
        ModuleNotFoundError: pyarrow is not installed.
    """
    if out.suffix == PARQUET:
        with optional_imports("ldarnet embed"):
            import pyarrow.parquet  # noqa: F401
    elif out.suffix == ".zarr":
        raise UserError(f"{out}: zarr is not supported; write {out.stem}{NPY}, and convert it with zarr.array")
    elif out.suffix != NPY:
        raise UserError(f"{out}: unknown format; choose a name that ends with {PARQUET} or {NPY}")


def rows_path(out: Path) -> Path:
    """Path of the table of rows of an npy file."""
    return out.with_name(out.name.removesuffix(NPY) + ROWS_SUFFIX)


class RowTable:
    """Names and coordinates of rows."""

    def __init__(self, level: Level, regions: Sequence[GenomeRegion], strand: str, count: int, chunks: Path) -> None:
        """Describe ``count`` rows; ``chunks`` is the file of chunks, for the level ``chunk``."""
        self._level, self._regions, self._strand, self._count = level, regions, strand, count
        self._chunks = np.memmap(chunks, CHUNK_ROW, "r") if level == "chunk" and count else np.zeros(0, CHUNK_ROW)
        lengths = [region.end - region.start for region in regions]
        self._first = np.cumsum([0, *(lengths if level == "base" else [1] * len(regions))])

    def write_table(self, path: Path) -> None:
        """Write the rows as TSV; the bases of a region share a line, with the row of the first one."""
        with path.open("w", encoding="utf-8", newline="") as file:
            write = tsv_writer(file)
            extra = {"sequence": [], "chunk": ["probability"], "base": ["first_row"]}[self._level]
            write(["name", "contig", "start", "end", "strand", *extra])
            if self._level == "chunk":
                for index, start, end, p in (row.tolist() for row in self._chunks):
                    region = self._regions[index]
                    write([region.name, region.contig, start, end, self._strand, f"{p:.6g}"])
                return
            for region, first in zip(self._regions, self._first.tolist(), strict=False):
                last = [first] if self._level == "base" else []
                write([region.name, region.contig, region.start, region.end, self._strand, *last])

    def columns(self, start: int, end: int) -> dict[str, Any]:
        """Columns of rows ``start`` to ``end - 1``."""
        chunks = np.asarray(self._chunks[start:end])
        if self._level == "chunk":
            indices, starts, ends = chunks["region"], chunks["start"], chunks["end"]
        else:
            numbers = np.arange(start, end)
            indices = np.searchsorted(self._first, numbers, side="right") - 1
            starts = np.array([self._regions[index].start for index in indices], np.int64)
            if self._level == "base":
                starts += numbers - self._first[indices]
                ends = starts + 1
            else:
                ends = np.array([self._regions[index].end for index in indices], np.int64)
        columns: dict[str, Any] = {
            "name": [self._regions[index].name for index in indices],
            "contig": [self._regions[index].contig for index in indices],
            "start": starts,
            "end": ends,
            "strand": [self._strand] * len(indices),
        }
        if self._level == "chunk":
            columns["probability"] = chunks["probability"]
        return columns

    def __len__(self) -> int:
        return self._count

    @property
    def level(self) -> Level:
        """What a row is."""
        return self._level


def _write_parquet(path: Path, vectors: Path, rows: RowTable, width: int, settings: Mapping[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    fields = [("name", pa.string()), ("contig", pa.string()), ("start", pa.int64()), ("end", pa.int64())]
    fields.append(("strand", pa.string()))
    if rows.level == "chunk":
        fields.append(("probability", pa.float32()))
    fields.append(("embedding", pa.list_(pa.float32(), width)))
    schema = pa.schema(fields, metadata={"ldarnet": json.dumps(settings)})
    values = np.load(vectors, mmap_mode="r")
    step = max(_BLOCK_VALUES // width, 1)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(rows), step):
            end = min(start + step, len(rows))
            flat = pa.array(np.array(values[start:end]).reshape(-1))
            columns = rows.columns(start, end) | {"embedding": pa.FixedSizeListArray.from_arrays(flat, width)}
            writer.write_table(pa.table(columns, schema=schema))
