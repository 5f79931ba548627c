"""Byte-pair encoding: training, coverage of bases, masks."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet.alphabet import IGNORE_INDEX, MASK, encode
from ldarnet.cli import main
from ldarnet.config.tokenizer import TokenizerSection
from ldarnet.data import Masking
from ldarnet.errors import UserError
from ldarnet.tokenization import tokenization
from ldarnet.tokenization.bpe import BPE

RNG = np.random.default_rng(0)
REPEAT = "".join(RNG.choice(list("ACGT"), 40))
TEXTS = ["".join(RNG.choice(list("ACGT"), 60)) + REPEAT for _ in range(100)]
LEARNED = BPE.train(TEXTS, 80)


def test_training_is_deterministic_and_finds_repeats():
    assert LEARNED.settings == BPE.train(TEXTS, 80).settings
    assert len(LEARNED.tokens) == 80
    assert len(LEARNED.encode(encode(REPEAT))) < 20
    assert all(set(token) <= set("ACGT") for token in LEARNED.tokens[7:])
    assert tokenization(LEARNED.settings).tokens == LEARNED.tokens


def test_a_corpus_with_few_pairs_gives_a_smaller_vocabulary():
    assert BPE.train(["AC" * 10], 4096).tokens[7:9] == ("AC", "ACAC")
    assert len(BPE.train(["ACGT"], 4096).tokens) == 7


@given(text=st.text("ACGTN", max_size=200))
def test_every_base_belongs_to_one_token(text):
    tokens = LEARNED.encode(encode(text))
    assert "".join(LEARNED.tokens[token] for token in tokens) == text
    assert LEARNED.lengths[tokens].sum() == len(text)


@given(seed=st.integers(0, 2**16), span=st.sampled_from([1, 6]), length=st.integers(1, 120))
@settings(deadline=None)
def test_tokens_that_overlap_a_target_are_targets(seed, span, length):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 5, (3, length)).astype(np.uint8)
    bases = Masking(rate=0.3, span=span, seed=seed).apply(ids, "set", np.arange(3))
    masked = Masking(rate=0.3, span=span, seed=seed, tokenizer=LEARNED).windows(ids, "set", np.arange(3))
    for row in range(3):
        tokens = LEARNED.encode(ids[row])
        owner = np.repeat(np.arange(len(tokens)), LEARNED.lengths[tokens])
        target = np.isin(np.arange(len(tokens)), owner[bases[1][row] != IGNORE_INDEX])
        labels, shown = masked.labels[row, : len(tokens)], masked.input_ids[row, : len(tokens)]
        np.testing.assert_array_equal(labels, np.where(target, tokens, IGNORE_INDEX))
        np.testing.assert_array_equal(shown[~target], tokens[~target])
        assert masked.target_bases[row] == LEARNED.lengths[tokens[target]].sum()
        assert (masked.labels[row, len(tokens) :] == IGNORE_INDEX).all()
        assert (masked.input_ids[row, len(tokens) :] == 6).all()


def test_masks_have_the_configured_rates_and_are_pure():
    ids = RNG.integers(0, 4, (64, 1200)).astype(np.uint8)
    masking = Masking(rate=0.15, span=6, tokenizer=LEARNED)
    found = masking.windows(ids, "set", np.arange(64))
    target = found.labels != IGNORE_INDEX
    shown, true = found.input_ids[target], found.labels[target]
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (shown == true).mean() == pytest.approx(0.1, abs=0.02)
    drawn = shown[(shown != MASK) & (shown != true)]
    assert set(range(4)) | set(range(7, 80)) == set(drawn.tolist())
    alone = masking.windows(ids[5:6], "set", np.array([5]))
    tokens = alone.input_ids.shape[1]
    np.testing.assert_array_equal(alone.input_ids[0], found.input_ids[5, :tokens])
    np.testing.assert_array_equal(alone.labels[0], found.labels[5, :tokens])


@pytest.mark.parametrize("merges", [["A"], ["A C", "AC GG"], ["A C G"], ["A N"], ["A  C"]])
def test_merges_of_unknown_tokens_are_rejected(merges):
    with pytest.raises(ValueError, match="is not a pair of tokens"):
        tokenization({"method": "bpe", "merges": merges})


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ldarnet", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_the_command_writes_a_tokenizer_that_models_can_use(shards, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new/tokenizer.json"
    arguments = ("train-tokenizer", shards, "--vocab", 30, "--bases", 20_000, "--length", 64, "--out", out)
    assert command(monkeypatch, *arguments) == 0
    assert "vocabulary of 30" in capsys.readouterr().out
    found = tokenization(TokenizerSection(method="bpe", file=out).settings())
    assert len(found.tokens) == 30
    content = out.read_bytes()
    assert command(monkeypatch, *arguments) == 1
    assert "already exists" in capsys.readouterr().err
    out.unlink()
    assert command(monkeypatch, *arguments) == 0
    assert out.read_bytes() == content


def test_other_tokenizers_are_rejected(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text('{"model": {"vocab": {"hello": 0}, "merges": []}}')
    with pytest.raises(UserError, match="not the vocabulary"):
        TokenizerSection(method="bpe", file=file).settings()
    with pytest.raises(UserError, match="no such file"):
        TokenizerSection(method="bpe", file=tmp_path / "missing.json").settings()
