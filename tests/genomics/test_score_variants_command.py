"""`ldarnet score-variants`, from files to files."""

import gzip
import math
import re
from pathlib import Path

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForCausalLM, LDARNetForMaskedLM
from ldarnet.model import write_model
from tests.support.genomics import random_bases, write_genome

SMALL = ("--window", "32", "--device", "cpu")
CONTIGS = {"chr1": random_bases(200), "chr2": random_bases(90, 1) + "N" * 5 + random_bases(60, 2)}
HEADER = (
    "##fileformat=VCFv4.2\n"
    "##contig=<ID=chr1,length=200>\n##contig=<ID=chr2,length=155>\n"
    '##INFO=<ID=AC,Number=A,Type=Integer,Description="Count, é">\n'
    '##INFO=<ID=LDAR_LLR,Number=1,Type=String,Description="Old">\n'
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1\ts2\n"
)


def base(contig: str, position: int, length: int = 1) -> str:
    return CONTIGS[contig][position - 1 : position - 1 + length]


def others(contig: str, position: int) -> list[str]:
    return [letter for letter in "ACGT" if letter != base(contig, position)]


def record(contig: str, position: int, alt: str, info: str = ".", ref: str | None = None) -> str:
    ref = ref or base(contig, position)
    return f"{contig}\t{position}\trs{position}\t{ref}\t{alt}\t50.10\tPASS\t{info}\tGT\t0/1\t./.\n"


