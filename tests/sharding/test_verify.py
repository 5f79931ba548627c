import contextlib
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldarnet.alphabet import encode
from ldarnet.data import ShardSet
from ldarnet.data.index_file import INDEX_NAME, TABLES
from ldarnet.errors import UserError
from ldarnet.program import call
from sharding.build import build
from sharding.verify import main, problems, total_work
from tests.support.range_server import RangeServer
from tests.support.ranks import ROOT, Ranks

CONTIGS = {
    "a": "".join(random.Random(1).choices("ACGTN", (9, 9, 9, 9, 1), k=1600)),
    "b": "acgtnnnnRYACGT",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    fasta = folder / "in.fa"
    fasta.write_text("".join(f">{name}\n{letters}\n" for name, letters in CONTIGS.items()))
    build(folder / "set", [fasta], block=300, shard_size=600)
    return folder / "set"


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def faults(folder: Path | str) -> list[str]:
    with pytest.raises(UserError) as error:
        call(main, [str(folder), "--workers", "1"])
    return str(error.value).split("\nerror: ")


@pytest.mark.parametrize("workers", ["1", "3"])
def test_an_intact_set_passes(folder, capsys, workers):
    assert call(main, [str(folder), "--workers", workers]) == 0
    assert capsys.readouterr().out == f"{folder}: OK (1,614 bases verified)\n"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_of_any_file_is_detected(folder, data):
    path = data.draw(st.sampled_from([folder / INDEX_NAME, *map(folder.__truediv__, TABLES), *folder.glob("*.tar")]))
    content = path.read_bytes()
    flip(path, data.draw(st.integers(0, 8 * len(content) - 1)))
    try:
        assert all(fault.startswith(f"{path}: ") for fault in faults(folder))
        with contextlib.suppress(UserError):
            shards = ShardSet.open(folder)
            for number, letters in enumerate(CONTIGS.values()):
                assert shards.text(number, 0, len(letters)) == letters
                np.testing.assert_array_equal(shards.read(number, 0, len(letters)), encode(letters))
    finally:
        path.write_bytes(content)


def test_damage_within_a_shard_is_located(copy):
    shards = ShardSet.open(copy)
    blocks, shard = shards.index.blocks, shards.index.shards[0]
    path = copy / shard.name
    sound, end = path.read_bytes(), int(blocks.offset[0] + blocks.size[0])
    assert end % 512
    for offset, words in (
        (int(blocks.offset[1]) - 512 + 3, "the tar header of block 1 (a:301-600) is damaged"),
        (int(blocks.offset[1]) - 512 + 155, "the tar header of block 1 (a:301-600) is damaged"),
        (end, "the padding after block 0 (a:1-300) is damaged"),
        (len(sound) - 1, f"the end of the archive, from byte {len(sound) - 1 - (len(sound) - 1) % 512}"),
        (end - 1, "block 0 (a:1-300) does not match index.json"),
    ):
        path.write_bytes(sound)
        flip(path, 8 * offset + 2)
        found = faults(copy)
        assert len(found) == 1
        if words.startswith("the end"):
            words = "the end of the archive, from byte"
        assert found[0].startswith(f"{path}: {words}")


def test_every_mismatch_is_one_line(copy):
    shards = ShardSet.open(copy)
    first, second, *_, last = (copy / shard.name for shard in shards.index.shards)
    assert last != second
    flip(first, 8 * (int(shards.index.blocks.offset[0]) + 5))
    os.truncate(second, second.stat().st_size - 600)
    last.unlink()
    found = faults(copy)
    assert any(line.startswith(f"{first}: block 0 (a:1-300) does not match") for line in found)
    assert any(line.startswith(f"{second}: ") and "bytes, but" in line for line in found)
    assert any(line.startswith(f"{last}: missing; copy") for line in found)
    assert len(found) == len(set(found))
    assert sorted(problems(shards, workers=2)) == sorted(found)


def test_every_byte_of_the_index_is_verified(tmp_path):
    fasta = tmp_path / "é.fa"  # JSON may write it as \\u00e9 or \\u00E9
    fasta.write_text(">a\nACGT\n")
    build(tmp_path / "set", [fasta])
    index = tmp_path / "set" / INDEX_NAME
    sound = index.read_bytes()
    assert rb"\u00e9" in sound
    for byte in range(sound.index(rb"\u00e9") - 9, sound.index(rb"\u00e9") + 9):
        for bit in range(8):
            flip(index, 8 * byte + bit)
            assert faults(index.parent)[0].startswith(f"{index}: damaged")
            index.write_bytes(sound)


def test_a_too_long_shard_is_reported(copy):
    shard = next(copy.glob("*.tar"))
    with shard.open("ab") as file:
        file.write(b"x")
    assert [
        line.startswith(f"{shard}: {shard.stat().st_size} bytes, but {shard.stat().st_size - 1} in")
        for line in faults(copy)
    ] == [True]


def test_a_missing_index_file_is_reported(copy):
    (copy / "blocks.npy").unlink()
    assert faults(copy)[0].startswith(f"{copy / 'blocks.npy'}: ")
    (copy / INDEX_NAME).unlink()
    assert faults(copy)[0].startswith(f"{copy}: not a shard set")


def test_contigs_are_compared_with_the_input_hash(folder):
    shards = ShardSet.open(folder)
    changed = shards.index.contigs.sha256.copy()
    changed[1] = 0
    object.__setattr__(shards.index.contigs, "sha256", changed)
    assert [problem.split(": ")[1] for problem in problems(shards)] == [
        "contig b does not match the index; rebuild the set"
    ]


def test_progress_covers_all_work(folder):
    shards, done = ShardSet.open(folder), []
    assert not list(problems(shards, 2, done.append))
    assert sum(done) == total_work(shards) == 1614 + sum(shard.size for shard in shards.index.shards)


def test_a_remote_set_is_verified_bypassing_the_cache(copy, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = RangeServer(copy)
    try:
        assert call(main, [server.url, "--workers", "2"]) == 0
        shards = ShardSet.open(copy)
        name = shards.index.shards[0].name
        flip(copy / name, 8 * (int(shards.index.blocks.offset[0]) + 5))
        assert faults(server.url)[0].startswith(f"{server.url}/{name}: block 0 (a:1-300) does not match")
        (copy / name).unlink()
        assert any(line.startswith(f"{server.url}/{name}: missing") for line in faults(server.url))
        flip(copy / "names.txt", 3)
        assert any(
            line.startswith(f"{server.url}/names.txt: damaged (it does not match index.json); copy")
            for line in faults(server.url)
        )
    finally:
        server.close()


@pytest.mark.slow
def test_the_program_exits_with_status_1_and_plain_lines(copy):
    flip(copy / "names.txt", 3)
    ((status, output, errors),) = Ranks(1, ROOT / "sharding/verify.py", [str(copy)]).wait()
    assert status == 1
    assert output == ""
    assert errors.startswith(f"error: {copy / 'names.txt'}: damaged")
    assert errors.count("\n") == 1
