"""Chunking method bpe, and boundaries that the caller passes to the model."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, LDARNetForSequenceClassification
from ldarnet.alphabet import MASK, PAD, decode, encode
from ldarnet.errors import UserError
from ldarnet.interpret.boundaries import boundary_track
from ldarnet.model import load_model, write_model
from ldarnet.model.cost import cost
from ldarnet.model.modeling import Packing
from ldarnet.tokenization.bpe import BPE

MERGES = ["A C", "AC G", "T T", "TT T", "G G"]
WORDS = BPE(MERGES)
ROWS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=20), min_size=1, max_size=4)


def model_of(**changes):
    torch.manual_seed(0)
    config = LDARNetConfig.preset("tiny", chunking={"method": "bpe", "merges": MERGES}, **changes)
    return LDARNetForMaskedLM(config).eval()


def padded(rows):
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    return ids


@settings(deadline=None, max_examples=40)
@given(ROWS)
def test_chunks_begin_where_words_begin(rows):
    (stage,) = model_of()(padded(rows)).boundaries
    for row, mask in zip(rows, stage.mask, strict=True):
        text, ends = decode(encode("ACGTN?")[:0]), []
        assert text == ""
        at, expected = 0, []
        pieces = WORDS.backend().encode(decode(torch.tensor(row).numpy()), add_special_tokens=False)
        for start, end in pieces.offsets:
            assert start == at
            expected.append(start)
            at = end
            ends.append(end)
        assert at == len(row)
        assert mask.nonzero().squeeze(1).tolist() == expected


@given(st.lists(st.integers(0, 3), min_size=3, max_size=30), st.data())
def test_boundaries_do_not_depend_on_a_masked_base(row, data):
    at = data.draw(st.integers(0, len(row) - 1))
    inputs = torch.tensor(row)
    inputs[at] = MASK
    starts = WORDS.starts(inputs[None].numpy())[0]
    assert starts[at] and (at + 1 == len(row) or starts[at + 1])
    for part in (slice(0, at), slice(at + 1, None)):  # the words on each side are those of that side alone
        if len(row[part]):
            assert starts[part].tolist() == WORDS.starts(inputs[None, part].numpy())[0].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(side):
    model, row = model_of(), torch.randint(0, 4, (1, 30))
    pad = torch.full((1, 12), PAD)
    parts = [pad, row] if side == "left" else [row, pad]
    # Padding may also be marked by the mask alone, over arbitrary ids.
    ids = torch.cat([parts[0].clamp(max=0), parts[1]] if side == "left" else [parts[0], parts[1].clamp(max=0)], 1)
    mask = torch.cat([(part != PAD) for part in parts], 1)
    expected = model(row).last_hidden_state[0]
    for padded_ids in (torch.cat(parts, 1), ids):
        out = model(padded_ids, attention_mask=mask)
        torch.testing.assert_close(out.last_hidden_state[mask], expected)


def test_given_boundaries_replace_those_of_the_method_and_their_number_is_known(monkeypatch):
    model, ids = model_of(), torch.randint(0, 4, (3, 40))
    ids[1, 25:] = PAD
    given_BL = torch.rand(3, 40) < 0.3
    expected = given_BL & (ids != PAD)
    expected[:, 0] = True
    selected = []
    select = Packing.select_known
    monkeypatch.setattr(Packing, "select_known", lambda *args: selected.append(args[2]) or select(*args))
    (stage,) = model(ids, boundaries=given_BL).boundaries
    assert stage.mask.equal(expected)
    assert stage.probability.equal(expected.float())
    assert selected == [tuple(expected.sum(1).tolist())]


def test_the_classifier_takes_boundaries():
    config = LDARNetConfig.preset("tiny", chunking={"method": "bpe", "merges": MERGES}, num_labels=2)
    model, ids = LDARNetForSequenceClassification(config).eval(), torch.randint(0, 4, (2, 30))
    (own,) = model(ids).boundaries
    assert model(ids, boundaries=own.mask).logits.equal(model(ids).logits)
    assert not model(ids, boundaries=torch.zeros(2, 30, dtype=torch.bool)).boundaries[0].mask[:, 1:].any()


@pytest.mark.parametrize(
    ("chunking", "inputs", "message"),
    [
        ({"method": "grid"}, {"boundaries": torch.ones(1, 8, dtype=torch.bool)}, "the network of this model computes"),
        ({"method": "bpe"}, {"boundaries": torch.ones(1, 7, dtype=torch.bool)}, r"must be bool with .* \(1, 8\)"),
        ({"method": "bpe"}, {"boundaries": torch.ones(1, 8)}, r"must be bool with .* \(1, 8\)"),
    ],
)
def test_unsuitable_boundaries_are_refused(chunking, inputs, message):
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", chunking=chunking))
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 8, dtype=torch.int64), **inputs)


def test_embeddings_need_boundaries():
    model, embeddings = model_of(), torch.zeros(1, 8, 16)
    with pytest.raises(ValueError, match="this chunking method needs token ids; pass input_ids or boundaries"):
        model(inputs_embeds=embeddings)
    model(inputs_embeds=embeddings, boundaries=torch.ones(1, 8, dtype=torch.bool))


@pytest.mark.parametrize(
    ("merges", "message"),
    [("A C", "merges must be a list of texts"), ([1], "merges must be a list of texts"), (["A CG"], "not a pair")],
)
def test_wrong_merges_are_refused(merges, message):
    with pytest.raises(ValueError, match=message):
        LDARNetForMaskedLM(LDARNetConfig.preset("tiny", chunking={"method": "bpe", "merges": merges}))


def test_the_words_are_saved_with_the_model_and_checked(tmp_path):
    model, ids = model_of(), torch.randint(0, 6, (2, 40))
    write_model(model, tmp_path / "export")
    for loaded in (
        load_model(tmp_path / "export", LDARNetForMaskedLM),
        LDARNetForMaskedLM.from_pretrained(tmp_path / "export"),
    ):
        assert loaded.config.chunking["merges"] == MERGES
        assert loaded(ids).logits.equal(model(ids).logits)
    file = tmp_path / "export" / "config.json"
    file.write_text(file.read_text().replace('"A C"', '"A X"'))
    with pytest.raises(UserError, match="SHA-256 differs"):
        load_model(tmp_path / "export", LDARNetForMaskedLM)
    with pytest.raises(UserError, match="'A X' is not a pair of tokens"):
        load_model(tmp_path / "export", LDARNetForMaskedLM, verify=False)


def test_chunks_of_a_sequence_are_words():
    sequence = "ACGTTTNGGACAC"
    (_, mask), *_ = boundary_track(model_of().model, encode(sequence))
    found = [sequence[start:end] for start, end in pairwise([*mask.nonzero()[0], len(sequence)])]
    assert found == ["ACG", "TTT", "N", "GG", "AC", "AC"]


def test_static_capacity_has_no_effect():
    model, ids = model_of().train(), torch.randint(0, 4, (4, 200))
    expected = model(ids).logits
    model.set_chunk_capacity(1.0)
    assert model(ids).logits.equal(expected)


def test_the_cost_needs_measured_chunks():
    config = model_of().config
    with pytest.raises(ValueError, match="bases_per_chunk: give it for chunking method bpe"):
        cost(config, 64)
    assert cost(config, 64, [2.0]).bases_per_chunk == (2.0,)
