"""Chunking method entropy: the table of surprisals, and where boundaries fall."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import MASK, PAD, N, encode
from ldarnet.errors import UserError
from ldarnet.io.run_files import WEIGHTS
from ldarnet.model import load_model, write_model
from ldarnet.model.chunking.entropy import PSEUDOCOUNTS, START, UNITS_PER_NAT, UNKNOWN, surprisal_table
from ldarnet.ops import KernelOptions, Packing

ORDER = 3


def config_of(order=ORDER, **changes):
    return LDARNetConfig.preset("tiny", chunking={"method": "entropy", "order": order}, **changes)


def windows_of(text, rows=1):
    return encode(text).reshape(rows, -1)


def model_of(seed=0, **changes):
    torch.manual_seed(seed)
    model = LDARNetForMaskedLM(config_of(**changes))
    model.model.backbone.router.fit(np.random.default_rng(seed).integers(0, 4, (20, 200), dtype=np.uint8))
    return model.eval()


def probability(windows, context, base):
    """Probability of a base after a context, from its definition."""
    p = 0.25
    for k in range(len(context) + 1):
        tail = context[len(context) - k :]
        counts = dict.fromkeys("ACGT", 0)
        for window in windows:
            for at in range(ORDER, len(window)):
                known = set(window[at - ORDER : at + 1]) <= set("ACGT")
                if known and window[at - k : at] == tail:
                    counts[window[at]] += 1
        if k == 0:
            ps = {one: (counts[one] + PSEUDOCOUNTS * 0.25) / (sum(counts.values()) + PSEUDOCOUNTS) for one in "ACGT"}
        else:
            ps = {one: (counts[one] + PSEUDOCOUNTS * ps[one]) / (sum(counts.values()) + PSEUDOCOUNTS) for one in "ACGT"}
        p = ps[base]
    return p


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text("ACGTN", min_size=12, max_size=12), min_size=1, max_size=4), st.text("ACGT", max_size=ORDER))
def test_the_table_follows_its_definition(windows, context):
    table = surprisal_table(windows_of("".join(windows), len(windows)), ORDER)
    row = (4 ** len(context) - 1) // 3 + sum(4**d * "ACGT".index(base) for d, base in enumerate(reversed(context)))
    expected = [-UNITS_PER_NAT * math.log(probability(windows, context, base)) for base in "ACGT"]
    assert table[row].tolist() == pytest.approx(expected, abs=0.51)


def test_windows_shorter_than_a_context_give_a_uniform_table():
    assert set(surprisal_table(windows_of("ACG"), 8).ravel().tolist()) == {round(UNITS_PER_NAT * math.log(4))}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=20), min_size=1, max_size=4), st.integers(0, 99))
def test_contexts_end_at_masked_bases_n_and_sequence_starts(rows, seed):
    config = config_of()
    method = config.chunking_method(config.chunking, 4.0, 16, KernelOptions())
    method.fit(np.random.default_rng(seed).integers(0, 4, (4, 300), dtype=np.uint8))
    table, expected = method.table.tolist(), []
    for row in rows:
        for at, base in enumerate(row):
            k = 0
            while k < min(at, ORDER) and row[at - k - 1] < N:
                k += 1
            index = (4**k - 1) // 3 + sum(4**d * row[at - d - 1] for d in range(k))
            expected.append(table[index][base] if base < N else UNKNOWN)
    lengths = torch.tensor([len(row) for row in rows])
    packing = Packing.of_lengths(lengths, int(lengths.sum()))
    ids = torch.tensor([base for row in rows for base in row])
    assert method._surprisal(ids, packing).tolist() == expected


def test_boundaries_are_the_most_surprising_positions_at_the_target_rate():
    model = model_of(target_ratio=4.0)
    ids = torch.randint(0, 4, (3, 101))
    ids[1, 50:], ids[2, 10:20] = PAD, MASK
    (stage,) = model(ids).boundaries
    router = model.model.backbone.router
    for row, mask in zip(ids, stage.mask, strict=True):
        row = row[row != PAD]
        surprisal = router._surprisal(row, Packing.of_lengths(torch.tensor([len(row)]), len(row)))
        surprisal[0] = START
        assert mask.sum() == math.ceil(len(row) / 4)
        chosen = mask[: len(row)]
        assert surprisal[chosen].min() >= surprisal[~chosen].max()
    assert not stage.mask[2, 10:20].any()


def test_the_table_is_saved_with_the_model(tmp_path):
    model, ids = model_of(), torch.randint(0, 4, (2, 60))
    expected = model(ids)
    write_model(model, tmp_path / "export")
    model.save_pretrained(tmp_path / "saved")
    for loaded in (
        load_model(tmp_path / "export", LDARNetForMaskedLM),
        LDARNetForMaskedLM.from_pretrained(tmp_path / "export"),
        LDARNetForMaskedLM.from_pretrained(tmp_path / "saved"),
    ):
        assert loaded(ids).logits.equal(expected.logits)
    small = LDARNetForMaskedLM.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    for one in (small, small.double()):
        assert one.model.backbone.router.table.equal(model.model.backbone.router.table)
        assert one(ids).boundaries[0].mask.equal(expected.boundaries[0].mask)


def test_a_table_of_another_type_is_refused(tmp_path):
    write_model(model_of(), tmp_path / "export")
    file = tmp_path / "export" / WEIGHTS
    tensors = load_file(file)
    tensors["model.backbone.router.table"] = tensors["model.backbone.router.table"].float()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"router\.table' has dtype torch\.float32, but"):
        load_model(tmp_path / "export", LDARNetForMaskedLM, verify=False)


def test_a_model_without_a_table_does_not_run():
    with pytest.raises(UserError, match="no table of base counts; pretrain it"):
        LDARNetForMaskedLM(config_of())(torch.zeros(1, 10, dtype=torch.int64))


def test_inner_stages_are_refused():
    layout = ["m1", ["m1", ["M1"], "m1"], "m1"]
    with pytest.raises(ValueError, match="chunking: method entropy works at a single router"):
        config_of(arch_layout=layout, d_model=[16, 24, 32], d_intermediate=[0, 0, 32])


@pytest.mark.parametrize("order", [0, 11, True])
def test_the_order_is_limited(order):
    with pytest.raises(ValueError, match=r"chunking: order=.*; use one of 8, 1, 2"):
        config_of(order=order)
