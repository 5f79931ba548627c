import gzip
import random
import shutil
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from ldarnet.errors import TransientError, UserError
from ldarnet.tasks import find_task, open_task
from ldarnet.tasks import publishers as forms
from ldarnet.tasks.registry import ReferenceAssembly

RNG = random.Random(1)
CONTIG = "".join(RNG.choices("ACGT", k=2000))
COMPLEMENT = str.maketrans("ACGT", "TGCA")
# class, id, start, end, strand
ROWS = {
    "train": [("negative", "10", 0, 30, "+"), ("negative", "9", 40, 60, "-"), ("positive", "FP1", 100, 130, "")],
    "test": [("positive", "a", 500, 530, "-"), ("negative", "b", 600, 640, "+")],
}


def cut(start: int, end: int, strand: str) -> str:
    piece = CONTIG[start:end]
    return piece.translate(COMPLEMENT)[::-1] if strand == "-" else piece


def write_sequences(home: Path) -> None:
    for split, rows in ROWS.items():
        for kind, name, *place in rows:
            path = home / split / kind / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(cut(*place))


def write_coordinates(home: Path) -> None:
    for split, rows in ROWS.items():
        (home / split).mkdir(parents=True)
        for kind in ("negative", "positive"):
            lines = [f"{name},chr1,{a},{b},{s}\n" for other, name, a, b, s in rows if other == kind]
            (home / split / f"{kind}.csv.gz").write_bytes(
                gzip.compress(("id,region,start,end,strand\n" + "".join(lines)).encode())
            )


