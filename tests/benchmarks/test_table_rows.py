"""The benchmark of large tables."""

import pytest

from benchmarks import table_rows
from ldarnet.tasks import open_task


def test_all_formats_hold_the_same_rows(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(table_rows, "ROWS_PER_WRITE", 30)
    opened = {}
    for form in table_rows.FORMATS:
        table_rows.write_table(tmp_path / f"rows.{form}", 100, 50)
        opened[form] = open_task(None, train=tmp_path / f"rows.{form}").train
    first = opened["csv"]
    assert len(first) == 100
    motif = table_rows.MOTIF.decode()
    assert [motif in sequence for sequence in first.sequences] == [label == 1 for label in first.labels]
    for rows in opened.values():
        assert rows.sequences == first.sequences
        assert list(rows.labels) == list(first.labels)
