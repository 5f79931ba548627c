"""Markdown tables."""

import pytest

from ldarnet.markdown import table


@pytest.mark.parametrize(("align_right", "alignment"), [(True, "| --- | ---: |"), (False, "| --- | --- |")])
def test_table_formats_numbers_and_missing_values(align_right: bool, alignment: str) -> None:
    rows = [["a", 1.23456], ["b", float("nan")], ["c", 3]]
    assert table(["", "x"], rows, align_right=align_right).splitlines() == [
        "|  | x |",
        alignment,
        "| a | 1.2346 |",
        "| b | - |",
        "| c | 3 |",
    ]