def write_reference(path: Path, contig: str = CONTIG, name: str = "1 dna:chromosome") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [contig[at : at + 60].lower() for at in range(0, len(contig), 60)]
    path.write_bytes(gzip.compress(f">{name}\n{chr(10).join(lines)}\n>MT\nACGT\n".encode()))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Task human_enhancers_cohn with an assembly of 2,000 bases."""
    assembly = ReferenceAssembly("GRCh38", ("hg38",), "http://ensembl/GRCh38.fa.gz", {"1": 2000})
    task = replace(find_task("human_enhancers_cohn"), assemblies={"negative": assembly, "positive": assembly})
    monkeypatch.setattr("ldarnet.tasks.dataset.find_task", lambda _: task)


def test_sequences_coordinates_and_zip_of_a_genomic_benchmark_are_equal(tmp_path: Path, small):
    home = tmp_path / "loose" / "human_enhancers_cohn"
    write_sequences(home)
    (tmp_path / "zipped").mkdir()
    with ZipFile(tmp_path / "zipped" / "human_enhancers_cohn_v0.zip", "w") as archive:
        for path in sorted(home.rglob("*.txt"), reverse=True):
            archive.write(path, path.relative_to(home.parent))
    write_coordinates(tmp_path / "cut" / "datasets" / "human_enhancers_cohn")
    write_reference(tmp_path / "cut" / "references" / "Homo_sapiens.GRCh38.dna.toplevel.fa.gz")
    write_reference(tmp_path / "cut" / "references" / "Homo_sapiens.GRCh38.cdna.all.fa.gz", "ACGT", "ENST01")
    loose, zipped, from_cut = (open_task("gb/x", folder=tmp_path / form) for form in ("loose", "zipped", "cut"))
    assert loose.fingerprint == zipped.fingerprint == from_cut.fingerprint
    assert loose.classes == ["negative", "positive"]
    assert loose.train.names == ["negative/10", "negative/9", "positive/FP1"]
    assert loose.train.labels.tolist() == [0, 0, 1]
    assert loose.train.sequences == [cut(0, 30, "+"), cut(40, 60, "-"), cut(100, 130, "+")]
    assert loose.test.labels.tolist() == [0, 1]
    assert any(note.endswith("extracted from Homo_sapiens.GRCh38.dna.toplevel.fa.gz") for note in from_cut.notes)
    assert any(note.startswith("train/negative.csv.gz differs from the published file") for note in from_cut.notes)


def test_labels_follow_class_names_not_directory_order(tmp_path: Path, small, monkeypatch):
    write_sequences(tmp_path / "human_enhancers_cohn")
    one = open_task("gb/x", folder=tmp_path)
    real = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: sorted(real(self, pattern), reverse=True))
    assert open_task("gb/x", folder=tmp_path).fingerprint == one.fingerprint


def test_wrong_assembly_is_rejected(tmp_path: Path, small):
    write_coordinates(tmp_path / "human_enhancers_cohn")
    with pytest.raises(
        UserError, match=r"references: no FASTA file of GRCh38, the assembly .*; download http.*GRCh38\.fa\.gz into"
    ):
        open_task("gb/x", folder=tmp_path)
    write_reference(tmp_path / "references" / "hg19.fa.gz")
    with pytest.raises(UserError, match=r"no FASTA file of GRCh38.* \(found only hg19\.fa\.gz\); "):
        open_task("gb/x", folder=tmp_path)
    reference = tmp_path / "references" / "hg38.fa.gz"
    write_reference(reference, CONTIG + "A")
    with pytest.raises(
        UserError, match=r"hg38\.fa\.gz: contig 1 has 2,001 bases, but 2,000 in GRCh38, the assembly of the coordinates"
    ):
        open_task("gb/x", folder=tmp_path)
    write_reference(reference, CONTIG, "chr2")
    with pytest.raises(UserError, match=r"no contig chr1, needed by 5 of 5 rows .*line 2\); use the complete"):
        open_task("gb/x", folder=tmp_path)


def test_bad_coordinates_are_reported(tmp_path: Path, small):
    home = tmp_path / "human_enhancers_cohn"
    write_coordinates(home)
    write_reference(tmp_path / "references" / "hg38.fa.gz")
    table = home / "train" / "positive.csv.gz"
    for line, message in {
        "x,chr1,5,ten,+": r"train/positive\.csv\.gz: line 2: start and end must be integers",
        "x,chr1,10,5,+": r"train/positive\.csv\.gz: line 2: 10-5 is not a valid interval",
        "x,chr1,1990,2001,+": r"train/positive\.csv\.gz line 2: chr1:1990-2001 extends beyond the end of contig 1 ",
    }.items():
        table.write_bytes(gzip.compress(f"id,region,start,end,strand\n{line}\n".encode()))
        with pytest.raises(UserError, match=message):
            open_task("gb/x", folder=tmp_path)
    table.write_bytes(gzip.compress(b"id,region,start,end\n"))
    with pytest.raises(UserError, match=r"positive\.csv\.gz: line 1: no column 'strand'"):
        open_task("gb/x", folder=tmp_path)
    table.unlink()
    with pytest.raises(
        UserError, match=r"positive\.csv\.gz: no such file; add it, because gb/human_enhancers_cohn needs the coord"
    ):
        open_task("gb/x", folder=tmp_path)


def test_incomplete_packages_are_reported(tmp_path: Path, small):
    home = tmp_path / "human_enhancers_cohn"
    write_sequences(home)
    (home / "train" / "negative" / "9.txt").write_text("")
    with pytest.raises(UserError, match=r"human_enhancers_cohn: train/negative/9\.txt: the sequence is empty"):
        open_task("gb/x", folder=tmp_path)
    shutil.rmtree(home / "test" / "positive")
    with pytest.raises(UserError, match=r"human_enhancers_cohn: no sequences of class 'positive' of gb/human"):
        open_task("gb/x", folder=tmp_path)
    shutil.rmtree(home)
    (tmp_path / "human_enhancers_cohn_v0.zip").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(UserError, match=r"human_enhancers_cohn_v0\.zip: damaged or truncated or encr.*download it"):
        open_task("gb/x", folder=tmp_path)


def test_damaged_zip_raises_a_permanent_error_or_is_harmless(tmp_path: Path, small):
    path = tmp_path / "human_enhancers_cohn_v0.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for split, rows in ROWS.items():
            for kind, name, *interval in rows:
                archive.writestr(f"human_enhancers_cohn/{split}/{kind}/{name}.txt", 2 * cut(*interval))
    whole, refused = path.read_bytes(), []
    for at in range(0, len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            open_task("gb/x", folder=tmp_path)
        except UserError as error:
            refused.append(error)
    assert refused
    assert not [error for error in refused if isinstance(error, TransientError) or str(path) not in str(error)]


def test_unverified_transcripts_are_noted(tmp_path: Path, monkeypatch):
    genome = ReferenceAssembly("GRCh38", ("hg38",), "http://ensembl/GRCh38.fa.gz", {"1": 2000})
    cdna = ReferenceAssembly("GRCh38.cdna", (), "http://ensembl/release-97/cdna.fa.gz", {})
    task = replace(find_task("human_enhancers_cohn"), assemblies={"negative": genome, "positive": cdna})
    monkeypatch.setattr("ldarnet.tasks.dataset.find_task", lambda _: task)
    write_coordinates(tmp_path / "human_enhancers_cohn")
    for name in ("GRCh38.fa.gz", "GRCh38.cdna.fa.gz"):
        write_reference(tmp_path / "references" / name)
    (note,) = [text for text in open_task("gb/x", folder=tmp_path).notes if "could not be verified" in text]
    assert note.startswith(
        "GRCh38.cdna.fa.gz could not be verified: the coordinates refer to http://ensembl/release-97/"
    )


def test_file_formats_of_the_nucleotide_transformer_are_equivalent(tmp_path: Path):
    import pyarrow
    from pyarrow import parquet

    rows = {
        "train": [("YAL1_5", "ACGT", 1), ("YAL2_6", "ACGG", 0)],
        "test": [("YAL3_7", "CCCC", 0), ("a b", "GACG", 1)],
    }
    for form in ("fna", "gz", "parquet"):
        home = tmp_path / form / "nucleotide_transformer" / "H3"
        home.mkdir(parents=True)
        for split, lines in rows.items():
            text = "".join(f">{name}|{label}\n{sequence}\n" for name, sequence, label in lines)
            if form == "parquet":
                names, sequences, labels = map(list, zip(*lines, strict=True))
                table = pyarrow.table({"sequence": sequences, "name": names, "label": labels, "task": ["H3"] * 2})
                parquet.write_table(table, home / f"{split}.parquet")
            elif form == "gz":
                (home / f"{split}.fna.gz").write_bytes(gzip.compress(text.encode()))
            else:
                (home / f"{split}.fna").write_text(text)
    read = [open_task("H3", folder=tmp_path / form) for form in ("fna", "gz", "parquet")]
    assert len({data.fingerprint for data in read}) == 1
    assert read[0].train.names == ["YAL1_5", "YAL2_6"]
    assert read[0].train.labels.tolist() == [1, 0]
    assert read[0].suite == "nucleotide_transformer"
    assert "the train split has 2 rows, the published one 13,468" in read[0].notes
    assert any(note.startswith("known leakage in nt/H3: Probes are less") for note in read[0].notes)


def test_gue_has_a_validation_split(shared: Path):
    data = open_task("gue/prom_core_tata", folder=shared / "data" / "gue_deepgene" / "GUE")
    assert (data.suite, data.task) == ("gue", "prom_core_tata")
    assert [len(split) for split in (data.train, data.valid, data.test)] == [4904, 613, 613]
    assert not any("the published one" in note for note in data.notes)
    with pytest.raises(UserError, match=r"no training rows of gue/H3, only dev\.csv\.gz, test\.csv\.gz; add train"):
        open_task("gue/H3", folder=shared / "data" / "gue_deepgene" / "GUE")


def test_a_subset_of_the_training_rows_is_noted(real_tasks: Path):
    data = open_task("H3", folder=real_tasks / "nt_histone")
    assert (len(data.train), len(data.test), data.classes) == (2688, 1497, ["0", "1"])
    assert data.notes[0] == "trained on a subset of the published rows: train_subset.tsv"


def test_real_rows_of_a_genomic_benchmark_are_read(real_tasks: Path):
    data = open_task("human_ensembl_regulatory", folder=real_tasks / "gb_chr20X")
    assert data.classes == ["enhancer", "ocr", "promoter"]
    assert set(data.train.labels.tolist()) == {0, 1, 2}
    assert len(data.train) == 8970


def test_older_assembly_is_rejected(shared: Path, tmp_path: Path):
    home = tmp_path / "human_enhancers_cohn"
    shutil.copytree(shared / "data" / "gb_coordinates" / "human_enhancers_cohn", home)
    references = tmp_path / "references"
    references.mkdir()
    (references / "GRCh38.fa.gz").symlink_to(shared / "data" / "genome_human_chr20_GRCh37" / "20.fa.gz")
    with pytest.raises(UserError, match=r"contig 20 has 63,025,520 bases, but 64,444,167 in GRCh38, the assembly"):
        open_task("human_enhancers_cohn", folder=tmp_path)


def test_folder_without_the_task_is_reported(tmp_path: Path):
    with pytest.raises(UserError, match=r"none: no such folder; choose the one with the files of nt/H3"):
        open_task("H3", folder=tmp_path / "none")
    with pytest.raises(UserError, match=r"no files for nt/H3 \(expected H3/train\.\*.* set data\.folder=null"):
        open_task("H3", folder=tmp_path)
    with pytest.raises(
        UserError, match=r"no files for gue/mouse_0 \(expected mouse/0/train.*download it from .*DNABERT_2"
    ):
        open_task("mouse_0", folder=tmp_path)
    with pytest.raises(UserError, match=r"task=gue/mouse_0: no direct download; .* set data\.folder"):
        open_task("mouse_0", cache=tmp_path)


def test_task_folder_can_be_given_directly(tmp_path: Path):
    home = tmp_path / "H3"
    home.mkdir()
    (home / "train.tsv").write_text("sequence\tlabel\nACGT\t0\nACGG\t1\n")
    data = open_task("H3", folder=home)
    assert len(data.train) == 2
    assert data.test is None
    assert forms.SUBSET == "train_subset"
