import hashlib
import io
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest

from ldarnet.errors import UserError
from ldarnet.io.retry import Retry
from ldarnet.tasks import Task, find_task, open_task
from ldarnet.tasks.downloads import fetch_task
from tests.support.publishers import Server

TRAIN = b"".join(b">r%d|%d\n%s\n" % (row, row % 2, b"ACGT" * 100) for row in range(4000))
TEST = b">t0|0\nAAAA\n>t1|1\nCCCC\n"
QUICK = Retry(max_attempts=3, first_wait=0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.files |= {"H3/train.fna": TRAIN, "H3/test.fna": TEST}
    yield server
    server.shutdown()
    server.server_close()


def at(server: Server, name: str = "H3", **changes) -> Task:
    """The task with file URLs on the test server."""
    task, url = find_task(name), f"http://127.0.0.1:{server.server_port}"
    return replace(task, files=tuple(replace(file, url=f"{url}/{name}/{file.name}", **changes) for file in task.files))


def home(cache: Path) -> Path:
    return cache / "nucleotide_transformer" / "H3"


def test_task_is_downloaded_once(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ldarnet.tasks.dataset.find_task", lambda _: at(server))
    data = open_task("H3", cache=tmp_path)
    assert len(data.train) == 4000
    assert data.test.sequences == ["AAAA", "CCCC"]
    assert data.source == f"{find_task('H3').source} at revision {find_task('H3').revision}"
    digest = hashlib.sha256(TRAIN).hexdigest()
    assert any(note.startswith("train.fna could not be verified") and digest in note for note in data.notes)
    printed = capsys.readouterr().err
    assert f"{len(TRAIN):,} bytes, NOT VERIFIED (its publisher states no hash), sha256 {digest}" in printed
    receipt = json.loads((home(tmp_path) / "fetched.json").read_text())["train.fna"]
    assert receipt["sha256"] == digest
    assert receipt["size"] == len(TRAIN)
    count = len(server.requests)
    assert open_task("H3", cache=tmp_path).fingerprint == data.fingerprint
    assert len(server.requests) == count
    assert capsys.readouterr().err == ""


def test_packaged_genomic_benchmark_is_read_from_its_zip(server, tmp_path, monkeypatch):
    content = io.BytesIO()
    with ZipFile(content, "w") as archive:
        for split in ("train", "test"):
            for kind in ("negative", "positive"):
                archive.writestr(f"human_enhancers_cohn/{split}/{kind}/0.txt", "ACGT")
    server.files["human_enhancers_cohn/human_enhancers_cohn_v0.zip"] = content.getvalue()
    monkeypatch.setattr("ldarnet.tasks.dataset.find_task", lambda _: at(server, "human_enhancers_cohn"))
    data = open_task("human_enhancers_cohn", cache=tmp_path)
    assert data.train.names == ["negative/0", "positive/0"]
    assert "2 of them" not in data.notes


def test_killed_download_resumes(server, tmp_path):
    server.pause = 0.05
    process = multiprocessing.get_context("fork").Process(target=fetch_task, args=(at(server), tmp_path, QUICK))
    process.start()
    part = home(tmp_path) / "train.fna.part"
    while not (part.exists() and part.stat().st_size > 200_000):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    have = part.stat().st_size
    assert have < len(TRAIN)
    assert not (home(tmp_path) / "train.fna").exists()
    server.pause = 0
    fetch_task(at(server), tmp_path, QUICK)
    assert ("H3/train.fna", f"bytes={have}-") in server.requests
    assert (home(tmp_path) / "train.fna").read_bytes() == TRAIN


def test_broken_connection_resumes(server, tmp_path):
    server.breaks = 1
    fetch_task(at(server), tmp_path, QUICK)
    assert (home(tmp_path) / "train.fna").read_bytes() == TRAIN


def test_concurrent_downloads_fetch_once(server, tmp_path):
    server.pause = 0.02
    threads = [threading.Thread(target=fetch_task, args=(at(server), tmp_path, QUICK)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 2
    assert (home(tmp_path) / "test.fna").read_bytes() == TEST


def test_a_file_changed_on_disk_is_an_error(server, tmp_path):
    fetch_task(at(server), tmp_path, QUICK)
    (home(tmp_path) / "test.fna").write_bytes(TEST + b"\n")
    with pytest.raises(
        UserError, match=r"test\.fna: changed since it was downloaded on 20.*; delete it to download it again"
    ):
        fetch_task(at(server), tmp_path, QUICK)
    (home(tmp_path) / "test.fna").unlink()
    fetch_task(at(server), tmp_path, QUICK)


def test_a_file_changed_at_the_publisher_is_an_error(server, tmp_path):
    fetch_task(at(server), tmp_path, QUICK)
    (home(tmp_path) / "test.fna").unlink()
    server.files["H3/test.fna"] = TEST.replace(b"A", b"G")
    with pytest.raises(
        UserError,
        match=r"http.*: hash is sha256:.*, expected sha256:.* \(as on 20.*\); .* delete .* to accept the new file",
    ):
        fetch_task(at(server), tmp_path, QUICK)
    assert not (home(tmp_path) / "test.fna").exists()


def test_hash_of_the_registry_is_verified(server, tmp_path, capsys):
    server.files["H3/test.fna"] = TRAIN
    known = at(server, sha256=hashlib.sha256(TRAIN).hexdigest())
    assert fetch_task(known, tmp_path / "good", QUICK)[1] == []
    assert "bytes, verified, sha256" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"train\.fna: http.*: hash is .* \(stated in the registry\); the file was damaged .* report it"
    ):
        fetch_task(at(server, sha256="0" * 64), tmp_path / "bad", QUICK)


def test_other_file_types_are_rejected(server, tmp_path):
    """For example a login page, which servers return with status 200."""
    server.files["H3/train.fna"] = b"<!DOCTYPE html><title>Log in</title>"
    with pytest.raises(
        UserError, match=r"train\.fna: http.* returned a file of another type, which starts with b'<!DOCTYPE"
    ):
        fetch_task(at(server), tmp_path, QUICK)
    server.files["H3/train.fna"] = TRAIN
    folder, _ = fetch_task(at(server), tmp_path, QUICK)
    assert (folder / "H3" / "train.fna").read_bytes() == TRAIN


def test_stop_request_ends_retries(tmp_path):
    nowhere = replace(find_task("H3"), files=(replace(find_task("H3").files[0], url="http://127.0.0.1:1/train.fna"),))
    begin = time.monotonic()
    with pytest.raises(UserError, match="stopped; run the same command again to resume"):
        fetch_task(nowhere, tmp_path, Retry(first_wait=100, stopped=lambda: time.monotonic() - begin > 1))
    assert time.monotonic() - begin < 50


def test_user_files_are_not_overwritten(server, tmp_path):
    home(tmp_path).mkdir(parents=True)
    (home(tmp_path) / "train.fna").write_text("mine")
    with pytest.raises(
        UserError, match=r"train\.fna: exists but was not downloaded by this program; .* another data\.cache"
    ):
        fetch_task(at(server), tmp_path, QUICK)
    assert (home(tmp_path) / "train.fna").read_text() == "mine"


def test_missing_file_and_unreachable_server_are_one_line_errors(server, tmp_path):
    del server.files["H3/train.fna"]
    with pytest.raises(UserError, match=r"http.*train\.fna: not found \(HTTP 404\)"):
        fetch_task(at(server), tmp_path, QUICK)
    nowhere = replace(at(server), files=tuple(replace(f, url="http://127.0.0.1:1/x") for f in at(server).files))
    with pytest.raises(UserError, match=r"failed after 2 attempts in \d s \(connection refused\)"):
        fetch_task(nowhere, tmp_path, Retry(max_attempts=2, first_wait=0.01))
