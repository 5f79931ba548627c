import gzip
import io
import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldarnet.data import ShardSet
from ldarnet.data.index import Index
from ldarnet.errors import UserError
from ldarnet.genome.iupac import IUPAC_CODES
from ldarnet.program import call, run
from sharding.build import build
from sharding.export import export, main, whole_contigs
from sharding.genomes import BUNDLED_FASTA

LETTER = st.sampled_from((IUPAC_CODES + IUPAC_CODES.lower()).decode())
RUN = st.builds(lambda letter, times: letter * times, LETTER, st.integers(1, 40))
SEQUENCE = st.lists(RUN, min_size=1, max_size=12).map("".join)


def parse(text: str) -> dict[str, str]:
    records = (record.split("\n", 1) for record in text.split(">")[1:])
    return {name: lines.replace("\n", "") for name, lines in records}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "a.fa").write_text(">chrI first\nACGTNNNNacgtRY\n>chrII\n" + "GATTACAn" * 40 + "\n>HLA:01\nACGT\n")
    (folder / "splits.bed").write_text("chrI\t0\t4\ttrain\nchrI\t8\t14\ttrain\nchrII\t0\t300\tvalid\n")
    build(folder / "set", [folder / "a.fa"], splits_bed=folder / "splits.bed", block=30)
    return folder / "set"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequences=st.lists(SEQUENCE, min_size=1, max_size=4), block=st.integers(1, 50), width=st.integers(1, 90))
