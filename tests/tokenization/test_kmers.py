"""Non-overlapping k-mers: coverage of bases, masks, and agreement with the Hugging Face tokenizer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.alphabet import IGNORE_INDEX, MASK, N, decode, encode
from ldarnet.data import Masking
from ldarnet.tokenization import tokenization
from ldarnet.tokenization.kmers import Kmers

SIX = Kmers(6)


@given(k=st.integers(2, 6), text=st.text("ACGT", max_size=40))
def test_tokens_spell_the_sequence(k, text):
    tokenizer = Kmers(k)
    tokens = tokenizer.encode(encode(text))
    assert "".join(tokenizer.tokens[token] for token in tokens) == text
    assert tokenizer.lengths[tokens].sum() == len(text)
    assert len(tokens) == tokenizer.token_count(len(text))


@given(text=st.text("ACGTN", max_size=60))
def test_every_base_belongs_to_one_token(text):
    tokens = SIX.encode(encode(text))
    pieces = [text[start : start + 6] for start in range(0, len(text) // 6 * 6, 6)] + [*text[len(text) // 6 * 6 :]]
    assert [SIX.tokens[token] for token in tokens] == ["N" if "N" in piece else piece for piece in pieces]


@given(text=st.text("ACGTNacgtn", max_size=60))
def test_the_hugging_face_tokenizer_gives_the_same_tokens(text):
    assert SIX.backend().encode(text).ids == SIX.encode(encode(text)).tolist()


def test_ids_are_in_lexicographic_order_after_the_alphabet():
    assert SIX.tokens[:9] == ("A", "C", "G", "T", "N", "[MASK]", "[PAD]", "AAAAAA", "AAAAAC")
    assert (SIX.tokens[-1], len(SIX.tokens)) == ("TTTTTT", 7 + 4**6)
    assert tokenization(SIX.settings).tokens == SIX.tokens


@given(
    length=st.integers(1, 80),
    multiple=st.integers(1, 2),
    seed=st.integers(0, 2**16),
    unknown=st.sampled_from([0.0, 0.05]),
)
def test_targets_are_the_same_bases_as_without_tokens(length, multiple, seed, unknown):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 4, (3, length)).astype(np.uint8)
    ids[rng.random(ids.shape) < unknown] = N
    settings = {"rate": 0.5, "span": 6 * multiple, "seed": seed}
    bases = Masking(**settings).windows(ids, "set", np.arange(3))
    tokens = Masking(**settings, tokenizer=SIX).windows(ids, "set", np.arange(3))
    np.testing.assert_array_equal(tokens.target_bases, bases.target_bases)
    target = tokens.labels != IGNORE_INDEX
    for row in range(3):
        whole = SIX.encode(ids[row])
        np.testing.assert_array_equal(tokens.labels[row][target[row]], whole[target[row]])
        np.testing.assert_array_equal(tokens.input_ids[row][~target[row]], whole[~target[row]])
        np.testing.assert_array_equal(
            np.repeat(target[row][: length // 6], 6), bases.labels[row, : length // 6 * 6] >= 0
        )
        shown = [decode(bases.input_ids[row, 6 * at : 6 * at + 6]) for at in np.flatnonzero(target[row])]
        found = [SIX.tokens[token] for token in tokens.input_ids[row][target[row]]]
        assert found == ["[MASK]" if text == "??????" else text for text in shown]


def test_tokens_are_masked_replaced_and_kept_at_the_configured_rates():
    ids = np.random.default_rng(0).integers(0, 4, (64, 3000)).astype(np.uint8)
    found = Masking(rate=0.3, span=6, tokenizer=SIX).windows(ids, "set", np.arange(64))
    target = found.labels != IGNORE_INDEX
    shown, true = found.input_ids[target], found.labels[target]
    assert target.mean() == pytest.approx(0.3, abs=0.01)
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (shown == true).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    "settings",
    [{}, {"method": "words"}, {"method": "kmers"}, {"method": "kmers", "k": 1}, {"method": "kmers", "k": 6, "size": 4}],
)
def test_unsuitable_settings_are_rejected(settings):
    with pytest.raises(ValueError, match="tokenizer: "):
        tokenization(settings)
