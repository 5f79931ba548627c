"""Boundaries of a model along a genome: strands, stages, selection rules."""

import numpy as np
import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import reverse_complement
from ldarnet.errors import UserError
from ldarnet.genomics.boundaries import BoundaryScorer, average, check_reads_bases
from ldarnet.genomics.scoring import WindowInput
from ldarnet.genomics.stitching import stitched
from ldarnet.genomics.windows import WindowGrid
from ldarnet.interpret import boundary_track
from tests.support.genomics import ids_of, random_bases, whole

NESTED = {"arch_layout": ["m1", ["m1", ["M1"], "m1"], "m1"], "d_model": [16, 16, 24], "d_intermediate": [0, 0, 32]}


def backbone(**changes):
    torch.manual_seed(0)
    network = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", **changes)).double().eval().model
    with torch.no_grad():  # spread the probabilities around the threshold
        for name, parameter in network.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter += 0.5 * torch.randn_like(parameter)
    return network


def inputs(*lengths):
    return [WindowInput(ids_of(random_bases(length, seed)), 0) for seed, length in enumerate(lengths)]


def test_one_strand_equals_the_model():
    network, windows = backbone(**NESTED), inputs(90, 41)
    found = BoundaryScorer(network, "forward")(windows)
    for window, scores in zip(windows, found, strict=True):
        for stage, (p, mask) in enumerate(boundary_track(network, window.ids)):
            signal = scores.signals[f"boundary_stage{stage}_forward"]
            np.testing.assert_allclose(np.nan_to_num(signal), p, atol=1e-6)
            assert scores.starts[f"chunks_stage{stage}_forward"].tolist() == mask.tolist()


def test_the_reverse_strand_reports_the_same_boundaries_between_bases():
    network, (window,) = backbone(), inputs(70)
    scores = BoundaryScorer(network, "both")([window])[0]
    p, mask = boundary_track(network, reverse_complement(window.ids))[0]
    signal, starts = scores.signals["boundary_stage0_reverse"], scores.starts["chunks_stage0_reverse"]
    assert np.isnan(signal[0]) and not starts[0]
    for base in range(1, 70):  # between bases base - 1 and base of the forward strand
        assert signal[base] == pytest.approx(p[70 - base], abs=1e-6) and starts[base] == mask[70 - base]


def test_averages_do_not_depend_on_the_strand_that_is_given():
    network, (window,) = backbone(**NESTED), inputs(120)
    turned = WindowInput(reverse_complement(window.ids), 0)
    here, there = BoundaryScorer(network, "average")([window, turned])
    for name in here.signals:
        np.testing.assert_allclose(here.signals[name][1:], there.signals[name][:0:-1], atol=1e-6)
        chunks = name.replace("boundary", "chunks")
        assert here.starts[chunks][1:].tolist() == there.starts[chunks][:0:-1].tolist()


def test_the_average_is_that_of_both_strands_and_selects_by_threshold():
    network, (window,) = backbone(), inputs(120)
    both, mean = (BoundaryScorer(network, strands)([window])[0] for strands in ("both", "average"))
    forward, reverse = both.signals["boundary_stage0_forward"], both.signals["boundary_stage0_reverse"]
    p = mean.signals["boundary_stage0"]
    assert p[0] == 1
    np.testing.assert_allclose(p[1:], (forward[1:] + reverse[1:]) / 2, atol=1e-6)
    starts = mean.starts["chunks_stage0"]
    assert starts.tolist() == (p > 0.5).tolist() and 1 < starts.sum() < 119


def test_top_k_selects_the_same_share_of_averaged_probabilities():
    network = backbone(chunking={"selection": "top_k"})
    (scores,) = BoundaryScorer(network, "average")(inputs(101))
    p, starts = scores.signals["boundary_stage0"], scores.starts["chunks_stage0"]
    assert starts.sum() == np.ceil(101 / network.config.target_ratio)
    assert p[starts].min() >= p[~starts].max()


def test_inner_stages_have_values_only_at_boundaries_of_the_stage_before():
    network = backbone(**NESTED)
    for strands in ("forward", "average"):
        suffix = "_forward" if strands == "forward" else ""
        (scores,) = BoundaryScorer(network, strands)(inputs(200))
        outer, inner = (scores.starts[f"chunks_stage{stage}{suffix}"] for stage in (0, 1))
        assert not (inner & ~outer).any() and inner.any()
        values = scores.signals[f"boundary_stage1{suffix}"]
        assert np.isnan(values[~outer]).all() and not np.isnan(values[outer]).any()


