import pytest

from benchmarks import data
from benchmarks.synthetic import synthetic_set
from ldarnet.data import ShardSet, Windows
from sharding.genomes import BUNDLED_FASTA


@pytest.fixture
def in_process(monkeypatch):
    """Measure in this process instead of in worker processes."""
    monkeypatch.setattr(data, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(data, "together", lambda function, processes, *arguments: function(*arguments))


def test_results_file_is_complete(in_process, tmp_path, capsys):
    data.main(
        [str(BUNDLED_FASTA), "--seconds", "0.2", "--synthetic", "0.02", "--out", str(tmp_path), "--note", "Tried."]
    )
    (file,) = tmp_path.glob("*.md")
    text = file.read_text()
    for part in (
        "Tried.", "Commit", "Hardware", "benchmarks.data", "sharding.build from plain FASTA", "bits per base",
        "one tar member per window", "published loader", "ours, one process", "first batch", "resumed at position",
        "opening an index of",
    ):  # fmt: skip
        assert part in text, part
    assert str(file) in capsys.readouterr().out


def test_failed_measurements_are_recorded(in_process, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "alone", lambda function, *_: {"failure": f"{function.__name__} is out of order"})
    monkeypatch.setattr(data, "together", lambda *_: {"failure": "no processes"})
    data.main([str(BUNDLED_FASTA), "--synthetic", "0.02", "--out", str(tmp_path)])
    text = next(tmp_path.glob("*.md")).read_text()
    assert "load_published is out of order" in text and "build_shards is out of order" in text


def test_synthetic_index_is_complete(tmp_path):
    synthetic_set(tmp_path / "set", 20_000_000, species=5)
    shards = ShardSet.open(tmp_path / "set")
    assert sum(shards.splits.values()) == pytest.approx(20_000_000, rel=0.05) and len(shards.index.species) == 5
    assert len(Windows(shards, "train", 1024)) > 10_000
