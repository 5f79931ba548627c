import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.data import CurriculumStage, Masking, Windows, curriculum_stages, curriculum_steps, stage_at

FULL, BATCH, TOTAL = 20, 4, 10
STAGES = curriculum_stages([(5, 0.2), (10, 0.3)], FULL, TOTAL)


@pytest.fixture
def stream(make_set):
    """Return the training steps of one rank, each a list of micro-batches."""
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 2000))
    shards = make_set({"a": text}, block=128)
    windows = {stage.length: Windows(shards, "train", stage.length) for stage in STAGES}

    def steps(first=0, last=TOTAL, *, rank=0, world=1, accumulation=1, workers=0):
        return list(
            curriculum_steps(
                STAGES,
                windows,
                Masking(),
                micro_batch=BATCH // world // accumulation,
                accumulation=accumulation,
                rank=rank,
                world=world,
                first_step=first,
                last_step=last,
                workers=workers,
            )
        )

    return steps


def same(a, b):
    return torch.equal(a.input_ids, b.input_ids) and torch.equal(a.labels, b.labels)


@given(st.lists(st.floats(0.01, 0.3), max_size=3), st.integers(1, 10_000))
def test_stages_cover_the_run_once_with_equal_bases(shares, total):
    stages = curriculum_stages([(2**number, share) for number, share in enumerate(shares)], 64, total)
    assert [step for stage in stages for step in range(stage.first, stage.stop)] == list(range(total))
    assert all(stage.length * stage.batch_factor == 64 for stage in stages)
    assert all(stage_at(stages, step) is stage for stage in stages for step in (stage.first, stage.stop - 1))


def test_windows_grow_at_constant_bases_per_step(stream):
    assert list(STAGES) == [CurriculumStage(0, 2, 5, 4), CurriculumStage(2, 5, 10, 2), CurriculumStage(5, 10, 20, 1)]
    shapes = [tuple(batch.input_ids.shape) for (batch,) in stream()]
    assert shapes == [(16, 5)] * 2 + [(8, 10)] * 3 + [(4, 20)] * 5


def test_each_length_starts_after_the_bases_of_earlier_steps(stream):
    positions = [batch.first_position * batch.input_ids.shape[1] for (batch,) in stream()]
    assert positions == [step * BATCH * FULL for step in range(TOTAL)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_resumed_anywhere_equals_an_uninterrupted_one(stream, workers):
    whole = stream()
    for cut in range(TOTAL) if workers == 0 else (1, 3):
        resumed = stream(first=cut, workers=workers)
        assert all(same(a, b) for (a,), (b,) in zip(whole[cut:], resumed, strict=True))


def test_ranks_and_micro_steps_share_the_windows_of_a_step(stream):
    alone = stream()
    ranks = [stream(rank=rank, world=2, accumulation=2) for rank in range(2)]
    for number, (batch,) in enumerate(alone):
        shared = [rank[number][micro].labels for micro in range(2) for rank in ranks]
        assert torch.equal(batch.labels, torch.cat(shared))
