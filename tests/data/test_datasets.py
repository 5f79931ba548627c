"""The two dataset APIs for custom training loops, compared with pretraining and with each other."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
import webdataset
from torch.utils.data import DataLoader

from ldarnet.alphabet import decode, encode, reverse_complement
from ldarnet.data import (
    Masking,
    ShardSet,
    WindowDataset,
    Windows,
    decode_sample,
    shard_pattern,
    training_steps,
    window_pipeline,
)
from ldarnet.errors import UserError
from ldarnet.genome.sources import parse_source
from ldarnet.io.storage import DamagedError
from sharding.build import build
from tests.support.range_server import RangeServer

LENGTH = 20
WITHOUT_MASKS = Masking(rate=0)


@pytest.fixture(scope="module")
def contigs():
    rng = np.random.default_rng(0)
    text = {name: "".join(rng.choice(list("ACGTacgt"), size)) for name, size in (("a", 1010), ("b", 333), ("v", 417))}
    return text | {"a": text["a"][:500] + "N" * 120 + text["a"][500:]}


@pytest.fixture
def shards(make_set, contigs):
    """Shard set with blocks of 128 bases and three blocks per shard; windows straddle blocks and shards."""
    return make_set(contigs, {"valid": ["v"]}, block=128, shard_size=400)


@pytest.fixture
def one_shard(make_set, contigs):
    """Single-shard set with blocks shorter than a window."""
    return make_set(contigs, {"valid": ["v"]}, block=13)


@pytest.fixture
def two_species(tmp_path):
    for species, text in (("yeast", "ACGTT" * 100), ("fly", "GATTACA" * 10)):
        (tmp_path / f"{species}.fa").write_text(f">chr1\n{text}\n")
    sources = [parse_source(f"{species}={tmp_path / species}.fa") for species in ("yeast", "fly")]
    build(tmp_path / "set", sources, block=100, shard_size=200)
    return ShardSet.open(tmp_path / "set")


def epoch_of(windows: Windows, epoch: int) -> Counter[str]:
    """Names of the windows in an epoch of the exact order, with their counts."""
    keys = [windows.locate(epoch * len(windows) + position) for position in range(len(windows))]
    assert {key.epoch for key in keys} == {epoch}
    return Counter(f"{key.contig}:{key.start + 1}-{key.start + windows.length}" for key in keys)


def names_of(pipeline) -> Counter[str]:
    return Counter(name for batch in pipeline for name in batch["__key__"])


def straddles_shards(shards: ShardSet, name: str) -> bool:
    contig, interval = name.split(":")
    first, last = (int(base) - 1 for base in interval.split("-"))
    blocks, number = shards.index.blocks, shards.index.number(contig)
    shard = [
        blocks.shard[(blocks.contig == number) & (blocks.start <= base) & (base < blocks.start + blocks.length)].item()
        for base in (first, last)
    ]
    return shard[0] != shard[1]


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_are_the_micro_batches_of_pretraining(shards, workers):
    windows = Windows(shards, "train", LENGTH)
    for rank in range(2):
        options = {"rank": rank, "world": 2}
        steps = training_steps(windows, Masking(), micro_batch=3, accumulation=2, first_step=0, last_step=4, **options)
        expected = [batch for step in steps for batch in step]
        dataset = WindowDataset(windows, batch_size=3, stop=48, **options)
        batches = list(DataLoader(dataset, batch_size=None, num_workers=workers))
        assert len(batches) == len(expected) == 8
        for batch, micro_batch in zip(batches, expected, strict=True):
            torch.testing.assert_close(batch["input_ids"], micro_batch.input_ids.long())
            torch.testing.assert_close(batch["labels"], micro_batch.labels.long())
            assert batch["positions"].tolist() == list(range(*(micro_batch.first_position + i for i in (0, 3))))


def test_a_stream_resumes_at_any_position_with_any_batch_size_and_world(shards):
    windows = Windows(shards, "train", LENGTH)
    whole = list(WindowDataset(windows, batch_size=1, stop=40))
    resumed = [WindowDataset(windows, batch_size=4, rank=rank, world=2, start=7, stop=23) for rank in range(2)]
    for first, second in zip(*resumed, strict=True):
        for batch in (first, second):
            for row, position in enumerate(batch["positions"].tolist()):
                torch.testing.assert_close(batch["input_ids"][row], whole[position]["input_ids"][0])
                torch.testing.assert_close(batch["labels"][row], whole[position]["labels"][0])
    assert sorted(position for part in resumed for batch in part for position in batch["positions"].tolist()) == list(
        range(7, 23)
    )


def test_windows_that_do_not_fill_a_batch_of_every_rank_are_dropped(shards):
    windows = Windows(shards, "train", LENGTH)
    assert [len(list(WindowDataset(windows, batch_size=4, rank=rank, world=2, stop=23))) for rank in (0, 1)] == [2, 2]
    endless = iter(WindowDataset(windows, batch_size=4))
    assert [next(endless)["positions"][0] for _ in range(60)] == [4 * batch for batch in range(60)]


def test_a_missing_shard_is_reported(shards):
    (shards.folder / shards.index.shards[0].name).unlink()
    with pytest.raises(UserError, match=r"shard-00000-0000-0000\.tar: missing"):
        list(WindowDataset(Windows(shards, "train", LENGTH), batch_size=4, stop=40))


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_pipeline_has_the_same_windows_as_an_epoch_of_the_exact_order(one_shard, epoch):
    windows = Windows(one_shard, "train", LENGTH)
    assert names_of(window_pipeline(windows, batch_size=7, epoch=epoch)) == epoch_of(windows, epoch)


def test_a_pipeline_drops_exactly_the_windows_that_straddle_shards(shards):
    windows, dropped = Windows(shards, "train", LENGTH), 0
    for epoch in range(3):
        expected = epoch_of(windows, epoch)
        kept = Counter({name: n for name, n in expected.items() if not straddles_shards(shards, name)})
        assert names_of(window_pipeline(windows, batch_size=7, epoch=epoch)) == kept
        dropped += (expected - kept).total()
    assert dropped


def test_a_pipeline_reads_only_its_split(shards):
    windows = Windows(shards, "valid", LENGTH)
    names = names_of(window_pipeline(windows, batch_size=7))
    assert names
    assert {name.split(":")[0] for name in names} == {"v"}


def test_workers_and_ranks_share_an_epoch_of_a_pipeline(shards, monkeypatch):
    windows = Windows(shards, "train", LENGTH)
    whole = names_of(window_pipeline(windows, batch_size=7))
    parts = Counter()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        pipeline = pickle.loads(pickle.dumps(window_pipeline(windows, batch_size=7)))
        parts += names_of(DataLoader(pipeline, batch_size=None, num_workers=3))
    assert parts == whole


def test_a_pipeline_gives_the_bases_of_either_strand_shuffled_and_masked(one_shard):
    windows = Windows(one_shard, "train", LENGTH)
    strands, names = Counter(), []
    for plain, masked in zip(
        window_pipeline(windows, WITHOUT_MASKS, batch_size=7), window_pipeline(windows, batch_size=7), strict=True
    ):
        assert (plain["labels"] == -100).all()
        assert plain["__key__"] == masked["__key__"]
        target = masked["labels"] != -100
        torch.testing.assert_close(masked["labels"][target], plain["input_ids"][target])
        torch.testing.assert_close(masked["input_ids"][~target], plain["input_ids"][~target])
        for name, ids in zip(plain["__key__"], plain["input_ids"].numpy().astype(np.uint8), strict=True):
            contig, interval = name.split(":")
            first, last = map(int, interval.split("-"))
            forward = encode(one_shard.text(contig, first - 1, last))
            reverse = not (ids == forward).all()
            assert not reverse or decode(ids) == decode(reverse_complement(forward))
            strands[reverse] += 1
            names.append(name)
    assert names != sorted(names)
    assert min(strands.values()) > len(names) / 4
    forward = Windows(one_shard, "train", LENGTH, reverse_complement=False)
    for batch in window_pipeline(forward, WITHOUT_MASKS, batch_size=1):
        contig, interval = batch["__key__"][0].split(":")
        first, last = map(int, interval.split("-"))
        assert decode(batch["input_ids"][0].numpy()) == one_shard.text(contig, first - 1, last).upper()


def test_a_pipeline_rejects_mixtures_and_damage(two_species, shards):
    with pytest.raises(UserError, match="cannot weight species"):
        window_pipeline(Windows(two_species, "train", LENGTH, temperature=2.0), batch_size=2)
    path = shards.folder / shards.index.shards[0].name
    content = bytearray(path.read_bytes())
    content[shards.index.blocks.offset[0] + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"block 0 \(a:1-128\) does not match the index"):
        names_of(window_pipeline(Windows(shards, "train", LENGTH), batch_size=7))


def test_both_apis_read_a_set_from_a_web_server(shards, tmp_path):
    local = Windows(shards, "train", LENGTH)
    server = RangeServer(shards.folder)
    try:
        remote = Windows(ShardSet.open(server.url, disk_cache=tmp_path), "train", LENGTH)
        for here, there in zip(
            WindowDataset(local, batch_size=4, stop=60), WindowDataset(remote, batch_size=4, stop=60), strict=True
        ):
            torch.testing.assert_close(here, there)
        assert names_of(window_pipeline(remote, batch_size=7)) == names_of(window_pipeline(local, batch_size=7))
        blocks = webdataset.WebDataset(shard_pattern(remote.shards), shardshuffle=False).map(decode_sample)
        assert "".join(block["text"] for block in blocks) == "".join(
            shards.text(name, 0, length) for name, length in shards.contigs.items()
        )
    finally:
        server.close()


def test_pattern_matches_every_shard_of_every_part(two_species, make_set):
    pattern = shard_pattern(two_species)
    assert pattern.endswith("/{shard-00000-0000-{0000..0002},shard-00001-0000-0000}.tar")
    blocks = webdataset.WebDataset(pattern, shardshuffle=False).map(decode_sample)
    assert "".join(block["text"] for block in blocks) == "ACGTT" * 100 + "GATTACA" * 10
    one = make_set({"a": "ACGT" * 10})
    assert shard_pattern(one) == f"{one.folder}/shard-00000-0000-0000.tar"
