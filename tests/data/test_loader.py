import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldarnet.data import Masking, Windows, training_steps, validation_batches
from ldarnet.errors import UserError

L = 20


@pytest.fixture
def shards(make_set):
    rng = np.random.default_rng(0)
    text = {name: "".join(rng.choice(list("ACGT"), size)) for name, size in (("a", 1010), ("b", 333), ("v", 417))}
    return make_set(text, {"valid": ["v"]}, block=128)


def steps(shards, **options):
    defaults = {"micro_batch": 2, "accumulation": 2, "rank": 0, "world": 1, "first_step": 0, "last_step": 5}
    return list(training_steps(Windows(shards, "train", L), Masking(), **defaults | options))


def same(a, b):
    return torch.equal(a.input_ids, b.input_ids) and torch.equal(a.labels, b.labels)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_an_epoch_holds_each_window_once_for_any_ranks_and_batches(shards, world, micro_batch, accumulation):
    windows = Windows(shards, "train", L)
    size = world * micro_batch * accumulation
    count = -(-len(windows) // size)
    seen = []
    for rank in range(world):
        for step in training_steps(
            windows,
            Masking(),
            micro_batch=micro_batch,
            accumulation=accumulation,
            rank=rank,
            world=world,
            first_step=0,
            last_step=count,
        ):
            assert len(step) == accumulation
            seen += [batch.first_position + row for batch in step for row in range(len(batch.input_ids))]
    assert sorted(seen) == list(range(count * size))
    keys = {windows.locate(position) for position in range(len(windows))}
    assert len({(key.contig, key.start) for key in keys}) == len(windows)


def test_ranks_share_the_micro_batches_of_one_larger_rank(shards):
    alone = steps(shards, micro_batch=4)
    ranks = [steps(shards, micro_batch=2, rank=rank, world=2) for rank in range(2)]
    for number, step in enumerate(alone):
        for micro, batch in enumerate(step):
            parts = [rank[number][micro] for rank in ranks]
            assert torch.equal(batch.input_ids, torch.cat([part.input_ids for part in parts]))
            assert torch.equal(batch.labels, torch.cat([part.labels for part in parts]))


def test_a_resumed_stream_equals_an_unbroken_one(shards):
    whole = steps(shards, last_step=40)
    for cut in (1, 7, 33):
        resumed = steps(shards, first_step=cut, last_step=40)
        assert all(same(a, b) for x, y in zip(whole[cut:], resumed, strict=True) for a, b in zip(x, y, strict=True))


def test_workers_change_nothing_and_the_global_generator_is_left_alone(shards):
    state = torch.get_rng_state()
    here, there = steps(shards), steps(shards, workers=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(same(a, b) for x, y in zip(here, there, strict=True) for a, b in zip(x, y, strict=True))


def test_batches_hold_masked_windows(shards):
    windows, batch = Windows(shards, "train", L), steps(shards)[3][1]
    assert batch.input_ids.shape == batch.labels.shape == (2, L)
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64
    for row, (shown, label) in enumerate(zip(batch.input_ids, batch.labels, strict=True)):
        truth = torch.from_numpy(windows.ids(batch.first_position + row)).long()
        scored = label != -100
        assert torch.equal(label[scored], truth[scored])
        assert torch.equal(shown[~scored], truth[~scored])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_stops_with_its_name_in_one_line(shards, workers):
    shard = shards.folder / "shard-00000.tar"
    content = bytearray(shard.read_bytes())
    for offset in shards.index.blocks.offset:
        content[offset + 10] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"shard-00000.tar: block \d+ \([abv]:\d+-\d+\)") as error:
        steps(shards, workers=workers)
    assert "\n" not in str(error.value)


def validation(shards, rank, world, batch=3, most=10, split="valid"):
    return list(
        validation_batches(
            shards, split, length=L, max_windows=most, batch=batch, rank=rank, world=world, masking=Masking()
        )
    )


@pytest.mark.parametrize("world", [2, 3, 7])
def test_validation_is_the_same_for_any_number_of_ranks(shards, world):
    alone = validation(shards, 0, 1)
    ranks = [validation(shards, rank, world) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    real = sorted((batch.first_position, batch) for batches in ranks for batch in batches if batch.windows)
    for name in ("input_ids", "labels"):
        together = torch.cat([getattr(batch, name) for _, batch in real])
        assert torch.equal(together, torch.cat([getattr(batch, name) for batch in alone]))
    fillers = [batch for batches in ranks for batch in batches if not batch.windows]
    assert all((batch.labels == -100).all() and len(batch.labels) == 1 for batch in fillers)
    assert sum(batch.windows for _, batch in real) == 10
    assert all(batch.windows == len(batch.input_ids) for _, batch in real)


def test_validation_windows_are_spread_over_the_split_and_forward(shards):
    def truth(batch):
        return torch.where(batch.labels == -100, batch.input_ids, batch.labels)

    ids = torch.cat([truth(batch) for batch in validation(shards, 0, 1)])
    expected = [shards.read("v", start * L, start * L + L) for start in np.arange(10) * 20 // 10]
    np.testing.assert_array_equal(ids, expected)
    assert sum(batch.windows for batch in validation(shards, 0, 1, most=1000)) == 20


def test_a_window_keeps_its_mask_when_more_windows_are_asked_for(shards):
    few = torch.cat([batch.labels for batch in validation(shards, 0, 1, most=10)])
    many = torch.cat([batch.labels for batch in validation(shards, 0, 1, most=20)])
    assert torch.equal(few, many[::2])


def test_validation_of_a_split_that_is_not_there_is_refused_at_once(shards):
    with pytest.raises(UserError, match="no split 'test'"):
        validation_batches(shards, "test", length=L, max_windows=1, batch=1, rank=0, world=1, masking=Masking())