def test_sequences_are_exported_exactly(tmp_path_factory, sequences, block, width):
    folder = tmp_path_factory.mktemp("property")
    named = {f"c{number}": sequence for number, sequence in enumerate(sequences)}
    # A set needs at least one A, C, G or T.
    named["more"] = "ACGT"
    (folder / "in.fa").write_text("".join(f">{name}\n{sequence}\n" for name, sequence in named.items()))
    build(folder / "set", [folder / "in.fa"], block=block)
    shards = ShardSet.open(folder / "set")
    assert export(shards, whole_contigs(shards.index), str(folder / "out.fa"), width=width, quiet=True) > 0
    written = (folder / "out.fa").read_text()
    assert parse(written) == named
    lines = [line for line in written.splitlines() if not line.startswith(">")]
    assert max(map(len, lines)) <= width
    assert written.count("\n") == sum(1 + -(-len(sequence) // width) for sequence in named.values())


def test_the_bundled_genome_is_exported_exactly(tmp_path):
    build(tmp_path / "set", [BUNDLED_FASTA])
    assert call(main, [str(tmp_path / "set"), "--out", str(tmp_path / "back.fa")]) == 0
    with zstandard.open(BUNDLED_FASTA, "rt") as file:
        assert parse((tmp_path / "back.fa").read_text()) == {
            name.split()[0]: sequence for name, sequence in parse(file.read()).items()
        }


@pytest.mark.parametrize("suffix", ["fa", "fa.gz", "fa.zst"])
def test_files_are_compressed_by_suffix(small, tmp_path, suffix, capsys):
    out = tmp_path / f"out.{suffix}"
    assert call(main, [str(small), "chrI", "--out", str(out)]) == 0
    content = out.read_bytes()
    if suffix == "fa.gz":
        content = gzip.decompress(content)
    elif suffix == "fa.zst":
        content = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()
    assert content == b">chrI\nACGTNNNNacgtRY\n"
    assert f"exported 14 bases in 1 record to {out}\n" in capsys.readouterr().out


def exported(capfd, small: Path, *arguments: str) -> str:
    assert call(main, [str(small), *arguments]) == 0
    return capfd.readouterr().out


def test_regions_use_samtools_syntax(small, capfd):
    assert exported(capfd, small, "chrI:1-4") == ">chrI:1-4\nACGT\n"
    assert exported(capfd, small, "chrI:9-", "chrII:2-2") == ">chrI:9-14\nacgtRY\n>chrII:2-2\nA\n"
    assert exported(capfd, small, "chrI:13") == ">chrI:13-14\nRY\n"
    assert exported(capfd, small, "HLA:01") == ">HLA:01\nACGT\n"
    assert exported(capfd, small, "HLA:01:2-3") == ">HLA:01:2-3\nCG\n"
    assert parse(exported(capfd, small, "chrII:0,029-0,063"))["chrII:29-63"] == ("GATTACAn" * 40)[28:63]


REGIONS = {
    "HLA-A*01:01:01:01": "ACGTACGTACGT",
    "HLA-A*01:01:01:01:2-4": "CGT",
    "HLA-A*01:01:01:01:9": "ACGT",
    "chr1:1-4": "TTTTAAAA",  # a contig, although it is also a region of chr1
    "chr1:1-4:1-2": "TT",
    "chr1:2-3": "GG",
    "chr1:": "GGGGCCCC",
    "a>b": "CA",
    "a>b:2-": "A",
    "größe|1": "TCA",
}


def test_names_may_contain_colons_and_look_like_regions(tmp_path, capfd):
    contigs = {name: REGIONS[name] for name in ("HLA-A*01:01:01:01", "chr1:1-4", "a>b", "größe|1")}
    text = "".join(f">{name} x:1-2\n{bases}\n" for name, bases in ({"chr1": "GGGGCCCC"} | contigs).items())
    (tmp_path / "in.fa").write_text(text)
    build(tmp_path / "set", [tmp_path / "in.fa"])
    printed = exported(capfd, tmp_path / "set", *REGIONS)
    assert [line for line in printed.splitlines() if not line.startswith(">")] == list(REGIONS.values())


def test_a_split_is_exported_as_its_intervals(small, capfd):
    assert exported(capfd, small, "--split", "train") == ">chrI:1-4\nACGT\n>chrI:9-14\nacgtRY\n"
    assert parse(exported(capfd, small, "--split", "valid", "--width", "7")) == {"chrII:1-300": ("GATTACAn" * 40)[:300]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chrIX"], "region chrIX: no contig 'chrIX'; use one of chrI"),
        (["chrIX:1-2"], "region chrIX:1-2: no contig 'chrIX'"),
        (["chrI:0-4"], "region chrI:0-4: chrI has 14 bases; use chrI:FIRST-LAST with 1 <= FIRST <= LAST <= 14"),
        (["chrI:4-15"], "chrI has 14 bases; use chrI:FIRST-LAST"),
        (["chrI:" + "9" * 5000], "no contig 'chrI:9"),
        (["chrI:5-4"], "1 <= FIRST <= LAST <= 14"),
        (["--split", "test"], "--split test: no such split in the set; use one of train, valid"),
        (["--species", "yeast"], "--species yeast: no such species in the set"),
        (["--width", "0"], "--width.*greater than or equal to 1"),
        (["--out", "absent/x.fa"], "folder absent does not exist; create it"),
        (["--out", "."], r"\.: exists and is not a file"),
        (["--out", "/dev/null"], "/dev/null: exists and is not a file"),
    ],
)
def test_bad_arguments_are_reported(small, arguments, message):
    with pytest.raises(UserError, match=message):
        call(main, [str(small), *arguments])


def test_selections_are_mutually_exclusive(small):
    with pytest.raises(UserError, match="are mutually exclusive"):
        call(main, [str(small), "chrI", "--split", "train"])


def test_damage_leaves_no_file(small, tmp_path):
    build(tmp_path / "set", [small.parent / "a.fa"], block=30)
    shard = next((tmp_path / "set").glob("shard-*.tar"))
    content = bytearray(shard.read_bytes())
    content[512 * 5 + 20] ^= 1
    shard.write_bytes(content)
    (tmp_path / "out.fa").write_text("older")
    with pytest.raises(UserError, match=shard.name):
        call(main, [str(tmp_path / "set"), "--out", str(tmp_path / "out.fa")])
    assert (tmp_path / "out.fa").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.fa", "set"]


def _export_to(folder: Path, reading: int, writing: int) -> None:
    os.close(reading)
    os.dup2(writing, 1)
    os.close(writing)
    with open(1, "w", closefd=False) as sys.stdout:
        sys.exit(run(main, [str(folder)], name="export"))


def test_a_closed_pipe_ends_the_export_quietly(tmp_path):
    (tmp_path / "long.fa").write_text(">long\n" + "ACGT" * 500_000 + "\n")
    build(tmp_path / "set", [tmp_path / "long.fa"])
    here, there = os.pipe()
    program = multiprocessing.get_context("fork").Process(target=_export_to, args=(tmp_path / "set", here, there))
    program.start()
    os.close(there)
    assert os.read(here, 6) == b">long\n"
    os.close(here)
    program.join(60)
    assert program.exitcode == 0


def test_contigs_of_several_species_are_exported_with_species(tmp_path, capfd):
    (tmp_path / "in.fa").write_text(">chr1\nACGT\n>chr2\nGG\n>plasmid\nTT\n")
    build(tmp_path / "set", [tmp_path / "in.fa"])
    index = Index.load(tmp_path / "set")
    contigs = replace(index.contigs, species_names=["mouse", "ecoli"], species=np.array([0, 0, 1]))
    replace(index, contigs=contigs).save(tmp_path / "set")
    assert exported(capfd, tmp_path / "set") == ">mouse/chr1\nACGT\n>mouse/chr2\nGG\n>ecoli/plasmid\nTT\n"
    assert exported(capfd, tmp_path / "set", "--species", "mouse") == ">chr1\nACGT\n>chr2\nGG\n"
    assert exported(capfd, tmp_path / "set", "--species", "ecoli", "--species", "mouse").count("mouse/") == 2
    assert exported(capfd, tmp_path / "set", "plasmid", "mouse/chr1:2-3") == ">plasmid\nTT\n>mouse/chr1:2-3\nCG\n"
