import errno
import os
import pickle
import time
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet.errors import TransientError, UserError
from ldarnet.io import download
from ldarnet.io.download import read_text
from ldarnet.io.retry import Retry
from ldarnet.io.storage import MAX_OPEN, DamagedError, MissingError, storage_at
from tests.support import range_server as faults
from tests.support.range_server import RangeServer, times

QUICK = Retry(first_wait=0.001, max_wait=0.002, max_total=0.5, timeout=0.2)
CONTENT = bytes(range(256)) * 20


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.tar").write_bytes(CONTENT)
    server = RangeServer(folder)
    yield server
    server.close()


@pytest.fixture
def remote(server):
    return storage_at(server.url, QUICK)


# A folder


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6000), st.integers(0, 6000))
def test_ranges_are_read_and_end_with_the_file(tmp_path_factory, start, size):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "a.tar").write_bytes(CONTENT)
    storage = storage_at(folder)
    assert storage.read("a.tar", start, start + size) == CONTENT[start : start + size]
    assert (storage.size("a.tar"), storage.read_all("a.tar", 9000)) == (len(CONTENT), CONTENT)


def test_a_bounded_number_of_files_stays_open_and_none_is_pickled(tmp_path):
    storage = storage_at(f"file://{tmp_path}")
    for number in range(2 * MAX_OPEN):
        (tmp_path / f"{number}.tar").write_bytes(b"%d" % number)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        assert [storage.read(f"{number}.tar", 0, 9) for number in range(2 * MAX_OPEN)] == [
            b"%d" % number for number in range(2 * MAX_OPEN)
        ]
    assert MAX_OPEN - 1 <= len(list(Path("/proc/self/fd").iterdir())) - before <= MAX_OPEN + 1
    assert pickle.loads(pickle.dumps(storage)).read("7.tar", 0, 9) == b"7"


def test_a_replaced_file_is_reopened_after_forget(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"old")
    storage = storage_at(tmp_path)
    assert storage.read("a.tar", 0, 9) == b"old"
    (tmp_path / "b.tar").write_bytes(b"new")
    (tmp_path / "b.tar").rename(tmp_path / "a.tar")
    storage.forget("a.tar")
    assert storage.read("a.tar", 0, 9) == b"new"


def test_a_missing_file_is_damage_and_a_missing_permission_is_not(tmp_path, monkeypatch):
    storage = storage_at(tmp_path)
    reads = (lambda: storage.read("a.tar", 0, 1), lambda: storage.read_all("a.tar", 9), lambda: storage.size("a.tar"))
    for read in reads:
        with pytest.raises(MissingError, match=r"a\.tar: missing; copy .* again, or delete it and rebuild it"):
            read()

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"a\.tar: no permission to read it") as refused:
        storage.read("a.tar", 0, 1)
    assert not isinstance(refused.value, DamagedError)


# A server


def test_ranges_and_whole_files_are_read_from_a_server(server, remote):
    assert remote.read("a.tar", 100, 300) == CONTENT[100:300]
    assert remote.read_all("a.tar", len(CONTENT)) == CONTENT
    assert remote.size("a.tar") == len(CONTENT)
    assert server.requests[:2] == [("/a.tar", "bytes=100-299"), ("/a.tar", "")]
    assert pickle.loads(pickle.dumps(remote)).read("a.tar", 5, 7) == CONTENT[5:7]


