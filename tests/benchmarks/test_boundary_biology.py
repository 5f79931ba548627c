"""Boundaries against biology: the inputs of the studies, the verdicts and the page."""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import boundary_biology
from benchmarks.biology import STUDIES, YEAST_BEDS
from benchmarks.boundary_biology import main, outcome, sentences
from ldarnet.errors import UserError
from ldarnet.genome.annotation import read_annotation
from ldarnet.genomics.enrichment.features import load_annotation
from ldarnet.genomics.enrichment.nulls import NULLS
from ldarnet.genomics.enrichment.results import read_rows
from ldarnet.genomics.enrichment.study import EnrichmentRow
from tests.support.genomics import random_bases, save

DATA = Path(__file__).parents[3] / "shared/data"
ROW = EnrichmentRow("tss", "", "probability", 50, 0.5, 0.3, 0.2, 0.1, 0.3, 1.0, 0.01, 0.01)
SAME = {"q": 0.5}


def rows_of(changes: dict[str, dict]) -> dict[str, EnrichmentRow]:
    return {null: replace(ROW, null=null, **changes.get(null, {})) for null in NULLS}


@pytest.fixture
def data(tmp_path) -> Path:
    """Folder with the files of the yeast study, on contigs of 2,000 and 1,000 bases."""
    folder = tmp_path / "data" / "genome_yeast_S288C"
    beds = folder / "winston-lab" / "annotations"
    beds.mkdir(parents=True)
    contigs = {"ref|1|": (2000, "IV"), "ref|2|": (1000, "VII")}
    write(
        folder / "s.fsa.gz",
        "".join(f">{name} [chromosome={c}]\n{random_bases(n, n)}\n" for name, (n, c) in contigs.items()),
    )
    genes = ["##gff-version 3"]
    for at in range(100, 1800, 80):
        for kind, start, end in (("exon", 0, 20), ("exon", 40, 60), ("CDS", 5, 20), ("CDS", 40, 55)):
            genes.append(f"IV\tx\t{kind}\t{at + start + 1}\t{at + end}\t.\t+\t.\tParent=t{at}")
    write(folder / "genes.gff3.gz", "\n".join(genes) + "\n")
    for name in [YEAST_BEDS["measured_tss"][0], YEAST_BEDS["tata_box"][0]]:
        lines = [
            f"chr{'IV' if at < 1800 else 'VII'}\t{at % 1800}\t{at % 1800 + 8}\tx\t0\t-\n" for at in range(70, 2500, 90)
        ]
        write(beds / name, "".join(lines))
    return tmp_path / "data"


def write(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def test_the_program_writes_a_page_and_its_numbers(data, ldarnet, tmp_path, monkeypatch, capsys):
    pytest.importorskip("logomaker")
    monkeypatch.setattr(boundary_biology, "run_enrich", lambda words: ldarnet("enrich", *words))
    quick = "--window 64 --permutations 39 --shuffled-loci 2 --flank 20 --windows 2 --device cpu --block 500"
    model = save(tmp_path / "model")
    words = ["yeast", model, "--data", data, "--out", tmp_path, "--enrich", quick, "--note", "tiny", "--other", model]
    main([*map(str, words)])
    (file,) = tmp_path.glob("*-boundary-biology-yeast.md")
    text = file.read_text()
    kinds = ["start_codon", "splice_donor", "splice_acceptor", "stop_codon", "measured_tss", "tata_box"]
    assert text.count("\n- **") == len(kinds) and all(f"\n- **{kind}** (" in text for kind in kinds)
    assert "\ntiny\n" in text and "- plus_one_nucleosome (" in text and "- hits of promoter motifs: " in text
    assert "nan" not in text
    found = json.loads(file.with_suffix(".json").read_text())
    assert [row["feature"] for row in found["effects"][::6]] == kinds
    assert len(found["effects"]) == 36 and found["outcomes"].keys() == {*kinds}
    assert [row["k"] for row in found["kmers"]] == [1, 2, 3, 4, 5, 6]
    assert f"Agreement of boundaries, {model}: Jaccard index: 1.000" in text
    assert str(file) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "holds"),
        ({null: {"effect": -0.2} for null in NULLS}, "holds"),
        ({"shifted": {"effect": math.nan, "q": math.nan}}, "holds"),
        ({"shifted": {"effect": -0.2}}, "mixed"),
        ({"shifted": SAME}, "mixed"),
        ({"shifted": SAME, "kmer_regression": {"effect": math.nan, "q": math.nan}}, "mixed"),
        ({"kmer_regression": SAME}, "k-mers"),
        (dict.fromkeys(NULLS, SAME), "nothing"),
    ],
)
def test_a_kind_holds_only_in_one_direction_against_every_null_model(changes, expected):
    assert outcome(rows_of(changes)) == expected


def test_a_verdict_states_what_kmers_explain_and_whether_an_effect_is_small():
    kmers = {"expected": 0.45, "effect": 0.05}
    text = sentences(rows_of({"kmer_regression": kmers, "matched": {"standardized": 0.1}}), 0.3)
    assert text.startswith("More boundaries than under all 6 null models.")
    assert (
        "0.500, and 0.300 at matched loci: +0.2000 (95% interval +0.1000 to +0.3000), 0.10 standard deviations (small)"
        in text
    )
    assert (
        "difference from all bases, +0.200, local k-mers predict +0.150, 75% of it; +0.0500 (95% interval +0.1000 to "
        in text
    )
    unclear = sentences(rows_of({"kmer_regression": {**kmers, **SAME}}), 0.3)
    assert unclear.endswith("remains, which is no detectable difference.") and text.endswith(" remains.")
    assert "% of it" not in sentences(rows_of({"kmer_regression": {"expected": 0.1}}), 0.3)


def test_damaged_tables_and_missing_data_are_clear_errors(tmp_path):
    (tmp_path / "t.csv").write_text("feature,null\ntss,matched\n")
    with pytest.raises(UserError, match=r"t\.csv: not a table of"):
        read_rows(tmp_path / "t.csv", EnrichmentRow)
    for study in STUDIES.values():
        with pytest.raises(UserError, match=r"0 files .* instead of 1; check --data"):
            study(tmp_path, tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs real genomes")
def test_real_features_are_on_the_contigs_that_are_read(tmp_path):
    yeast = STUDIES["yeast"](DATA, tmp_path)
    assert not yeast.missing
    counts = {}
    for argument in yeast.annotations[1:]:
        kind, _, path = argument.partition("=")
        counts[kind] = sum(row.contig in yeast.regions for row in read_annotation(Path(path))[1])
    assert counts.keys() == YEAST_BEDS.keys() and min(counts.values()) > 50
    human = STUDIES["human-chr20"](DATA, tmp_path)
    places = load_annotation(Path(human.annotations[0])).places
    assert len(places["tss"]) == 544 and len(places["splice_donor"]) == len(places["splice_acceptor"]) == 4533
