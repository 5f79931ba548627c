import multiprocessing
import pickle
import shutil
import time
from dataclasses import replace

import fsspec
import numpy as np
import pytest
import webdataset

from ldarnet.data import ShardSet, decode_sample
from ldarnet.data.index_file import INDEX_NAME, TABLES
from ldarnet.errors import UserError
from ldarnet.io.retry import Retry
from ldarnet.io.storage import DamagedError
from tests.support import range_server as faults
from tests.support.range_server import RangeServer, times
from tests.support.sample_set import CONTIGS, change_block, damage, every_window, everything

QUICK = Retry(first_wait=0.001, max_wait=0.01, max_total=4, timeout=1.5)


@pytest.fixture
def local(make_set):
    """Shard set of 31 blocks in several shards."""
    return make_set(CONTIGS, block=100, shard_size=1200)


@pytest.fixture
def server(local):
    server = RangeServer(local.folder)
    yield server
    server.close()


@pytest.fixture
def open_remote(server, tmp_path):
    def open_remote(**options):
        return ShardSet.open(server.url, **({"disk_cache": tmp_path / "cache", "retry": QUICK} | options))

    return open_remote


def test_a_remote_set_equals_a_local_one_and_is_fetched_once(local, server, open_remote):
    shards = open_remote()
    assert shards.fingerprint == local.fingerprint
    assert shards.location == server.url
    assert everything(shards) == CONTIGS
    before = len(server.requests)
    again = open_remote()
    assert everything(again) == CONTIGS
    assert [path for path, _ in server.requests[before:]] == [f"/{INDEX_NAME}"]


def test_adjacent_blocks_are_fetched_in_one_request(local, server, open_remote):
    shards = open_remote(disk_cache_bytes=0)
    assert shards.text("one", 0, 1000) == CONTIGS["one"][:1000]
    assert 1 <= len(server.shard_requests()) <= 4
    contig, start = np.zeros(8, dtype=np.int64), np.arange(1000, 1800, 100)
    ids, _ = shards.read_windows(contig, start, 100)
    np.testing.assert_array_equal(ids, local.read_windows(contig, start, 100)[0])
    assert len(server.shard_requests()) <= 8


def test_any_fsspec_file_system_works(local, tmp_path):
    memory = fsspec.filesystem("memory")
    for path in local.folder.iterdir():
        memory.pipe(f"/set/{path.name}", path.read_bytes())
    shards = ShardSet.open("memory://set", disk_cache=tmp_path, retry=QUICK)
    assert everything(shards) == CONTIGS
    memory.rm("/set", recursive=True)
    with pytest.raises(UserError, match="memory://set: not a shard set"):
        ShardSet.open("memory://set", disk_cache=tmp_path, retry=QUICK)


def test_prefetched_blocks_are_read_without_a_request(server, open_remote):
    for options in ({}, {"disk_cache_bytes": 0}):
        shards = open_remote(**options)
        shards.prefetch(range(12))
        for block in range(12):
            shards.block(block)
        asked = len(server.shard_requests())
        assert asked < 12
        server.faults = [faults.status(403)]
        assert shards.text("one", 0, 1200) == CONTIGS["one"][:1200]
        server.faults = []
        shards.prefetch(range(12))
        time.sleep(0.1)
        assert len(server.shard_requests()) == asked
        server.requests.clear()


def test_prefetch_errors_are_raised_when_the_block_is_read(local, server, open_remote):
    shards = open_remote(retry=replace(QUICK, max_attempts=5))
    change_block(local, 2)
    shards.prefetch(range(5))
    assert shards.text("one", 0, 200) == CONTIGS["one"][:200]
    assert shards.text("one", 300, 500) == CONTIGS["one"][300:500]
    with pytest.raises(DamagedError, match=rf"{server.url}/.*\.tar: block 2 \(one:201-300\) does not match"):
        shards.text("one", 250, 260)
    server.faults = [faults.status(500)]
    shards.prefetch([10])
    with pytest.raises(UserError, match=r"failed after \d+ attempts"):
        shards.text("one", 1000, 1010)


def read_in_child(shards, connection):
    shards.prefetch(range(20))
    connection.send(everything(shards))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_other_processes_read_the_same_set(open_remote, method):
    shards = open_remote(disk_cache_bytes=0)
    shards.prefetch(range(20))
    shards.text("one", 0, 50)
    assert len(pickle.dumps(shards)) < 5000
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=read_in_child, args=(shards, theirs))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == CONTIGS
    child.join()
    assert everything(shards) == CONTIGS


def test_transient_remote_errors_are_retried(server, open_remote):
    kinds = (faults.status(500), faults.break_off, faults.hang_up, faults.be_slow(0.3))
    server.faults = [times(1, fault, path) for fault in kinds for path in (INDEX_NAME, "blocks.npy", ".tar")]
    server.faults += [times(1, faults.end_early, "blocks.npy"), times(1, faults.end_early)]
    assert everything(open_remote(retry=Retry(0.001, 0.01, 30, 0.2, max_short_reads=10))) == CONTIGS


def test_transient_errors_and_lack_of_permission_are_never_quarantined(server, open_remote):
    shards = open_remote(on_damaged="quarantine", retry=replace(QUICK, max_attempts=5))
    for fault, message in ((faults.status(500), "failed after"), (faults.status(403), "no permission")):
        server.faults = [fault]
        with pytest.raises(UserError, match=message) as refused:
            shards.read_windows(np.array([0]), np.array([250]), 20)
        assert not isinstance(refused.value, DamagedError)
    server.faults = []
    assert shards.read_windows(np.array([0]), np.array([250]), 20)[1] == []


