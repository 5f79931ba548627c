"""Parallel and interrupted builds are byte-identical."""

import bz2
import fcntl
import gzip
import json
import lzma
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zstandard

import sharding.parts
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from sharding.build import build

SMALL = {"block": 700, "shard_size": 2000}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def genome(seed: int, contigs: int = 12) -> str:
    random = np.random.default_rng(seed)
    parts = []
    for number in range(contigs):
        bases = "".join(random.choice(list("ACGTacgtNRn"), int(random.integers(1, 2500))))
        parts.append(f">c{number} of {seed}\n" + "\n".join(bases[at : at + 60] for at in range(0, len(bases), 60)))
    return "\n".join(parts) + "\n"


@pytest.fixture
def genomes(tmp_path: Path) -> list[Path]:
    for name, seed, contigs in (("a.fa", 0, 12), ("b.fa", 1, 1), ("c.fa", 2, 5)):
        (tmp_path / name).write_text(genome(seed, contigs).replace(">c", f">{name[0]}"))
    return [tmp_path / name for name in ("a.fa", "b.fa", "c.fa")]


@pytest.fixture
def unbroken(tmp_path, genomes) -> dict[str, bytes]:
    build(tmp_path / "unbroken", genomes, **SMALL)
    return files(tmp_path / "unbroken")


def test_parts_are_whole_contigs_and_shards_respect_their_size(tmp_path, genomes, unbroken):
    index = ShardSet.open(tmp_path / "unbroken").index
    names = [shard.name.split("-") for shard in index.shards]
    assert names == sorted(names)
    parts = [tuple(name[1:3]) for name in names]
    assert len(set(parts)) > 4
    held, contigs = np.zeros(len(index.shards), int), {}
    np.add.at(held, index.blocks.shard, index.blocks.length)
    assert held.max() <= 2000
    for contig, shard in zip(index.blocks.contig.tolist(), index.blocks.shard.tolist(), strict=True):
        contigs.setdefault(contig, set()).add(parts[shard])
    assert all(len(found) == 1 for found in contigs.values())


@pytest.mark.parametrize("workers", [3, None])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path, genomes, unbroken, workers):
    build(tmp_path / "set", genomes, workers=workers, **SMALL)
    assert files(tmp_path / "set") == unbroken


@pytest.mark.slow
def test_ray_gives_the_same_bytes(tmp_path, genomes, unbroken):
    pytest.importorskip("ray")
    build(tmp_path / "set", genomes, workers=2, ray="", **SMALL)
    assert files(tmp_path / "set") == unbroken
    genomes[2].write_text(">x\nMKLV\n")
    with pytest.raises(UserError, match="line 2: 'L' is not a nucleotide code"):
        build(tmp_path / "bad", genomes, workers=2, ray="", **SMALL)


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress}


@pytest.mark.parametrize("ending", PACK)
def test_compressed_files_give_the_shards_of_plain_ones(tmp_path, genomes, unbroken, ending):
    packed = [Path(f"{path}.{ending}") for path in genomes]
    for plain, path in zip(genomes, packed, strict=True):
        path.write_bytes(PACK[ending](plain.read_bytes()))
    build(tmp_path / "set", packed, workers=2, **SMALL)
    found = files(tmp_path / "set")
    assert found.pop("index.json") != unbroken.pop("index.json")
    assert found == unbroken


def stop_after(parts: int, kill: Callable[[], None]) -> None:
    """Make this process and its forks call `kill` before packing any part after the first `parts`."""
    done, pack = multiprocessing.get_context("fork").Value("i", 0), sharding.parts._pack

    def packing(*arguments):
        with done.get_lock():
            done.value += 1
            last = done.value > parts
        if last:
            kill()
        time.sleep(0.02)
        return pack(*arguments)

    sharding.parts._pack = packing


def killed(out: Path, genomes: list[Path], workers: int, parts: int) -> None:
    builder = os.getpid()
    stop_after(parts, lambda: (os.kill(builder, signal.SIGKILL), time.sleep(1)))
    build(out, genomes, workers=workers, **SMALL)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_a_killed_build_resumes(tmp_path, genomes, workers, packed):
    if packed:
        for number, path in enumerate(genomes):
            genomes[number] = Path(f"{path}.gz")
            genomes[number].write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    build(tmp_path / "unbroken", genomes, **SMALL)
    out = tmp_path / "set"
    builder = multiprocessing.get_context("fork").Process(target=killed, args=(out, genomes, workers, 5))
    builder.start()
    builder.join()
    assert builder.exitcode == -signal.SIGKILL
    assert not (out / "index.json").exists()
    wait_until_free(out)
    before = {path: path.stat().st_ino for path in out.glob("shard-*.tar")}
    receipts = {path.stem for path in (out / "unfinished").glob("*.npz")}
    assert len(receipts) >= 3
    kept = {path: inode for path, inode in before.items() if path.name[6:16] in receipts}
    build(out, genomes, workers=3 - workers, **SMALL)
    assert files(out) == files(tmp_path / "unbroken")
    assert {path: path.stat().st_ino for path in kept} == kept


