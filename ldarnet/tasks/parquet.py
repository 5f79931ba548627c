"""Labeled sequences in Parquet files."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ldarnet.errors import UserError
from ldarnet.tasks.damage import damage_errors
from ldarnet.tasks.rows import Columns, Records, check_length, check_rows, check_size, find_columns

MAGIC = b"PAR1"
_BATCH_ROWS = 2**14


def read_parquet(path: Path, columns: Columns) -> Records:
    """Read labeled sequences. Binary columns are decoded as UTF-8.

    Raises:
        UserError: the file cannot be read, is damaged, is not Parquet, has a column of an unsupported type, or exceeds
            a limit.
    """
    import pyarrow
    from pyarrow import parquet

    def damage() -> AbstractContextManager[None]:
        return damage_errors(path, "truncated", pyarrow.ArrowException, KeyError, OverflowError)

    with path.open("rb") as content:
        head = content.read(16)
    if not head.startswith(MAGIC):
        raise UserError(f"{path}: not Parquet: starts with {head!r}; rename it to .csv or .tsv if it is text")
    with damage():
        schema = parquet.read_schema(path)
        header = list(schema.names)
    sequence, label_columns, name = find_columns(str(path), header, columns)
    used = [header[column] for column in (sequence, *label_columns, name) if column is not None]
    for title in used:
        _check_type(path, title, schema.field(title).type)
    with damage(), parquet.ParquetFile(path, read_dictionary=used) as file:
        check_rows(path, file.metadata.num_rows)
        check_size(path, _stored_bytes(file.metadata, used))
        texts: dict[str, list[str]] = {title: [] for title in used}
        size = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=used):
            for title in used:
                before = len(texts[title])
                for text in _texts(path, title, batch.column(title), before):
                    size += len(text)
                    texts[title].append(text)
            check_size(path, size)
    rows = len(texts[header[sequence]])
    names = texts[header[name]] if name is not None else [""] * rows
    targets = tuple(header[label] for label in label_columns)
    cells = [texts[target] for target in targets]
    labels = cells[0] if len(cells) == 1 else ["\t".join(row) for row in zip(*cells, strict=True)]
    return Records(path, "row", range(1, rows + 1), names, texts[header[sequence]], labels, targets)


def _check_type(path: Path, title: str, kind: Any) -> None:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    binary = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    strings = (types.is_string, types.is_large_string)
    numbers = (types.is_integer, types.is_boolean, types.is_floating, types.is_null)
    if not any(is_kind(kind) for is_kind in (*strings, *binary, *numbers)):
        raise UserError(f"{path}: column {title!r} has the type {kind}; convert it to strings or integers")


def _stored_bytes(metadata: Any, titles: list[str]) -> int:
    """Decompressed size of the given columns, in bytes, according to the metadata of the file."""
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in titles)


def _texts(path: Path, title: str, column: Any, before: int) -> Iterator[str]:
    """Yield the values of a column as strings. Equal values of a dictionary-encoded column share one string."""
    import pyarrow

    if isinstance(column, pyarrow.DictionaryArray):
        values, which = column.dictionary.to_pylist(), column.indices.to_pylist()
    else:
        values, which = column.to_pylist(), range(len(column))
    decoded: dict[int | None, str] = {None: ""}
    for row, key in enumerate(which, start=before + 1):
        if key not in decoded:
            value = values[key]
            try:
                text = value.decode("utf-8") if isinstance(value, bytes) else "" if value is None else str(value)
            except UnicodeDecodeError:
                raise UserError(
                    f"{path}: row {row}: the binary value of {title!r} is not UTF-8; convert the column to strings"
                ) from None
            check_length(f"{path}: row {row}", len(text), "sequence")
            decoded[key] = text
        yield decoded[key]
