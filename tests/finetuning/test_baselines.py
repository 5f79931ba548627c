"""Baselines: 6-mer counts and the small CNN."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from ldarnet.alphabet import PAD, encode
from ldarnet.finetuning.arms.cnn import build_cnn
from ldarnet.finetuning.arms.kmers import KmerModel, fit_kmers, kmer_counts
from ldarnet.tasks.dataset import Examples
from ldarnet.tasks.metrics import scores

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def reverse_complement(sequence: str) -> str:
    return sequence.translate(COMPLEMENT)[::-1]


def random_sequences(count: int, length: int, seed: int) -> list[str]:
    bases = np.array(list("ACGT"))
    return ["".join(row) for row in bases[np.random.default_rng(seed).integers(0, 4, (count, length))]]


def examples(sequences: list[str], labels: np.ndarray) -> Examples:
    return Examples([str(row) for row in range(len(sequences))], sequences, labels)


MOTIF = "GATTACA"


def planted(count: int, seed: int, first: str = "", second: str = MOTIF) -> Examples:
    """Random sequences of 60 bases with one of two motifs in the center, in alternation."""
    labels = np.arange(count) % 2
    rows = zip(random_sequences(count, 60, seed), [first, second] * (count // 2), strict=True)
    return examples([row[:25] + motif + row[25 + len(motif) :] for row, motif in rows], labels)


def test_counts_equal_a_naive_loop() -> None:
    sequences = [*random_sequences(5, 40, 0), "ACGTACNACGTACG", "ACGTA", ""]
    kmers = ["".join(bases) for bases in product("ACGT", repeat=6)]
    counts = kmer_counts(sequences).toarray()
    assert counts.shape == (8, 4096) and counts.dtype == np.float32
    for row, sequence in enumerate(sequences):
        for column in counts[row].nonzero()[0]:
            starts = range(len(sequence))
            assert counts[row, column] == sum(sequence.startswith(kmers[column], start) for start in starts)
        assert counts[row].sum() == sum("N" not in sequence[i : i + 6] for i in range(len(sequence) - 5))


def test_counts_of_both_strands_are_reverse_complement_invariant() -> None:
    sequences = random_sequences(5, 40, 1)
    both = kmer_counts(sequences, "both")
    assert both.shape == (5, 2080)
    assert (both != kmer_counts([reverse_complement(sequence) for sequence in sequences], "both")).nnz == 0
    assert (kmer_counts(sequences) != kmer_counts([reverse_complement(sequence) for sequence in sequences])).nnz > 0


@pytest.mark.parametrize("strands", ["one", "both"])
def test_counts_and_probabilities_do_not_depend_on_blocks(strands: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [*random_sequences(40, 30, 2), "ACG", "NNNNNNN", *random_sequences(1, 500, 3), "ACGTACGN"]
    whole = kmer_counts(sequences, strands)
    monkeypatch.setattr("ldarnet.finetuning.arms.kmers.BLOCK_BASES", 64)
    parts = kmer_counts(sequences, strands)
    assert parts.shape == whole.shape
    for name in ("data", "indices", "indptr"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))
    assert parts.sum() == sum("N" not in text[at : at + 6] for text in sequences for at in range(len(text) - 5))


def fitted(train: Examples, valid: Examples, classes: int, metric: str) -> KmerModel:
    def validate(model: KmerModel) -> dict[str, Any]:
        return scores(valid.labels, model.probabilities(valid.sequences))

    return fit_kmers(train, classes, validate, metric, lambda work: work())[0]


def test_kmers_find_a_motif_and_its_strand() -> None:
    strands = {"first": reverse_complement(MOTIF), "second": MOTIF}
    model = fitted(planted(400, 0, **strands), planted(100, 1, **strands), classes=2, metric="mcc")
    test = planted(100, 2, **strands)
    found = model.probabilities(test.sequences)
    assert found.shape == (100, 2)
    assert found.sum(axis=1) == pytest.approx(np.ones(100))
    assert (found.argmax(axis=1) == test.labels).mean() > 0.9
    assert model.strands == "one"  # counts of both strands cannot distinguish the classes
    again = fitted(planted(400, 0, **strands), planted(100, 1, **strands), classes=2, metric="mcc")
    assert np.array_equal(again.probabilities(test.sequences), found)


def test_kmers_give_classes_without_training_rows_probability_zero() -> None:
    model = fitted(planted(60, 0), planted(40, 1), classes=3, metric="accuracy")
    assert np.array_equal(model.probabilities(["ACGTACGTAC"])[:, 2], [0])


def test_outputs_do_not_depend_on_padding() -> None:
    model = build_cnn(classes=3, seed=0).double().eval()
    sequences = ["ACGTTGCANNACGT", "A", *random_sequences(2, 33, 3)]
    ids = torch.full((4, 50), PAD)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(encode(sequence).astype(np.int64))
    together = model(ids)
    for row, sequence in enumerate(sequences):
        alone = model(ids[row : row + 1, : len(sequence)]).logits
        torch.testing.assert_close(together.logits[row : row + 1], alone)
        masked = model(ids.where(ids != PAD, 0), attention_mask=(ids != PAD).long()).logits[row : row + 1]
        torch.testing.assert_close(masked, alone)


def test_n_is_encoded_as_zeros_but_keeps_its_position() -> None:
    model = build_cnn(classes=2, seed=0).eval()
    sequences = ("ACGTNNNNNNNNACGT", "ACGTAAAAAAAAACGT", "ACGTACGT")
    logits = [model(torch.from_numpy(encode(s).astype(np.int64))[None]).logits for s in sequences]
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_cnn_learns_a_motif() -> None:
    train, test = (planted(rows, seed, second=3 * MOTIF) for rows, seed in ((256, 0), (128, 1)))
    ids, held_out = (
        torch.from_numpy(np.stack([encode(s) for s in rows.sequences]).astype(np.int64)) for rows in (train, test)
    )
    labels = torch.from_numpy(train.labels)
    model = build_cnn(classes=2, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(8):
        for part in torch.arange(256).split(32):
            output = model(ids[part], labels=labels[part])
            assert output.boundaries == () and output.ratio_loss == 0 and output.logits.shape == (32, 2)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
    with torch.no_grad():
        correct = model.eval()(held_out).logits.argmax(1).numpy() == test.labels
    assert correct.mean() > 0.9


def test_a_seed_determines_the_weights_without_changing_the_global_rng() -> None:
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (build_cnn(2, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
