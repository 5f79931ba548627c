"""Names from files cannot control the terminal, break tables or change figures."""

import io
import logging

import pytest
from rich.table import Table

from ldarnet.console import PlainConsole, make_console, render_lines
from ldarnet.data.contigs import some_names
from ldarnet.errors import UserError
from ldarnet.printable import MAX_LABEL_CHARS, figure_label, printable, printable_lines
from ldarnet.program import exit_status
from ldarnet.runtime.rank_log import RankFormatter
from tests.support.ranks import ROOT, Ranks

HOSTILE = "\x1b[31mred\x1b]0;title\x07\r\x08\x9b2J\u202e\x00"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("chr1 µ 染色体", "chr1 µ 染色体"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\tb\r\n", "a\\tb\\r\\n"),
        ("\x00\x9b\u202e\ud800", "\\x00\\x9b\\u202e\\ud800"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()


def test_lines_are_kept_where_a_text_has_several() -> None:
    assert printable_lines("a\n\x1b\nb") == "a\n\\x1b\nb"


@pytest.mark.parametrize("name", ["_x", "__", "$a$", "x" * 1000, HOSTILE, ""])
def test_figure_labels_are_short_lines_that_legends_list(name: str) -> None:
    label = figure_label(name)
    assert label.isprintable() and not label.startswith("_") and len(label) <= MAX_LABEL_CHARS + 1
    assert label.strip() == name if name.isprintable() and len(name) < MAX_LABEL_CHARS else label


def test_lists_of_names_are_neutralized() -> None:
    listed = some_names([HOSTILE, "chr1", "chr2"], max_names=2)
    assert listed.isprintable() and listed.endswith(", chr1 and 1 more")


def test_rank_logs_are_neutralized() -> None:
    record = logging.makeLogRecord({"msg": "quarantined %s\nin %s", "args": (HOSTILE, "https://me:secret@host/x")})
    lines = RankFormatter().format(record).split("\n")
    assert len(lines) == 2 and all(line.isprintable() for line in lines)
    assert lines[0].startswith("quarantined \\x1b[31mred") and "secret" not in lines[1]


def test_console_lines_and_table_cells_are_neutralized() -> None:
    assert isinstance(make_console(), PlainConsole)
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=200, highlight=False, markup=False)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    console.print(HOSTILE, markup=False)
    console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("\\x1b[31mred\\x1b]0;title") == 4
    for control in ("\x1b[31m", "\x1b]0", "\x07", "\x08", "\x9b", "\u202e", "\x00", "\r"):
        assert control not in printed
    assert all(line.isprintable() for line in render_lines(table, 200))


def test_error_lines_are_neutralized(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise UserError(f"{HOSTILE}: no such file; check the path")

    assert exit_status(fail, name="ldarnet") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: \\x1b[31mred") and error[:-1].isprintable()


def test_error_lines_of_a_program_are_neutralized() -> None:
    ((status, _, errors),) = Ranks(1, ROOT / "ldarnet/__main__.py", ["report", "\x1b[31mno-run"]).wait()
    assert status == 1 and "\x1b" not in errors and "\\x1b[31mno-run" in errors