def test_a_position_that_one_strand_lacks_has_the_value_of_the_other():
    nan = np.float32(np.nan)
    config = LDARNetConfig.preset("tiny")
    outer = (np.array([1, 0.9, 0.9], np.float32), np.array([True, True, True]))
    inner = (np.array([1, nan, 0.2], np.float32), np.array([True, False, False]))
    other = (np.array([nan, 0.7, 0.6], np.float32), np.array([False, True, True]))
    _, (p, starts) = average(config, [outer, inner], [outer, other])
    np.testing.assert_allclose(p, [1, 0.7, 0.4], atol=1e-6)
    assert starts.tolist() == [True, True, False]


def values_of(network, bases, intervals, batch, strands="average"):
    found = {}
    scorer = BoundaryScorer(network, strands)
    for piece in stitched(whole(bases), ids_of(bases), np.array(intervals), WindowGrid.of(64), scorer, batch):
        (signal,), (breaks,) = piece.signals.values(), piece.breaks.values()
        found |= {piece.start + at: pair for at, pair in enumerate(zip(signal.tolist(), breaks.tolist(), strict=True))}
    return found


def test_tracks_of_a_model_depend_neither_on_batches_nor_on_regions():
    network, bases = backbone(), random_bases(700) + "N" * 100 + random_bases(300)
    expected = values_of(network, bases, [[0, 1100]], 1)
    assert {code for _, code in expected.values()} == {0, 1, 2}
    for regions, batch in (([[0, 1100]], 7), ([[13, 200], [201, 640], [650, 1099]], 3), ([[333, 334]], 1)):
        found = values_of(network, bases, regions, batch)
        assert {*found} == {at for start, end in regions for at in range(start, end)}
        for at, (p, code) in found.items():
            assert code == expected[at][1]
            assert p == pytest.approx(expected[at][0], abs=1e-6, nan_ok=True)


def test_methods_without_a_router_have_boundaries_of_probability_one():
    network = backbone(chunking={"method": "grid"})
    (scores,) = BoundaryScorer(network, "forward")(inputs(40))
    assert scores.signals["boundary_stage0_forward"].tolist() == [float(at % 4 == 0) for at in range(40)]


@pytest.mark.parametrize(
    ("changes", "stages", "message"),
    [
        ({"arch_layout": ["m1"], "d_model": [16], "d_intermediate": [0]}, None, "single stage and no chunks"),
        ({}, [1], "stage 1: this model has chunks only at stage 0; use stage 0$"),
        (NESTED, [2], "stage 2: this model has chunks only at stages 0 to 1; use one of these stages"),
    ],
)
def test_missing_stages_are_errors(changes, stages, message):
    with pytest.raises(UserError, match=message):
        BoundaryScorer(backbone(**changes), "forward", stages)


def test_models_with_a_fixed_tokenizer_are_refused():
    config = LDARNetConfig.preset(
        "tiny", arch_layout=["m1"], d_model=[16], d_intermediate=[0], tokenizer={"method": "kmers", "k": 3}
    )
    with pytest.raises(UserError, match=r"reads the tokens of a fixed tokenizer \(method kmers\), not bases"):
        check_reads_bases(config)


def test_models_with_boundaries_from_a_file_are_refused():
    config = LDARNetConfig.preset("tiny", chunking={"method": "file", "track": "0" * 64})
    with pytest.raises(UserError, match=r"reads its boundaries from a file \(chunking method file\); use a model that"):
        check_reads_bases(config)


def test_boundaries_of_a_byte_pair_encoding_are_computed():
    network = backbone(chunking={"method": "bpe", "merges": ["A C", "G T"]})
    check_reads_bases(network.config)
    (scores,) = BoundaryScorer(network, "forward")([WindowInput(ids_of("ACGTTAC"), 0)])
    assert scores.starts["chunks_stage0_forward"].tolist() == [True, False, True, False, True, True, False]


def test_a_model_with_values_that_are_not_finite_is_an_error():
    network = backbone()
    with torch.no_grad():
        network.embeddings.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="a boundary probability is NaN or infinite"):
        BoundaryScorer(network, "average")(inputs(20))