def test_damage_on_a_server_is_quarantined(local, server, open_remote):
    contig, start = every_window(local)
    damage(local)
    shards = open_remote(on_damaged="quarantine")
    ids, damaged = shards.read_windows(contig, start, 50)
    same, rows = ShardSet.open(local.folder, on_damaged="quarantine").read_windows(contig, start, 50)
    np.testing.assert_array_equal(ids, same)
    assert [row for row, _ in damaged] == [row for row, _ in rows]
    assert 0 < len(damaged) < len(contig)
    assert all(server.url in message for _, message in damaged)
    shutil.rmtree(local.folder)
    with pytest.raises(UserError, match="the shard set no longer exists"):
        shards.block(20)


def test_a_damaged_frame_in_the_cache_is_fetched_again(open_remote, tmp_path, server):
    assert everything(open_remote()) == CONTIGS
    frames = sorted(tmp_path.glob("cache/frames/??/*"))
    assert len(frames) == 31
    for path in frames[::3]:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    server.requests.clear()
    assert everything(open_remote()) == CONTIGS
    assert server.shard_requests()
    assert everything(open_remote()) == CONTIGS


def test_a_damaged_index_in_the_cache_is_fetched_again(open_remote, tmp_path):
    open_remote()
    for path in tmp_path.glob("cache/indexes/*/*"):
        if path.name in (INDEX_NAME, *TABLES):
            content = path.read_bytes()
            path.write_bytes(content[:-3])
            assert everything(open_remote()) == CONTIGS
            assert path.read_bytes() == content


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_or_missing_table_on_a_server_is_reported(local, server, open_remote, name):
    path = local.folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    with pytest.raises(UserError, match=rf"{server.url}/{name}: damaged or changed"):
        open_remote()
    path.unlink()
    with pytest.raises(UserError, match=rf"{server.url}/{name}: missing"):
        open_remote()
    path.write_bytes(content)
    assert everything(open_remote()) == CONTIGS


def test_addresses_without_a_shard_set_are_rejected(local, server, open_remote):
    for text, message in ((b"[1]", "not the index"), (b"{", "damaged"), (b'{"format": "ldarnet-shards"}', "version")):
        (local.folder / INDEX_NAME).write_bytes(text)
        with pytest.raises(UserError, match=message) as refused:
            open_remote()
        assert str(refused.value).startswith(f"{server.url}/index.json: ")
    (local.folder / INDEX_NAME).unlink()
    with pytest.raises(UserError, match=rf"{server.url}: not a shard set"):
        open_remote()


def test_a_set_replaced_on_the_server_is_detected(make_set, local, server, open_remote):
    before = open_remote(disk_cache_bytes=0)
    other = make_set({name: text.swapcase() for name, text in CONTIGS.items()}, block=100, shard_size=1200)
    for path in other.folder.iterdir():
        shutil.copy(path, local.folder / path.name)
    with pytest.raises(DamagedError, match=r"block 0 \(one:1-100\) does not match"):
        before.text("one", 0, 10)
    assert open_remote().text("one", 0, 2000) == CONTIGS["one"].swapcase()


@pytest.mark.parametrize("in_the_way", ["cache", "cache/frames", "cache/indexes"])
def test_a_set_is_readable_without_a_cache_folder(open_remote, tmp_path, in_the_way, caplog):
    path = tmp_path / in_the_way
    path.parent.mkdir(exist_ok=True)
    path.touch()  # even root cannot use a file as a folder
    for _ in range(2):
        caplog.clear()
        shards = open_remote()
        assert everything(shards) == CONTIGS
        assert 1 <= len(caplog.records) <= 2
    assert pickle.loads(pickle.dumps(shards)).text("one", 0, 50) == CONTIGS["one"][:50]


def test_a_tiny_cache_is_shared_by_processes(local, open_remote, tmp_path):
    shards = open_remote(disk_cache_bytes=600, cache_bytes=1, retry=Retry(0.001, 0.01, 60, 20))
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(3)]
    children = [context.Process(target=read_in_child, args=(shards, theirs)) for _, theirs in pipes]
    for child in children:
        child.start()
    for (ours, _), child in zip(pipes, children, strict=True):
        assert ours.poll(60)
        assert ours.recv() == CONTIGS
        child.join()
    sizes = local.index.blocks.size
    assert 600 + 6 * sizes.max() < sizes.sum()
    held = sum(path.stat().st_size for path in tmp_path.glob("cache/frames/??/*"))
    assert 0 < held <= 600 + 6 * sizes.max(), "more than the limit plus one frame per writing thread"


def test_webdataset_reads_the_sequence(local, server):
    urls = [str(local.folder / shard.name) for shard in local.index.shards]
    remote = [f"pipe:curl -sf {server.url}/{shard.name}" for shard in local.index.shards]
    for source in (urls, remote) if shutil.which("curl") else (urls,):
        samples = list(webdataset.WebDataset(source, shardshuffle=False).map(decode_sample))
        assert "".join(sample["text"] for sample in samples) == "".join(CONTIGS.values())
        assert len({sample["__key__"] for sample in samples}) == len(samples) == len(local.index.blocks)
