"""Masked log-likelihoods equal those of a naive loop that predicts one base at a time."""

import numpy as np
import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForCausalLM, LDARNetForMaskedLM
from ldarnet.errors import UserError
from ldarnet.genomics.likelihood import LikelihoodScorer, masked_positions
from ldarnet.genomics.scoring import WindowInput
from ldarnet.genomics.stitching import stitched
from ldarnet.genomics.windows import WindowGrid
from tests.support.genomics import ids_of, random_bases, whole

MASK = 5
COMPLEMENT = [3, 2, 1, 0, 4, 5, 6]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).double().eval()


def distribution(network, ids, at):
    """Distribution over A, C, G and T at a position of a list of ids."""
    with torch.no_grad():
        logits = network(torch.tensor([ids])).logits[0, at, :4]
    return torch.softmax(logits, 0).numpy()


def naive(network, bases, start, every, strands):
    """Log-likelihood and entropy of each base; the mask of each base is built on its own."""
    ids = ids_of(bases).tolist()
    likelihoods, entropies = [], []
    for at, base in enumerate(ids):
        if base > 3:
            likelihoods.append(np.nan)
            entropies.append(np.nan)
            continue
        same = [(start + other) % every == (start + at) % every for other in range(len(ids))]
        masked = [MASK if mask and token < 4 else token for token, mask in zip(ids, same, strict=True)]
        p = distribution(network, masked, at)
        if strands == "average":
            turned = [COMPLEMENT[token] for token in reversed(masked)]
            p = (p + distribution(network, turned, len(ids) - 1 - at)[::-1]) / 2
        likelihoods.append(np.log(p[base]))
        entropies.append(-(p * np.log(p)).sum())
    return likelihoods, entropies


@pytest.mark.parametrize("strands", ["forward", "average"])
@pytest.mark.parametrize(("every", "start"), [(8, 0), (5, 1003), (3, 7)])
def test_likelihoods_equal_a_naive_loop(network, strands, every, start):
    bases = random_bases(20) + "NNR" + random_bases(22, seed=1)
    windows = [WindowInput(ids_of(bases), start), WindowInput(ids_of(bases[:31]), start)]
    first, second = LikelihoodScorer(network, strands, every)(windows)
    suffix = "" if strands == "average" else "_forward"
    for scores, length in ((first, 45), (second, 31)):
        likelihoods, entropies = naive(network, bases[:length], start, every, strands)
        np.testing.assert_allclose(scores.signals[f"log_likelihood{suffix}"], likelihoods, atol=1e-5)
        np.testing.assert_allclose(scores.signals[f"entropy{suffix}"], entropies, atol=1e-5)


def test_each_base_is_masked_once():
    window = WindowInput(ids_of("ACGTNACGTACGTNNA"), 11)
    counts = sum(masked_positions(window, remainder, 5).astype(int) for remainder in range(5))
    assert counts.tolist() == [int(base != "N") for base in "ACGTNACGTACGTNNA"]


def test_regions_give_the_values_of_the_whole_contig(network):
    bases, grid, scorer = random_bases(150), WindowGrid.of(48), LikelihoodScorer(network, "average", 4)

    def values(intervals):
        pieces = stitched(whole(bases), ids_of(bases), np.array(intervals), grid, scorer, 3)
        return {
            piece.start + at: v for piece in pieces for at, v in enumerate(piece.signals["log_likelihood"].tolist())
        }

    expected, part = values([[0, 150]]), values([[61, 97]])
    assert {*part} == {*range(61, 97)}
    assert all(part[at] == pytest.approx(expected[at], abs=1e-6) for at in part)


def test_causal_models_are_refused():
    with pytest.raises(UserError, match="this model is causal: it predicts the next base, not masked bases; use"):
        LikelihoodScorer(LDARNetForCausalLM(LDARNetConfig.preset("tiny", causal=True)), "average")


def test_a_model_with_values_that_are_not_finite_is_an_error():
    broken = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="a predicted probability is NaN or infinite"):
        LikelihoodScorer(broken, "average")([WindowInput(ids_of("ACGTACGT"), 0)])