FAULTS = {
    "500": faults.status(500),
    "503": faults.status(503),
    "429": faults.status(429),
    "broken in the middle": faults.break_off,
    "ended early": faults.end_early,
    "reset": faults.hang_up,
    "slow": faults.be_slow(0.4),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_transient_faults_are_retried(server, fault, caplog):
    server.faults = [times(2, fault)]
    storage = storage_at(server.url, Retry(first_wait=0.001, max_wait=0.002, max_total=20, timeout=0.3))
    assert storage.read("a.tar", 1000, 1200) == CONTENT[1000:1200]
    assert len(server.requests) == 3
    attempts_logged = [record.message.split(" failed")[0] for record in caplog.records]
    attempts = 1 if fault is faults.hang_up else 2  # the HTTP library itself retries a lost connection once
    assert attempts_logged == [
        f"{server.url}/a.tar (bytes 1000-1200): attempt {number + 1}" for number in range(attempts)
    ]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_persistent_fault_is_reported_with_url_attempts_and_cause(server, remote, fault):
    server.faults = [fault]
    began = time.monotonic()
    if fault is faults.end_early:
        assert remote.read("a.tar", 1000, 1200) == b"x" * 10  # looks like a shorter file; only a hash can detect it
    else:
        with pytest.raises(
            TransientError, match=r"/a\.tar \(bytes 1000-1200\): failed after \d+ attempts in"
        ) as failed:
            remote.read("a.tar", 1000, 1200)
        assert "check the network and the server" in str(failed.value)
        assert not isinstance(failed.value, DamagedError)
    assert time.monotonic() - began < 5
    assert len(server.requests) > 1


def test_an_unreachable_server_is_reported(tmp_path):
    server = RangeServer(tmp_path)
    server.close()
    with pytest.raises(UserError, match=r"failed after \d+ attempts .* check the network and the server"):
        storage_at(server.url, QUICK).read("a.tar", 0, 1)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (404, MissingError, "missing; copy"),
        (410, MissingError, "missing; copy"),
        (401, UserError, r"no permission to read it \(401\); check your credentials"),
        (403, UserError, r"no permission to read it \(403\); check your credentials"),
        (400, UserError, "cannot be read .*400.*; check the address"),
    ],
)
def test_permanent_errors_are_not_retried(server, remote, code, kind, message):
    server.faults = [faults.status(code)]
    for read in (lambda: remote.read("a.tar", 10, 20), lambda: remote.read_all("a.tar", 9)):
        with pytest.raises(UserError, match=message) as refused:
            read()
        assert type(refused.value) is kind
    assert len(server.requests) == 2


def test_a_server_without_range_support_is_rejected_before_it_sends_the_file(server, remote):
    server.faults = [faults.ignore_range]
    with pytest.raises(UserError, match="the server does not support range requests"):
        remote.read("a.tar", 1000, 1200)
    assert remote.read("a.tar", 0, 200) == CONTENT[:200]
    assert len(server.requests) == 2


@pytest.mark.parametrize("place", ["server", "folder", "file system"])
def test_a_file_is_read_only_up_to_its_maximum_size(server, remote, place):
    fsspec.filesystem("memory").pipe_file("/set/a.tar", CONTENT)
    storages = {"server": remote, "folder": storage_at(server.folder), "file system": storage_at("memory://set")}
    storage = storages[place]
    assert storage.read_all("a.tar", len(CONTENT)) == CONTENT
    with pytest.raises(UserError, match=r"a\.tar: larger than 5,119 bytes, so it is not the expected file; check"):
        storage.read_all("a.tar", len(CONTENT) - 1)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda storage: storage.read_all("index.json", 10_000), "larger than 10,000 bytes"),
        (lambda storage: storage.read("index.json", 0, 10_000), "does not support range requests"),
        (lambda storage: storage.read("index.json", 10, 10_000), "does not support range requests"),
        (
            lambda storage: read_text(storage.locate("index.json"), QUICK),
            "larger than 10,000 bytes, too large for a list of files",
        ),
    ],
)
def test_a_server_that_sends_bytes_without_end_is_cut_off(server, monkeypatch, read, message):
    monkeypatch.setattr(download, "MAX_TEXT_BYTES", 10_000)
    sent: list[int] = []
    server.faults = [faults.endless(sent, most=2**28)]
    storage = storage_at(server.url, Retry(timeout=20))
    with pytest.raises(UserError, match=message):
        read(storage)
    assert len(server.requests) == 1
    assert sum(sent) < 2**26


def test_unknown_protocols_are_rejected():
    with pytest.raises(UserError, match=r"cannot be read .*Protocol not known: nowhere"):
        storage_at("nowhere://set", QUICK).read("a.tar", 0, 1)


def test_waits_double_up_to_a_limit(monkeypatch):
    waits = []
    monkeypatch.setattr(Retry, "_wait", lambda _, seconds: waits.append(seconds))
    failures = iter([OSError()] * 8)

    def read(_):
        for failure in failures:
            raise failure
        return "read"

    assert Retry(first_wait=1, max_wait=20, max_total=1e9)("it", read) == "read"
    for wait, longest in zip(waits, (1, 2, 4, 8, 16, 20, 20, 20), strict=True):
        assert longest / 2 <= wait <= longest