RECORDS = [
    record("chr2", 100, others("chr2", 100)[0], "AC=3;LDAR_LLR=x"),
    record("chr1", 1, others("chr1", 1)[0]),
    record("chr1", 90, ",".join((others("chr1", 90)[0], "<DEL>", others("chr1", 90)[1])), "AC=1,2,3"),
    record("chr1", 200, others("chr1", 200)[2].lower()),
    record("chr1", 50, base("chr1", 50), ref=base("chr1", 50, 3)),
    record("chr2", 93, "A", ref="N"),
    record("chr1", 60, "."),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "model"
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny")), folder)
    return folder


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_genome(tmp_path / "g.fa", CONTIGS)


@pytest.fixture
def score(ldarnet, model, genome, tmp_path):
    def command(variants, out, *options) -> str:
        status, printed, errors = ldarnet(
            "score-variants", model, variants, genome, "--out", tmp_path / out, *SMALL, *options
        )
        assert (status, errors) == (0, "")
        return printed

    return command


@pytest.fixture
def vcf(tmp_path) -> Path:
    path = tmp_path / "v.vcf"
    path.write_text(HEADER + "".join(RECORDS))
    return path


def body(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]


def fields(info: str) -> dict[str, list[str]]:
    return {key: value.split(",") for key, value in (item.split("=") for item in info.split(";") if "=" in item)}


def test_vcf_keeps_its_records_and_gains_info_fields(score, vcf, tmp_path):
    printed = score(vcf, "out.vcf")
    assert "8 alleles" in printed and "windows of 32 bases" in printed
    assert "no scores for 1 symbolic or missing alleles" in printed
    assert "no scores for 1 alleles with N" in printed
    assert "no likelihood ratios for 1 insertions and deletions" in printed
    before, after = body(vcf), body(tmp_path / "out.vcf")
    assert [row[:7] + row[8:] for row in after] == [row[:7] + row[8:] for row in before]
    infos = [row[7] for row in after]
    assert infos[0].startswith("AC=3;LDAR_") and "LDAR_LLR=x" not in infos[0]
    assert infos[2].startswith("AC=1,2,3;")
    for key in ("LDAR_LLR", "LDAR_LLR_UNMASKED", "LDAR_DISTANCE", "LDAR_BOUNDARIES"):
        split = fields(infos[2])[key]
        assert len(split) == 3 and split[1] == "." and all(float(split[k]) == float(split[k]) for k in (0, 2))
    assert {*fields(infos[4])} == {"LDAR_DISTANCE", "LDAR_BOUNDARIES"}
    assert infos[5] == infos[6] == "."
    header = [line for line in (tmp_path / "out.vcf").read_text().splitlines() if line.startswith("#")]
    expected = [line for line in HEADER.splitlines() if "LDAR_LLR" not in line]
    assert [line for line in header if "LDAR_" not in line and "ldarnet" not in line] == expected
    (stated,) = [line for line in header if "ID=LDAR_LLR," in line]
    assert "Number=A,Type=Float" in stated and "log p(ALT) - log p(REF)" in stated
    assert '##ldarnet_score_variants="window=32; model=model; genome=g.fa"' in header


def test_scored_vcf_is_read_by_pysam_and_scored_again(score, vcf, tmp_path):
    pysam = pytest.importorskip("pysam")
    score(vcf, "one.vcf.gz")
    with pysam.VariantFile(str(tmp_path / "one.vcf.gz")) as file:
        assert file.compression == "BGZF"
        records = list(file)
    assert [len(r.info["LDAR_LLR"]) for r in records[:4]] == [1, 1, 3, 1]
    assert records[2].samples["s1"]["GT"] == (0, 1)
    score(tmp_path / "one.vcf.gz", "two.vcf")
    with gzip.open(tmp_path / "one.vcf.gz", "rt", encoding="utf-8") as file:
        assert file.read() == (tmp_path / "two.vcf").read_text()


def test_plain_gzip_crlf_and_bcf_have_the_same_scores(score, vcf, tmp_path):
    pysam = pytest.importorskip("pysam")
    score(vcf, "text.vcf")
    expected = [row[7] for row in body(tmp_path / "text.vcf")]
    (tmp_path / "z.vcf.gz").write_bytes(gzip.compress(vcf.read_text().replace("\n", "\r\n").encode()))
    score(tmp_path / "z.vcf.gz", "gzip.vcf")
    assert [row[7] for row in body(tmp_path / "gzip.vcf")] == expected
    (tmp_path / "b.vcf").write_text(HEADER.replace("LDAR_LLR", "OTHER") + "".join([*RECORDS[1:2], *RECORDS[3:]]))
    source = pysam.VariantFile(str(tmp_path / "b.vcf"))
    with pysam.VariantFile(str(tmp_path / "b.bcf"), "wb", header=source.header) as file:
        for entry in source:
            file.write(entry)
    source.close()
    score(tmp_path / "b.bcf", "bcf.vcf")
    assert [row[7] for row in body(tmp_path / "bcf.vcf")] == [expected[1], *expected[3:]]


def test_parquet_and_batches_have_the_scores_of_the_vcf(score, vcf, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    score(vcf, "out.vcf", "--out", tmp_path / "out.parquet", "--batch", "1")
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["chrom"], row["pos"]) for row in rows] == [
        (line[0], int(line[1])) for line in body(vcf) for alt in line[4].split(",") if alt != "."
    ]
    flat = [value for row in body(tmp_path / "out.vcf") for value in fields(row[7]).get("LDAR_LLR", [])]
    assert [row["llr"] for row in rows if row["llr"] is not None] == pytest.approx(
        [float(value) for value in flat if value != "."], rel=1e-5
    )
    table = tmp_path / "t.tsv"
    table.write_text(
        "#chrom\tpos\tref\talt\tlabel\n"
        + "".join(f"{r['chrom']}\t{r['pos']}\t{r['ref']}\t{r['alt']}\tx\n" for r in rows)
    )
    score(table, "again.parquet", "--batch", "3")
    again = parquet.read_table(tmp_path / "again.parquet").to_pylist()
    assert all(row["label"] == "x" for row in again)
    for name in ("llr", "llr_unmasked", "embedding_distance", "boundaries_changed"):
        found, expected = ([math.nan if r[name] is None else r[name] for r in table] for table in (again, rows))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)
    score(tmp_path / "again.parquet", "third.parquet")
    assert parquet.read_table(tmp_path / "third.parquet").column_names == [*again[0]]