def test_parts_after_a_missing_one_are_kept(tmp_path, genomes):
    build(tmp_path / "unbroken", genomes[:1], **SMALL)
    out = tmp_path / "set"
    builder = multiprocessing.get_context("fork").Process(target=killed, args=(out, genomes[:1], 2, 4))
    builder.start()
    builder.join()
    wait_until_free(out)
    first, *others = sorted(path.stem for path in (out / "unfinished").glob("00000-*.npz"))
    assert others
    (out / "unfinished" / f"{first}.npz").unlink()
    kept = {path: path.stat().st_ino for path in out.glob("shard-*.tar") if path.name[6:16] in others}
    assert kept
    build(out, genomes[:1], workers=1, **SMALL)
    assert files(out) == files(tmp_path / "unbroken")
    assert {path: path.stat().st_ino for path in kept} == kept


def wait_until_free(out: Path) -> None:
    """Wait until the workers of a killed builder have exited and released its lock."""
    descriptor = os.open(out, os.O_RDONLY)
    try:
        for _ in range(200):
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.05)
        raise AssertionError("the workers outlive a killed builder")
    finally:
        os.close(descriptor)


def test_a_killed_worker_is_reported_and_the_build_resumes(tmp_path, genomes, unbroken, monkeypatch):
    monkeypatch.setattr(sharding.parts, "_pack", sharding.parts._pack)
    builder = os.getpid()
    stop_after(3, lambda: os.getpid() != builder and os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"a worker process was killed, .* run the same command again"):
        build(tmp_path / "set", genomes, workers=2, **SMALL)
    monkeypatch.undo()
    assert list((tmp_path / "set" / "unfinished").glob("*.npz"))
    build(tmp_path / "set", genomes, workers=2, **SMALL)
    assert files(tmp_path / "set") == unbroken


def interrupted(tmp_path: Path, genomes: list[Path], monkeypatch: pytest.MonkeyPatch, parts: int = 4) -> Path:
    """Folder of a build that was interrupted in this process after the given number of parts."""

    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(sharding.parts, "_pack", sharding.parts._pack)
    stop_after(parts, stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "set", genomes, **SMALL)
    monkeypatch.undo()
    return tmp_path / "set"


def test_a_damaged_shard_is_rebuilt(tmp_path, genomes, unbroken, monkeypatch):
    out = interrupted(tmp_path, genomes, monkeypatch)
    first, second, *_ = sorted(out.glob("*.tar"))
    content = bytearray(first.read_bytes())
    content[600] ^= 1
    first.write_bytes(content)
    second.unlink()
    build(out, genomes, **SMALL)
    assert files(out) == unbroken


def test_a_changed_source_is_packed_again_and_the_others_are_kept(tmp_path, genomes, monkeypatch):
    out = interrupted(tmp_path, genomes, monkeypatch, 7)
    kept = {path: path.stat().st_ino for path in out.glob("shard-00000-*.tar")}
    genomes[1].write_text(genome(7, 1).replace(">c", ">b"))
    build(out, genomes, **SMALL)
    build(tmp_path / "other", genomes, **SMALL)
    assert files(out) == files(tmp_path / "other")
    assert {path: path.stat().st_ino for path in kept} == kept


def test_changed_splits_keep_packed_parts_and_a_changed_block_does_not(tmp_path, genomes, monkeypatch):
    out = interrupted(tmp_path, genomes, monkeypatch, 7)
    kept = {path: path.stat().st_ino for path in out.glob("shard-00000-*.tar")}
    with pytest.raises(UserError, match="no contig 'z1'"):
        build(out, genomes, contig_splits={"valid": ["z1"]}, **SMALL)
    build(out, genomes, contig_splits={"valid": ["b0"]}, **SMALL)
    assert {path: path.stat().st_ino for path in kept} == kept

    (tmp_path / "more").mkdir()
    out = interrupted(tmp_path / "more", genomes, monkeypatch)
    build(out, genomes, block=333, shard_size=2000)
    build(tmp_path / "other", genomes, block=333, shard_size=2000)
    assert files(out) == files(tmp_path / "other")


def test_a_source_that_changes_during_the_build_is_rejected(tmp_path, genomes, monkeypatch):
    pack = sharding.parts._pack

    def packing(*arguments):
        genomes[0].touch()
        return pack(*arguments)

    monkeypatch.setattr(sharding.parts, "_pack", packing)
    with pytest.raises(UserError, match=r"a\.fa: changed while it was being read"):
        build(tmp_path / "set", genomes, **SMALL)


