"""Receipts of downloads, and the folder of partial downloads."""

import json

import pytest

from ldarnet.errors import UserError
from ldarnet.io.download import DOWNLOAD_RETRY
from sharding.fetched import open_fetcher

RECEIPT = {"url": "x", "size": 1, "sha256": "0" * 64, "checked_against": "nothing: x", "date": "2026-01-01"}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"7", b"\xff\xfe", b"{", b"[" * 10**5, b"\0" * 9),
        *(json.dumps({name: RECEIPT}).encode() for name in ("../x", "/x", "a/../../x", "a\nb", "")),
        *(json.dumps({"x": RECEIPT | {key: None}}).encode() for key in RECEIPT),
        *(json.dumps({"x": RECEIPT | {"size": size}}).encode() for size in (-1, "1", 2**70, 1.5, True)),
        *(json.dumps({"x": {key: RECEIPT[key] for key in RECEIPT if key != left}}).encode() for left in RECEIPT),
    ],
)
def test_damaged_or_forged_receipts_are_one_clear_line(tmp_path, content):
    (tmp_path / "fetched.json").write_bytes(content)
    fault = pytest.raises(UserError, match=r"^[^\n]*fetched\.json: damaged \([^\n]*\); move it away")
    with fault, open_fetcher(tmp_path, DOWNLOAD_RETRY):
        pass


def test_other_files_in_the_folder_of_partial_downloads_are_kept(tmp_path):
    (tmp_path / ".fetching").mkdir()
    for name in ("thesis.txt", "x.fa.part", "x.fa.part.json"):
        (tmp_path / ".fetching" / name).write_text("x")
    with open_fetcher(tmp_path, DOWNLOAD_RETRY):
        pass
    assert [path.name for path in (tmp_path / ".fetching").iterdir()] == ["thesis.txt"]
