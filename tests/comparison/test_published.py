"""Published results agree with their sources."""

import pytest

from ldarnet.comparison.published import FOLDS_SOURCE, published, sources
from ldarnet.tasks.metrics import interval
from ldarnet.tasks.registry import all_tasks

RESULTS = [number for task in all_tasks().values() for number in published(task.suite, task.name)]


def test_authors_folds_reproduce_their_printed_means_and_intervals() -> None:
    printed = [number for number in RESULTS if number.source.key == FOLDS_SOURCE]
    assert len(printed) == 18
    for number in printed:
        assert len(number.folds) == 10
        mean, half = interval(number.folds)
        assert half is not None and number.interval is not None
        assert mean == pytest.approx(number.value, abs=0.00051)  # printed as percent with one decimal
        assert half == pytest.approx(number.interval, abs=0.00051)


def test_every_result_has_a_task_and_a_source() -> None:
    assert {number.source.key for number in RESULTS} == set(sources())
    assert all(0 < number.value < 1 for number in RESULTS)
    assert all((number.interval is None) == (number.source.interval == "none") for number in RESULTS)
    assert len({(n.source.key, n.suite, n.task, n.model, n.metric) for n in RESULTS}) == len(RESULTS) == 420
    assert all(source.test == "official" for source in sources().values() if source.ranked)


def test_every_task_of_two_suites_has_a_published_result_in_its_metric() -> None:
    for task in all_tasks().values():
        if task.suite != "gue":
            assert any(number.metric == task.metric for number in published(task.suite, task.name)), task.key


def test_selected_values_match_the_printed_tables() -> None:
    def one(suite: str, task: str, source: str, model: str) -> tuple[str, float, float | None]:
        (found,) = (n for n in published(suite, task) if (n.source.key, n.model) == (source, model))
        return found.metric, found.value, found.interval

    nt, gb = "nucleotide_transformer", "genomic_benchmarks"
    assert one(nt, "H3", "caduceus-nt", "Caduceus-Ph") == ("mcc", 0.815, 0.048)
    assert one(nt, "splice_sites_donors", "caduceus-nt", "Caduceus-PS") == ("f1_binary", 0.874, 0.289)
    assert one(nt, "H3K4me3", "hyenadna-nt", "HyenaDNA") == ("mcc", 0.612, None)
    assert one(nt, "promoter_tata", "ldarnet-best-small", "Enformer") == ("mcc", 0.92, None)
    assert one(gb, "human_ensembl_regulatory", "caduceus-gb", "Mamba") == ("accuracy", 0.814, 0.211)
    assert one(gb, "drosophila_enhancers_stark", "genomic-benchmarks", "CNN (PyTorch)") == ("accuracy", 0.586, None)


def test_own_task_has_no_published_result() -> None:
    assert published("own", "H3") == ()
