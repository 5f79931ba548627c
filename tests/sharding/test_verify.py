import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sharding.verify
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from sharding.build import build
from sharding.verify import main, problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    fasta = folder / "in.fa"
    fasta.write_text(">a\n" + "ACGTTTGA" * 200 + "\n>b\nacgtnnnnRYACGT\n")
    build(folder / "set", [fasta], block=300, shard_size=60)
    return folder / "set"


def test_a_sound_set_passes(folder, capsys):
    assert main([str(folder)]) == 0
    assert "all 1,614 bases match the index" in capsys.readouterr().out


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_of_any_shard_is_found_and_its_shard_named(folder, data):
    shard = data.draw(st.sampled_from(sorted(folder.glob("*.tar"))))
    content = shard.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    try:
        shard.write_bytes(changed)
        found = list(problems(ShardSet.open(folder)))
    finally:
        shard.write_bytes(content)
    assert found
    assert all(shard.name in problem for problem in found)


def test_every_problem_is_a_line_of_its_own(folder, tmp_path):
    shards = ShardSet.open(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    first, second, third = (copy / shard.name for shard in shards.index.shards[:3])
    content = bytearray(first.read_bytes())
    content[shards.index.blocks.offset[0] + 5] ^= 4
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-10])
    third.unlink()
    with pytest.raises(UserError) as error:
        main([str(copy)])
    lines = str(error.value).split("\nerror: ")
    assert f"{first}: damaged or changed since it was indexed; delete {copy} and build it again" in lines
    assert any(line.startswith(f"{first}: block 0 (a:0-300) does not match") for line in lines)
    assert any(line.startswith(f"{second}: ") and "bytes where the index says" in line for line in lines)
    assert any(line.startswith(f"{third}: missing") for line in lines)


def test_a_shard_that_cannot_be_read_is_a_line_too(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(sharding.verify, "sha256_file", refuse)
    shards = ShardSet.open(folder)
    assert list(problems(shards)) == [
        f"{folder / shard.name}: no permission to read it; change its mode or its owner"
        for shard in shards.index.shards
    ]


def test_letters_are_compared_with_those_of_the_input(folder):
    shards = ShardSet.open(folder)
    object.__setattr__(shards.index.contigs[1], "sha256", "0" * 64)
    assert [problem.split(": ")[1] for problem in problems(shards)] == ["contig b"]
