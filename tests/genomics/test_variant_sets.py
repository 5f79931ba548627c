"""Published sets of labeled variants: download from a local server, labels, and errors."""

import gzip
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.genomics.variants import sets
from ldarnet.genomics.variants.labeled import REVIEW_STARS, open_set
from ldarnet.genomics.variants.sets import all_sets, find_set
from ldarnet.io.retry import Retry
from ldarnet.model import write_model
from tests.support.genomics import random_bases, write_genome
from tests.support.publishers import Server

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

CONTIGS = {"chr1": random_bases(200), "chrX": random_bases(90, 1)}
SMALL = ("--window", "32", "--device", "cpu")
MENDELIAN = "datasets/songlab/TraitGym/resolve/{}/mendelian_traits_matched_9/test.parquet"
BRCA2 = "datasets/HuggingFaceBio/brca2-vep/resolve/main/brca2_vep.parquet"
CLINVAR = "pub/clinvar/vcf_GRCh38/clinvar.vcf.gz"
REVIEWED = "criteria_provided,_multiple_submitters,_no_conflicts"


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    """The publishers of the registry, as one local server."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    text = Path(sets.__file__).with_name("sets.yaml").read_text()
    url = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / "sets.yaml").write_text(re.sub(r"(source: )https://[^/]+", rf"\g<1>{url}", text))
    monkeypatch.setattr(sets, "_REGISTRY", tmp_path / "sets.yaml")
    monkeypatch.setattr("ldarnet.io.published_files.DOWNLOAD_RETRY", Retry(max_attempts=3, first_wait=0.01))
    all_sets.cache_clear()
    yield server
    all_sets.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "model"
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny")), folder)
    return folder


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_genome(tmp_path / "g.fa", CONTIGS)


def variant(contig: str, position: int, choice: int = 0) -> tuple[str, int, str, str]:
    """A substitution that agrees with the genome; the contig has no ``chr``, as in the published sets."""
    ref = CONTIGS[f"chr{contig}"][position - 1]
    return contig, position, ref, [base for base in "ACGT" if base != ref][choice]


def as_parquet(rows: list[tuple], names: str) -> bytes:
    content = io.BytesIO()
    columns = dict(zip(names.split(), map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), content)
    return content.getvalue()


def matched(groups: int = 6) -> list[tuple]:
    """Groups of one positive and two controls; the last control belongs to two groups."""
    rows = [
        (*variant("1" if group % 2 else "X", 10 + 5 * group + at), at == 0, "intron", f"g{group}")
        for group in range(groups)
        for at in range(3)
    ]
    return [*rows[:-1], (*rows[2][:6], rows[-1][6])]


def serve_mendelian(server: Server, rows: list[tuple], names: str = "label consequence match_group") -> str:
    path = MENDELIAN.format("1fde19555fe8c0a55b1382bdf4c6f7082209f566")
    server.files[path] = as_parquet(rows, f"chrom pos ref alt {names}")
    return path


def serve_clinvar(server: Server, lines: list[str], fields: tuple[str, ...] = ("CLNSIG", "CLNREVSTAT")) -> None:
    header = ["##fileformat=VCFv4.1", *(f'##INFO=<ID={f},Number=.,Type=String,Description="">' for f in fields)]
    text = "\n".join([*header, "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO", *lines]) + "\n"
    server.files[CLINVAR] = gzip.compress(text.encode())
    server.files[f"{CLINVAR}.md5"] = f"{hashlib.md5(server.files[CLINVAR]).hexdigest()}  /x/clinvar_2.vcf.gz\n".encode()


def clinvar_line(contig: str, position: int, ref: str, alt: str, label: str, review: str = REVIEWED) -> str:
    return f"{contig}\t{position}\t7\t{ref}\t{alt}\t.\t.\tALLELEID=5;CLNREVSTAT={review};CLNSIG={label};RS=1"


def test_a_set_is_downloaded_scored_and_evaluated(ldarnet, server, model, genome, tmp_path):
    rows = matched()
    serve_mendelian(server, rows)
    cache = ("--cache", tmp_path / "cache")
    scored = tmp_path / "scored.parquet"
    command = ("score-variants", model, "traitgym_mendelian", genome, "--out", scored, *SMALL, *cache)
    status, printed, errors = ldarnet(*command)
    assert status == 0 and f"{len(rows)} alleles" in printed, errors
    assert "test.parquet could not be verified when it was downloaded" in errors
    table = parquet.read_table(scored).to_pylist()
    assert [(row["chrom"], row["pos"], row["ref"], row["alt"], row["label"], row["match_group"]) for row in table] == [
        (*row[:5], row[6]) for row in rows
    ]
    assert all(row["llr"] is not None and row["consequence"] == "intron" for row in table)
    (receipt,) = json.loads((tmp_path / "cache/traitgym_mendelian/fetched.json").read_text()).values()
    assert receipt["sha256"] == hashlib.sha256(next(iter(server.files.values()))).hexdigest()
    requests = len(server.requests)

    results = []
    for options in (("--group", "match_group"), ("--set", "traitgym_mendelian", *cache)):
        out = tmp_path / f"out{len(results)}"
        status, _, errors = ldarnet("evaluate-variants", scored, "--out", out, "--resamples", 20, *options)
        assert status == 0, errors
        results.append(json.loads((out / "evaluation.json").read_text()))
    assert len(server.requests) == requests
    settings = results[1]["settings"]
    assert (settings["positives"], settings["negatives"], settings["groups"]) == (6, 12, 6)
    assert settings["variants of the set that are not in the table"] == settings["rows that are not in the set"] == 0
    assert results[0]["results"] == results[1]["results"]


def test_scores_of_another_program_get_the_labels_of_a_set(ldarnet, server, tmp_path):
    rows = matched()
    serve_mendelian(server, rows)
    table = tmp_path / "other.tsv"
    lines = ["chrom\tpos\tref\talt\tconservation"]
    for number, (contig, position, ref, alt, label, *_) in enumerate(rows[1:-1]):
        lines.append(f"chr{contig}\t{position}\t{ref.lower()}\t{alt}\t{10 * label + number}")
    table.write_text("\n".join([*lines, "chr2\t7\tA\tC\t0"]) + "\n")
    options = ("--set", "traitgym_mendelian", "--score", "conservation", "--cache", tmp_path, "--resamples", 5)
    status, _, errors = ldarnet("evaluate-variants", table, "--out", tmp_path / "out", *options)
    assert status == 0, errors
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    settings = content["settings"]
    assert (settings["positives"], settings["negatives"]) == (5, 12)  # the control of two groups counts twice
    assert settings["variants of the set that are not in the table"] == 1
    assert settings["rows that are not in the set"] == 1
    assert {row["subset"] for row in content["results"]} == {"all", "mean of chromosomes", "1", "X"}


def test_clinvar_keeps_reviewed_substitutions_of_chromosomes(server, tmp_path):
    good = [(*variant("1", 5 + k), label) for k, label in enumerate(("Pathogenic", "Likely_benign", "Benign"))]
    others = [
        clinvar_line(*variant("1", 20), "Pathogenic", "criteria_provided,_single_submitter"),
        clinvar_line(*variant("1", 21), "Pathogenic", "no_assertion_criteria_provided"),
        clinvar_line(*variant("1", 22), "Uncertain_significance"),
        clinvar_line(*variant("1", 23), "Pathogenic|drug_response"),
        clinvar_line("1", 24, "AC", "A", "Pathogenic"),
        clinvar_line("1", 25, "A", ".", "Pathogenic"),
        clinvar_line("MT", 26, "A", "C", "Pathogenic"),
        "1\t27\t7\tA\tC\t.\t.\tALLELEID=5",
    ]
    expert = (*variant("X", 9), "Pathogenic/Likely_pathogenic")
    serve_clinvar(server, [*(clinvar_line(*row) for row in good), *others, clinvar_line(*expert, "practice_guideline")])
    given = open_set(find_set("clinvar"), tmp_path)
    assert [(a.contig, a.position + 1, a.ref, a.alt) for a in given.alleles] == [row[:4] for row in (*good, expert)]
    assert given.rows["label"].to_pylist() == [True, False, False, True]
    assert given.rows["stars"].to_pylist() == [2, 2, 2, 4]
    assert given.alleles[-1].number == 5 + len(good) + len(others)
    assert max(REVIEW_STARS.values()) == 4


def test_a_set_keeps_its_columns_except_large_ones(server, tmp_path):
    classes = ("LOF", "FUNC/INT", None)
    rows = [("13", k, "A", "C", 0.5, kind, "ACGT" * 99, "ACGT" * 99) for k, kind in enumerate(classes, start=1)]
    server.files[BRCA2] = as_parquet(rows, "chrom pos ref alt score class ref_seq var_seq")
    given = open_set(find_set("brca2_sge"), tmp_path)
    assert given.rows.column_names == ["chrom", "pos", "ref", "alt", "score", "class", "label"]
    assert given.rows["label"].to_pylist() == [True, False]


def test_a_cut_transfer_resumes(server, tmp_path, capsys):
    path = serve_mendelian(server, matched())
    server.breaks = 1
    assert len(open_set(find_set("traitgym_mendelian"), tmp_path).alleles) == 18
    half = len(server.files[path]) // 2
    assert server.requests == [(path, None), (path, f"bytes={half}-")]
    assert "NOT VERIFIED (its publisher states no hash)" in capsys.readouterr().err


def test_md5_of_the_publisher_is_verified(ldarnet, server, model, genome, tmp_path, capsys):
    serve_clinvar(server, [clinvar_line(*variant("1", 5), "Pathogenic"), clinvar_line(*variant("1", 6), "Benign")])
    open_set(find_set("clinvar"), tmp_path / "good")
    errors = capsys.readouterr().err
    assert "bytes, verified, sha256" in errors and "could not be verified" not in errors
    for content, message in (
        (b"0" * 32 + b"  clinvar.vcf.gz\n", f"hash is md5:.*, expected md5:{'0' * 32} \\(in http.*md5\\)"),
        (b"<!DOCTYPE html>", r"clinvar.vcf.gz.md5: contains no MD5"),
    ):
        server.files[f"{CLINVAR}.md5"] = content
        status, _, errors = ldarnet(
            "score-variants", model, "clinvar", genome, "--out", tmp_path / "o.parquet", "--cache", tmp_path / "bad"
        )
        assert status != 0 and re.search(message, errors.splitlines()[-1]), errors
    assert not (tmp_path / "o.parquet").exists() and not (tmp_path / "bad/clinvar/clinvar.vcf.gz").exists()


def mutated(**changes: str) -> list[tuple]:
    rows = matched()
    return [(*rows[0][:3], changes["alt"], *rows[0][4:]), *rows[1:]]


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        (matched(), "y consequence match_group", "no column label, so it is not the published file of traitgym_"),
        (matched(), "label consequence group", "no column match_group, so it is not .* delete .* to download it again"),
        ([(*row[:4], "?", *row[5:]) for row in matched()], "label consequence match_group",
         r"no positive label \(its labels: \?\); delete .* to download the set again, or report it"),
        (mutated(alt=""), "label consequence match_group", "test.parquet: row 1: alt is empty"),
        ([(row[0], -1, *row[2:]) for row in matched()], "label consequence match_group", "row 1: pos is '-1'"),
    ],
)  # fmt: skip
def test_a_file_with_other_columns_or_values_is_one_error(
    ldarnet, server, model, genome, tmp_path, rows, names, message
):
    serve_mendelian(server, rows, names)
    command = ("score-variants", model, "traitgym_mendelian", genome, "--out", tmp_path / "o.parquet", *SMALL)
    status, _, errors = ldarnet(*command, "--cache", tmp_path)
    *downloads, error = errors.splitlines()
    assert status != 0 and re.search(message, error), errors
    assert len(downloads) == 3 and downloads[0].startswith("downloading "), errors


def test_a_genome_of_another_assembly_is_one_error(ldarnet, server, model, tmp_path):
    serve_mendelian(server, matched())
    other = write_genome(tmp_path / "hg19.fa", {name: random_bases(len(text), 9) for name, text in CONTIGS.items()})
    command = ("score-variants", model, "traitgym_mendelian", other, "--out", tmp_path / "o.parquet", *SMALL)
    status, _, errors = ldarnet(*command, "--cache", tmp_path)
    assert status != 0
    pattern = r"traitgym_mendelian \(GRCh38\): row \d+: REF is ., but chr.*:\d+ is . in .*hg19.fa; is it of another ass"
    assert re.search(pattern, errors.splitlines()[-1]), errors


@pytest.mark.parametrize(
    ("fields", "lines", "message"),
    [
        (("CLNSIG",), [clinvar_line("1", 5, "A", "C", "Benign")], "no INFO field CLNREVSTAT"),
        (("CLNREVSTAT",), ["1\t5\t7\tA\tC\t.\t.\tCLNREVSTAT=x"], "no INFO field CLNSIG"),
        (("CLNSIG", "CLNREVSTAT"), [clinvar_line("1", 5, "A", "C", "Benign", "x")], "no substitutions with 2 review"),
        (("CLNSIG", "CLNREVSTAT"), [clinvar_line("1", 5, "A", "C", "Benign")], "column CLNSIG has no positive label"),
    ],
)
def test_an_unexpected_clinvar_is_one_error(ldarnet, server, model, genome, tmp_path, fields, lines, message):
    serve_clinvar(server, lines, fields)
    command = ("score-variants", model, "clinvar", genome, "--out", tmp_path / "o.parquet", "--cache", tmp_path)
    status, _, errors = ldarnet(*command, *SMALL)
    assert status != 0 and message in errors.splitlines()[-1], errors


def test_other_file_types_and_missing_files_are_one_error(ldarnet, server, model, genome, tmp_path):
    path = serve_mendelian(server, matched())
    command = ("score-variants", model, "traitgym_mendelian", genome, "--out", tmp_path / "o.parquet", *SMALL)
    server.files[path] = b"<!DOCTYPE html><title>Log in</title>"
    _, _, errors = ldarnet(*command, "--cache", tmp_path)
    assert "returned a file of another type, which starts with b'<!DOCTYPE" in errors.splitlines()[-1]
    del server.files[path]
    _, _, errors = ldarnet(*command, "--cache", tmp_path)
    assert "not found (HTTP 404)" in errors.splitlines()[-1]


def test_wrong_names_and_options_are_one_error(ldarnet, server, model, genome, tmp_path):
    serve_mendelian(server, matched())
    table = tmp_path / "t.tsv"
    table.write_text("chrom\tpos\tref\talt\tllr\n1\t1\tA\tC\t0\n")
    out, cache = ("--out", tmp_path / "o.parquet"), ("--cache", tmp_path)
    for command, message in (
        (("score-variants", model, "traitgym", genome, *out), "no such file or published set; did you mean 'traitgym_"),
        (("score-variants", model, "clinvar", genome, "--out", "o.vcf"), "a table cannot be written as VCF"),
        (("evaluate-variants", table, *out, "--set", "x"), "x: no published set of that name; use one of traitgym_"),
        (("evaluate-variants", table, *out, "--set", "clinvar", "--group", "g"), "has its own labels; leave out"),
        (
            ("evaluate-variants", table, *out, "--set", "traitgym_mendelian", *cache),
            "t.tsv: only 0 positives and 0 negatives of traitgym_mendelian; is the table of another assembly than GRC",
        ),
    ):
        status, _, errors = ldarnet(*command)
        assert status != 0 and message in errors.splitlines()[-1], errors


def test_the_listing_has_every_set(ldarnet):
    status, printed, _ = ldarnet("variant-sets")
    assert status == 0 and all_sets()
    for name, chosen in all_sets().items():
        assert f"{name}\n  {chosen.title}\n  {chosen.assembly}; " in printed
        assert chosen.file.url.startswith("https://") and chosen.file.name.endswith((".parquet", ".vcf.gz"))
    assert "338 positives, 3,042 negatives; groups: match_group" in printed


def test_a_new_set_is_one_entry_of_the_registry(tmp_path):
    entry = "title: My set\nlicense: CC0\nsource: https://example.org\nrevision: v1\nfile: '{revision}/a.parquet'\n"
    entry += "assembly: GRCh38\nlabel: y\npositive: ['1']\nnegative: ['0']\ncounts: [1, 2]\n"
    path = tmp_path / "sets.yaml"
    path.write_text("sets:\n  mine:\n" + "".join(f"    {line}\n" for line in entry.splitlines()))
    found = sets.read_sets(path)["mine"]
    assert (found.file.name, found.file.url, found.group) == ("a.parquet", "https://example.org/v1/a.parquet", None)