def line_of(contig, position, ref, alt):
    return f"{contig}\t{position}\t.\t{ref}\t{alt}\t.\t.\t.\tGT\t0\t0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + line_of("1", 5, "A", "C"), "line 8: no contig 1 in .*g.fa; this genome calls it chr1"),
        (HEADER + line_of("chr1", 200, base("chr1", 200) + "A", "C"), "line 8: REF at chr1:200 extends beyond"),
        (
            HEADER + line_of("chr1", 9, others("chr1", 9)[0], base("chr1", 9)),
            f"line 8: REF is {others('chr1', 9)[0]}, but chr1:9 is {base('chr1', 9)} in .* another assembly",
        ),
        (HEADER + line_of("chr1", 0, "A", "C"), "line 8: POS is '?0'?; write a position from 1"),
        (HEADER + line_of("chr1", "x", "A", "C"), "line 8: POS is '?x"),
        (HEADER + line_of("chr1", 5, "", "C"), "line 8: REF is ''"),
        (HEADER + line_of("chr1", 5, base("chr1", 5), "C,"), "line 8: empty ALT"),
        (HEADER + "chr1\t5\t.\tA\n", "line 8: 4 columns, but 11 in the header"),
        (HEADER, "no alternate alleles"),
        ("##fileformat=VCFv4.2\n", "no line #CHROM"),
        ("##fileformat=VCFv4.2\nchr1\t5\t.\tA\tC\t.\t.\t.\n", "line 2: no line #CHROM before"),
        ("##fileformat=VCFv4.2\n#CHROM POS ID\n", "line 2: not the columns of VCF"),
        (">chr1\nACGT\n", "line 1: not VCF"),
        ("", "no line #CHROM|not VCF"),
    ],
)
def test_bad_vcf_is_one_error_with_its_line(ldarnet, model, genome, tmp_path, content, message):
    path = tmp_path / "bad.vcf"
    path.write_text(content)
    status, _, errors = ldarnet("score-variants", model, path, genome, "--out", tmp_path / "o.vcf", *SMALL)
    assert status != 0 and errors.count("\n") == 1 and re.search(message, errors), errors
    assert not (tmp_path / "o.vcf").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("chrom\tpos\tref\nchr1\t1\tA\n", "no column alt"),
        ("chrom\tpos\tref\talt\n", "no rows"),
        ("chrom\tpos\tref\talt\nchr1\t-1\tA\tC\n", "line 2: pos is '?-1"),
        ("chrom\tpos\tref\talt\nchr1\t1\t\tC\n", "line 2: ref is empty"),
        ("chrom\tpos\tref\talt\nchr1\t1\tA\tC,G\n", "line 2: more than one alt"),
    ],
)
def test_bad_table_is_one_error(ldarnet, model, genome, tmp_path, content, message):
    pytest.importorskip("pyarrow")
    path = tmp_path / "bad.tsv"
    path.write_text(content)
    status, _, errors = ldarnet("score-variants", model, path, genome, "--out", tmp_path / "o.parquet", *SMALL)
    assert status != 0 and errors.count("\n") == 1 and re.search(message, errors), errors


def test_wrong_formats_and_models_are_refused(ldarnet, model, genome, vcf, tmp_path):
    causal = tmp_path / "causal"
    write_model(LDARNetForCausalLM(LDARNetConfig.preset("tiny", causal=True)), causal)
    for arguments, message in (
        ((causal, vcf, genome, "--out", tmp_path / "o.vcf"), "choose a pretrained model that is not causal"),
        ((model, genome, genome, "--out", tmp_path / "o.vcf"), "g.fa: unknown format"),
        ((model, vcf, genome, "--out", tmp_path / "o.bcf"), "o.bcf: unknown format"),
        ((model, vcf, genome, "--out", vcf), "this is the input"),
        ((model, tmp_path / "t.tsv", genome, "--out", tmp_path / "o.vcf"), "a table cannot be written as VCF"),
        ((model, vcf, genome, "--out", tmp_path / "o.vcf", "--window", "4"), "too short"),
    ):
        status, _, errors = ldarnet("score-variants", *arguments, "--device", "cpu")
        assert status != 0 and errors.count("\n") == 1 and message in errors, errors


def test_contigs_of_the_genome_are_renamed(ldarnet, model, genome, tmp_path):
    (tmp_path / "names.tsv").write_text("chr1\t1\n")
    path = tmp_path / "v.vcf"
    path.write_text(HEADER + line_of("1", 90, base("chr1", 90), others("chr1", 90)[0]))
    arguments = ("--out", tmp_path / "o.vcf", "--rename", tmp_path / "names.tsv", *SMALL)
    assert ldarnet("score-variants", model, path, genome, *arguments)[0] == 0
    assert "LDAR_LLR" in body(tmp_path / "o.vcf")[0][7]


def test_a_window_of_another_length_than_in_pretraining_warns(ldarnet, model, genome, vcf, tmp_path):
    (model / "config.yaml").write_text("data:\n  length: 48\n")
    try:
        arguments = ("score-variants", model, vcf, genome, "--out", tmp_path / "o.vcf", "--device", "cpu")
        _, printed, errors = ldarnet(*arguments)
        assert "windows of 48 bases" in printed and errors == ""
        _, _, errors = ldarnet(*arguments, "--window", 32)
        assert errors == "--window 32: the model was pretrained on windows of 48 bases\n"
    finally:
        (model / "config.yaml").unlink()
