"""data.json of a fine-tuning run: checked at resume."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ldarnet.errors import UserError
from ldarnet.finetuning.setup import write_data_record
from ldarnet.io import run_files

NOW = {"task": "x", "fingerprint": "f" * 64, "checkpoint": None}


@pytest.fixture
def job(tmp_path: Path) -> Any:
    metrics = tmp_path / run_files.FOLD_METRICS.replace("*", "0")
    metrics.parent.mkdir(parents=True)
    metrics.write_text("")
    return SimpleNamespace(config=SimpleNamespace(run=SimpleNamespace(dir=tmp_path)), record=lambda: NOW)


@pytest.mark.parametrize("before", [NOW, {**NOW, "a key of a later version": [1]}])
def test_a_run_of_the_same_rows_resumes(job: Any, tmp_path: Path, before: dict[str, Any]) -> None:
    write_data_record(job)
    (tmp_path / run_files.DATA).write_text(json.dumps(before))
    write_data_record(job)
    assert json.loads((tmp_path / run_files.DATA).read_text()) == NOW


MALFORMED = {
    "other rows": (json.dumps({**NOW, "fingerprint": "0" * 64}).encode(), "started with different rows of the task"),
    "another checkpoint": (json.dumps({**NOW, "checkpoint": "0" * 64}).encode(), "different weights in the checkpoint"),
    "empty": (b"", "damaged"),
    "truncated": (json.dumps(NOW).encode()[:-9], "damaged"),
    "a list": (b"[]", "damaged"),
    "null": (b"null", "damaged"),
    "a missing key": (b"{}", "fingerprint: missing"),
    "another type": (b'{"fingerprint": 1}', "fingerprint: expected text"),
    "nested": (b"[" * 100_000, "damaged"),
    "a huge number": (b'{"fingerprint": 1' + b"0" * 10_000 + b"}", "damaged"),
    "not UTF-8": (b'{"fingerprint": "\xff"}', "damaged"),
    "NUL": (b"\0" * 100, "damaged"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_or_different_record_is_one_error(job: Any, tmp_path: Path, case: str) -> None:
    content, message = MALFORMED[case]
    path = tmp_path / run_files.DATA
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        write_data_record(job)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert path.read_bytes() == content
