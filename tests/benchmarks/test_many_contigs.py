import pytest

from benchmarks import many_contigs
from ldarnet.genome.fasta import read_contigs


@pytest.mark.slow
def test_every_step_is_measured(tmp_path):
    many_contigs.main(["--contigs", "300", "--out", str(tmp_path), "--note", "Tried."])
    text = next(tmp_path.glob("*-many-contigs.md")).read_text()
    assert "300 random contigs of 200 bases" in text and "Tried." in text
    for step in (
        "shard --split-hash",
        "already built",
        "open the set",
        "read 100 batches",
        "verify",
        "stats",
        "unshard",
    ):
        assert step in text


def test_the_genome_has_the_contigs(tmp_path):
    many_contigs.write_genome(tmp_path / "x.fa", 12)
    contigs = list(read_contigs(tmp_path / "x.fa"))
    assert [name for name, _ in contigs] == [f"scaffold_{number}" for number in range(12)]
    assert all(len(bases) == many_contigs.LENGTH for _, bases in contigs)
