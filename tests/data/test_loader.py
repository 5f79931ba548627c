import itertools
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldarnet.alphabet import N
from ldarnet.data import Masking, ShardSet, Windows, training_steps, validation_batches
from ldarnet.errors import TransientError, UserError

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
def test_an_epoch_has_each_window_once_for_any_number_of_ranks_and_batch_size(shards, world, micro_batch, accumulation):
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


def test_a_resumed_stream_equals_an_uninterrupted_one(shards):
    whole = steps(shards, last_step=40)
    for cut in (1, 7, 33):
        resumed = steps(shards, first_step=cut, last_step=40)
        assert all(same(a, b) for x, y in zip(whole[cut:], resumed, strict=True) for a, b in zip(x, y, strict=True))


def test_workers_change_neither_batches_nor_the_global_rng(shards):
    state = torch.get_rng_state()
    here, there = steps(shards), steps(shards, workers=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(same(a, b) for x, y in zip(here, there, strict=True) for a, b in zip(x, y, strict=True))


def test_batches_hold_masked_windows(shards):
    windows, batch = Windows(shards, "train", L), steps(shards)[3][1]
    assert batch.input_ids.shape == batch.labels.shape == (2, L)
    assert (batch.input_ids.dtype, batch.labels.dtype) == (torch.uint8, torch.int8)
    for row, (shown, label) in enumerate(zip(batch.input_ids.long(), batch.labels.long(), strict=True)):
        truth = torch.from_numpy(windows.ids(batch.first_position + row)).long()
        scored = label != -100
        assert torch.equal(label[scored], truth[scored])
        assert torch.equal(shown[~scored], truth[~scored])


def damage(shards, contig, base):
    """Flip a bit of the block that contains a base; return the interval of the block (0-based, half-open)."""
    blocks, number = shards.index.blocks, shards.index.number(contig)
    block = int(np.flatnonzero((blocks.contig == number) & (blocks.start <= base))[-1])
    shard = shards.folder / shards.index.shards[blocks.shard[block]].name
    content = bytearray(shard.read_bytes())
    content[blocks.offset[block] + 10] ^= 1
    shard.write_bytes(content)
    return int(blocks.start[block]), int(blocks.start[block] + blocks.length[block])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_reported_in_one_line(shards, workers):
    damage(shards, "a", 300)
    with pytest.raises(UserError, match=r"shard-\S+.tar: block \d+ \(a:257-384\)") as error:
        steps(shards, workers=workers, last_step=20)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_windows_on_damaged_blocks_are_quarantined_alike_on_all_ranks(shards, workers):
    sound = steps(shards, micro_batch=4, last_step=10)
    begin, end = damage(shards, "a", 300)
    shards = ShardSet.open(shards.folder, on_damaged="quarantine")
    alone = steps(shards, micro_batch=4, last_step=10)
    ranks = [steps(shards, rank=rank, world=2, last_step=10, workers=workers) for rank in range(2)]
    windows, lost = Windows(shards, "train", L), 0
    for number, step in enumerate(alone):
        for micro, batch in enumerate(step):
            parts = [rank[number][micro] for rank in ranks]
            assert torch.equal(batch.input_ids, torch.cat([part.input_ids for part in parts]))
            assert torch.equal(batch.labels, torch.cat([part.labels for part in parts]))
            assert batch.quarantined == parts[0].quarantined + parts[1].quarantined
            named = []
            for row in range(4):
                key = windows.locate(batch.first_position + row)
                if key.contig == "a" and key.start < end and key.start + L > begin:
                    assert (batch.input_ids[row] == N).all() and (batch.labels[row] == -100).all()
                    named.append(f"a:{key.start + 1}-{key.start + L}")
                else:
                    assert torch.equal(batch.input_ids[row], sound[number][micro].input_ids[row])
                    assert torch.equal(batch.labels[row], sound[number][micro].labels[row])
            assert [window.window for window in batch.quarantined] == named
            assert all("block" in window.reason and "(a:257-384)" in window.reason for window in batch.quarantined)
            lost += len(named)
    assert lost


def test_a_killed_worker_is_reported_in_one_line_without_a_hang(shards):
    before = {child.pid for child in multiprocessing.active_children()}
    stream = training_steps(
        Windows(shards, "train", L),
        Masking(),
        micro_batch=2,
        accumulation=1,
        rank=0,
        world=1,
        first_step=0,
        last_step=10**6,
        workers=2,
    )
    next(stream)
    victim = next(child for child in multiprocessing.active_children() if child.pid not in before)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    time.sleep(0.2)  # the main process must not be interrupted when the worker dies
    with pytest.raises(TransientError, match=rf"DataLoader worker died.*{victim.pid}.*data.workers") as error:
        list(itertools.islice(stream, 100))
    assert "\n" not in str(error.value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_interruptions_and_elastic_ranks_lose_and_repeat_nothing(shards, data):
    batch, last = data.draw(st.sampled_from([1, 4, 6, 12])), 12
    whole = steps(shards, micro_batch=batch, accumulation=1, last_step=last)
    step = 0
    while step < last:
        stop = data.draw(st.integers(step + 1, last))
        world = data.draw(st.sampled_from([size for size in (1, 2, 3, 4, 6) if batch % size == 0]))
        micro = data.draw(st.sampled_from([m for m in range(1, batch // world + 1) if batch // world % m == 0]))
        accumulation = batch // world // micro
        ranks = [
            steps(
                shards,
                micro_batch=micro,
                accumulation=accumulation,
                rank=rank,
                world=world,
                first_step=step,
                last_step=stop,
            )
            for rank in range(world)
        ]
        for number in range(step, stop):
            # Ordered by micro-batch, then by rank.
            parts = [ranks[rank][number - step][m] for m in range(accumulation) for rank in range(world)]
            for name in ("input_ids", "labels"):
                together = torch.cat([getattr(part, name) for part in parts])
                assert torch.equal(together, getattr(whole[number][0], name))
        step = stop


@pytest.mark.parametrize("world", [2, 4, 64])
def test_global_batches_do_not_depend_on_the_number_of_ranks(shards, world):
    alone = steps(shards, micro_batch=64, accumulation=1, last_step=2)
    ranks = [
        steps(shards, micro_batch=64 // world, accumulation=1, rank=r, world=world, last_step=2) for r in range(world)
    ]
    for number in range(2):
        together = torch.cat([rank[number][0].input_ids for rank in ranks])
        assert torch.equal(together, alone[number][0].input_ids)


def validation(shards, rank, world, batch=3, most=10, split="valid"):
    return list(
        validation_batches(
            shards, split, length=L, max_windows=most, batch=batch, rank=rank, world=world, masking=Masking()
        )
    )


@pytest.mark.parametrize("world", [2, 3, 7])
def test_validation_does_not_depend_on_the_number_of_ranks(shards, world):
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


def test_validation_windows_are_spread_over_the_forward_strand_of_the_split(shards):
    def truth(batch):
        return torch.where(batch.labels == -100, batch.input_ids, batch.labels)

    ids = torch.cat([truth(batch) for batch in validation(shards, 0, 1)])
    expected = [shards.read("v", start * L, start * L + L) for start in np.arange(10) * 20 // 10]
    np.testing.assert_array_equal(ids, expected)
    assert sum(batch.windows for batch in validation(shards, 0, 1, most=1000)) == 20


def test_masks_do_not_depend_on_the_number_of_validation_windows(shards):
    few = torch.cat([batch.labels for batch in validation(shards, 0, 1, most=10)])
    many = torch.cat([batch.labels for batch in validation(shards, 0, 1, most=20)])
    assert torch.equal(few, many[::2])


def test_validation_of_a_missing_split_is_rejected_immediately(shards):
    with pytest.raises(UserError, match="no split 'test'"):
        validation_batches(shards, "test", length=L, max_windows=1, batch=1, rank=0, world=1, masking=Masking())


def test_blocks_of_the_next_step_are_prefetched_before_this_step_is_read(shards, monkeypatch):
    calls = []
    prefetch, read_windows = ShardSet.prefetch, ShardSet.read_windows

    def note_prefetch(self, blocks):
        calls.append(("ahead", set(blocks)))
        prefetch(self, blocks)

    def note_read(self, contig, start, length):
        calls.append(("read", set(self.blocks_of(contig, start, length))))
        with monkeypatch.context() as inner:
            inner.setattr(ShardSet, "prefetch", prefetch)  # do not record prefetches made by the read itself
            return read_windows(self, contig, start, length)

    monkeypatch.setattr(ShardSet, "prefetch", note_prefetch)
    monkeypatch.setattr(ShardSet, "read_windows", note_read)
    steps(shards, last_step=6)
    assert [kind for kind, _ in calls] == ["ahead", "read"] * 5 + ["read"]
    ahead, read = ([blocks for kind, blocks in calls if kind == name] for name in ("ahead", "read"))
    assert ahead == read[1:]