def test_a_truncated_file_is_reported_and_its_replacement_resumes(tmp_path, genomes):
    whole = gzip.compress(genomes[0].read_bytes(), mtime=0)
    packed = tmp_path / "a.fa.gz"
    packed.write_bytes(whole[:-2000])
    with pytest.raises(UserError, match=r"a\.fa\.gz: .*truncated"):
        build(tmp_path / "set", [packed, *genomes[1:]], workers=2, **SMALL)
    assert not (tmp_path / "set" / "index.json").exists()
    packed.write_bytes(whole)
    build(tmp_path / "set", [packed, *genomes[1:]], workers=2, **SMALL)
    build(tmp_path / "unbroken", [packed, *genomes[1:]], **SMALL)
    assert files(tmp_path / "set") == files(tmp_path / "unbroken")


def flip_bit(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 2),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
    "nested": lambda path: path.write_bytes(b"[" * 10**5),
    "a huge number": lambda path: path.write_text('{"size": 1e999, "sha256": "", "parts": 1}'),
    **{f"bit at {share}": partial(flip_bit, share=share) for share in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1)},
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["*.npz", "*.seal.json"])
def test_damaged_receipts_and_seals_are_packed_again(tmp_path, genomes, unbroken, monkeypatch, caplog, kind, damage):
    out = interrupted(tmp_path, genomes, monkeypatch, 8)
    path = sorted((out / "unfinished").glob(kind))[0]
    DAMAGE[damage](path)
    build(out, genomes, **SMALL)
    assert files(out) == unbroken
    assert str(path) in caplog.text


@pytest.mark.parametrize("key", ["size", "sha256", "parts"])
def test_a_seal_with_another_value_never_ends_up_in_the_index(tmp_path, genomes, unbroken, monkeypatch, key):
    out = interrupted(tmp_path, genomes, monkeypatch, 8)
    path = sorted((out / "unfinished").glob("*.seal.json"))[0]
    content = json.loads(path.read_text())
    content[key] = "0" * 64 if key == "sha256" else content[key] - 1
    path.write_text(json.dumps(content))
    build(out, genomes, **SMALL)
    assert files(out) == unbroken


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"request": {}, "sources": []}', '{"model": "x"}', "\xff"])
def test_an_unfinished_folder_of_another_program_is_kept(tmp_path, genomes, text):
    mine = tmp_path / "mine"
    (mine / "unfinished").mkdir(parents=True)
    (mine / "unfinished/request.json").write_text(text)
    for name in ("unfinished/00000-0000.npz", "shard-00000-0000-0000.tar", ".x.partial"):
        (mine / name).write_text("mine")
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"request\.json: damaged .* otherwise choose another --out"):
        build(mine, genomes, **SMALL)
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before


FOREIGN = [
    "shard-data.tar",
    "shard-1.tar",
    ".thesis.partial",
    ".x.tar.0123abcd.partial",
    "shard-00000-0000-0000.tar.gz",
]


@pytest.mark.parametrize("block", [700, 333])
def test_resuming_deletes_only_files_that_a_build_writes(tmp_path, genomes, monkeypatch, block):
    out = interrupted(tmp_path, genomes, monkeypatch)
    for name in FOREIGN:
        (out / name).write_text("mine")
    (out / "shard-00099-0000-0000.tar").mkdir()
    ours = [".shard-00000-0000-0001.tar.0123abcd.partial", ".blocks.npy.0123abcd.partial", "shard-00098-0000-0000.tar"]
    for name in ours:
        (out / name).write_text("ours")
    build(out, genomes, block=block, shard_size=2000)
    assert {name: (out / name).read_text() for name in FOREIGN} == dict.fromkeys(FOREIGN, "mine")
    assert (out / "shard-00099-0000-0000.tar").is_dir()
    assert not any((out / name).exists() for name in ours)
    assert ShardSet.open(out).contigs


@pytest.mark.parametrize("name", ["thesis.txt", "00000-0000.npz.bak", "link.npz", "folder/x.npz"])
def test_other_files_among_the_receipts_are_reported_and_kept(tmp_path, genomes, unbroken, monkeypatch, name):
    out = interrupted(tmp_path, genomes, monkeypatch)
    path = out / "unfinished" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UserError, match="not written by a build; move it to another folder"):
        build(out, genomes, **SMALL)
    assert path.read_text() == "mine"


def test_a_user_folder_named_unfinished_is_kept(tmp_path, genomes):
    mine = tmp_path / "mine"
    (mine / "unfinished").mkdir(parents=True)
    for name in ("unfinished/thesis.txt", "shard-data.tar"):
        (mine / name).write_text("mine")
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds files that do not belong to a build"):
        build(mine, genomes, **SMALL)
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before


def test_a_build_killed_before_its_request_was_written_restarts(tmp_path, genomes, unbroken):
    (tmp_path / "started/unfinished").mkdir(parents=True)
    build(tmp_path / "started", genomes, **SMALL)
    assert files(tmp_path / "started") == unbroken
