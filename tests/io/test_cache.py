"""Caches of frames on disk and in memory."""

import contextlib
import hashlib
import logging
import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from ldarnet.data import ShardSet
from ldarnet.io.cache import DiskCache, MemoryCache, default_cache_folder
from ldarnet.io.lock import acquire
from ldarnet.io.retry import Retry
from tests.support.range_server import RangeServer

QUICK = Retry(first_wait=0.001, max_wait=0.002, max_total=0.5, timeout=0.2)


def frame(number, size=1000):
    content = number.to_bytes(4, "little") * (size // 4)
    return hashlib.sha256(content).hexdigest(), content


def held(folder):
    return sum(path.stat().st_size for path in folder.glob("frames/??/*"))


def test_least_recently_used_frames_are_evicted(tmp_path):
    cache = DiskCache(tmp_path, 10_000)
    for number in range(10):
        cache.put(*frame(number))
        os.utime(cache._path(frame(number)[0]), (number, number))
    assert [frame(number)[0] in cache for number in range(10)] == [True] * 10
    assert cache.get(frame(0)[0]) == frame(0)[1]
    assert cache.put(*frame(10))
    kept = [number for number in range(11) if frame(number)[0] in cache]
    assert kept == [0, *range(3, 11)]
    assert held(tmp_path) <= 10_000
    assert cache.get("0" * 64) is None
    assert not cache.put(*frame(11, 20_000))


def test_a_damaged_frame_is_removed(tmp_path):
    cache, (digest, content) = DiskCache(tmp_path, 10_000), frame(1)
    for damage in (content[:-1], content[:-1] + b"x", b""):
        cache.put(digest, content)
        cache._path(digest).write_bytes(damage)
        assert cache.get(digest) is None
        assert digest not in cache


def test_a_damaged_size_record_is_corrected(tmp_path):
    cache = DiskCache(tmp_path, 3000)
    cache.put(*frame(0))
    for text in (b"", b"many", b"-7\n", b"99999999"):
        (tmp_path / "frames" / "bytes").write_bytes(text)
        for number in range(1, 9):
            assert cache.put(*frame(number))
        assert 1000 <= held(tmp_path) <= 3000


def put_many(folder, seed):
    cache = DiskCache(folder, 20_000)
    for number in range(150):
        digest, content = frame(seed * 75 + number)
        assert cache.put(digest, content)
        assert cache.get(digest) in (None, content)


def test_processes_share_one_cache_and_its_limit(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=put_many, args=(tmp_path, seed)) for seed in range(4)]
    for writer in writers:
        writer.start()
    largest = 0
    while any(writer.is_alive() for writer in writers):
        with contextlib.suppress(FileNotFoundError), acquire(tmp_path / "frames" / "bytes"):
            largest = max(largest, held(tmp_path))
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert 10_000 < held(tmp_path) <= 20_000
    assert largest <= 20_000 + 4 * 1000
    assert not list(tmp_path.glob("frames/??/.*"))


def put_without_end(folder):
    cache = DiskCache(folder, 10**6)
    for number in range(10**9):
        cache.put(*frame(number, 40_000))


def test_a_killed_writer_leaves_a_valid_cache(tmp_path):
    for _ in range(5):
        writer = multiprocessing.get_context("fork").Process(target=put_without_end, args=(tmp_path,))
        writer.start()
        deadline = time.monotonic() + 10
        while not held_safely(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    cache = DiskCache(tmp_path, 10**6)
    # An old partial file of a killed writer is deleted.
    left = tmp_path / "frames" / "00" / ".half.partial"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"x" * 1000)
    os.utime(left, (0, 0))
    for number in range(30):
        digest, content = frame(number, 40_000)
        assert cache.put(digest, content)
        assert cache.get(digest) == content
    assert held(tmp_path) <= 10**6
    assert not left.exists()
    for path in tmp_path.glob("frames/??/[0-9a-f]*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def held_safely(folder):
    with contextlib.suppress(FileNotFoundError):
        return held(folder)
    return 0


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs permission to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_reported_once_and_reading_continues(small_disk, caplog):
    cache = DiskCache(small_disk, 10**6)
    with caplog.at_level(logging.WARNING):
        kept = [cache.put(*frame(number, 10_000)) for number in range(10)]
    assert kept[0] and not kept[-1]
    assert len(caplog.records) == 1
    assert "no space left on device" in caplog.text
    assert cache.get(frame(0, 10_000)[0]) == frame(0, 10_000)[1]
    assert not list(small_disk.glob("frames/??/.*"))


def test_a_set_is_readable_when_the_cache_disk_is_full(make_set, small_disk, caplog):
    local = make_set({"a": "ACGTTTGA" * 100}, block=100)
    server = RangeServer(local.folder)
    with contextlib.suppress(OSError):
        (small_disk / "filler").write_bytes(bytes(10**6))
    try:
        shards = ShardSet.open(server.url, disk_cache=small_disk, retry=QUICK)
        assert shards.text("a", 0, 800) == "ACGTTTGA" * 100
    finally:
        server.close()
    assert f"storing the index of {server.url} in" in caplog.text
    assert "disk cache disabled" in caplog.text


def test_an_unusable_cache_folder_is_reported_once(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = DiskCache(tmp_path / "file" / "cache", 10**6)
    assert not cache.put(*frame(0)) and not cache.put(*frame(1))
    assert cache.get(frame(0)[0]) is None
    assert len(caplog.records) == 1


def test_frames_in_memory_are_bounded():
    cache = MemoryCache(3500)
    for number in range(10):
        cache.put(*frame(number))
    assert [number for number in range(10) if frame(number)[0] in cache] == [7, 8, 9]
    assert cache.get(frame(9)[0]) == frame(9)[1]


def test_default_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "ldarnet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache_folder() == tmp_path / "x" / "ldarnet"
