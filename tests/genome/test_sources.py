"""Sequence sources: species, genome tables, .2bit files, servers."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ldarnet.genome.sources
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.genome.fasta import read_contigs
from ldarnet.genome.sources import SequenceSource, parse_source, read_genomes
from ldarnet.io.files import sha256_file
from ldarnet.io.retry import Retry
from ldarnet.program import call
from sharding.build import build, main
from tests.support import range_server as faults
from tests.support.range_server import RangeServer
from tests.support.twobit_writer import write_2bit

SMALL = {"block": 2000, "shard_size": 5000}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def as_fasta(contigs: dict[str, str]) -> str:
    return "".join(f">{name}\n{letters}\n" for name, letters in contigs.items())


def test_a_source_is_a_path_or_url_with_or_without_a_species():
    assert parse_source("x/a=b.fa") == SequenceSource("x/a=b.fa")
    assert parse_source("fly=x/a=b.fa") == SequenceSource("x/a=b.fa", "fly")
    assert parse_source("https://host/a?b=c") == SequenceSource("https://host/a?b=c")
    assert parse_source("D.simulans=s3://bucket/a.fa.gz") == SequenceSource("s3://bucket/a.fa.gz", "D.simulans")


def test_several_species_may_share_contig_names(tmp_path, capsys):
    (tmp_path / "fly.fa").write_text(">chr1\nACGT\n>chr2\nAAAA\n")
    (tmp_path / "fly_more.fa").write_text(">chr3\nACGTA\n")
    (tmp_path / "worm.fa").write_text(">chr1\nGGGGGG\n")
    (tmp_path / "list.tsv").write_text("# genomes\n\nworm\tworm.fa\nfly\tfly_more.fa\n")
    out = tmp_path / "set"
    arguments = [f"fly={tmp_path / 'fly.fa'}", "--genomes", str(tmp_path / "list.tsv"), "--out", str(out)]
    assert call(main, [*arguments, "--split", "valid=worm/chr1,chr2"]) == 0
    assert "2 species, 4 contigs" in capsys.readouterr().out
    shards = ShardSet.open(out)
    assert shards.contigs == {"fly/chr1": 4, "fly/chr2": 4, "worm/chr1": 6, "fly/chr3": 5}
    assert shards.index.species == ["fly", "worm"]
    assert shards.index.contigs.species.tolist() == [0, 0, 1, 0]
    assert shards.text("worm/chr1", 0, 6) == "GGGGGG"
    assert shards.text("chr3", 0, 5) == "ACGTA"
    assert {name: rows[:, 0].tolist() for name, rows in shards.index.splits.items()} == {
        "train": [0, 3],
        "valid": [1, 2],
    }
    with pytest.raises(UserError, match="'chr1' is in several species; use one of fly/chr1, worm/chr1"):
        shards.text("chr1", 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("fly fly.fa\n", "line 1: malformed; write the species"),
        ("fly\ta\na/b\tc\n", "line 2: malformed; write"),
    ],
)
def test_bad_genome_tables_are_rejected(tmp_path, text, message):
    (tmp_path / "list.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_genomes(tmp_path / "list.tsv")


letters = st.one_of(
    st.text("ACGTNacgtn", min_size=1, max_size=60), st.text("Nn", min_size=1), st.text("ac", min_size=1)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(letters, min_size=1, max_size=5), st.integers(1, 40), st.integers(1, 50))
def test_a_2bit_file_gives_the_same_shards_as_its_fasta(tmp_path_factory, texts, block, shard_size):
    tmp_path = tmp_path_factory.mktemp("twobit")
    contigs = {f"c{number}": text for number, text in enumerate(texts)} | {"last": "ACGT"}
    write_2bit(tmp_path / "x.2bit", contigs)
    (tmp_path / "x.fa").write_text(as_fasta(contigs))
    for name in ("x.2bit", "x.fa"):
        build(tmp_path / name.replace(".", "_"), [tmp_path / name], block=block, shard_size=shard_size)
    two, fasta = files(tmp_path / "x_2bit"), files(tmp_path / "x_fa")
    assert two.pop("index.json") != fasta.pop("index.json")
    assert two == fasta
    assert ShardSet.open(tmp_path / "x_2bit").text("c0", 0, len(texts[0])) == texts[0]


def test_py2bit_reads_the_2bit_files_of_these_tests(tmp_path):
    py2bit = pytest.importorskip("py2bit")
    contigs = {"a": "ACGTNNNacgtRn".replace("R", "G").upper(), "b": "aaCCgg" * 99 + "N"}
    write_2bit(tmp_path / "x.2bit", contigs)
    theirs = py2bit.open(str(tmp_path / "x.2bit"), True)
    assert {name: theirs.sequence(name) for name in theirs.chroms()} == contigs


def test_a_2bit_file_gives_the_same_bytes_with_any_number_of_workers(tmp_path):
    random = np.random.default_rng(0)
    contigs = {f"c{number}": "".join(random.choice(list("ACGTacgtNn"), 900)) for number in range(20)}
    write_2bit(tmp_path / "x.2bit", contigs)
    for workers in (1, 3):
        build(tmp_path / str(workers), [tmp_path / "x.2bit"], workers=workers, block=500, shard_size=1500)
    assert files(tmp_path / "1") == files(tmp_path / "3")
    assert len(ShardSet.open(tmp_path / "1").index.shards) > 9


@pytest.mark.parametrize("name", ["x.2bit", "x.fa", "x", "x.2bit.gz"])
@pytest.mark.parametrize("form", ["2bit", "fasta", "gzip"])
def test_the_format_is_recognized_by_content_whatever_the_suffix(tmp_path, name, form):
    contigs, path = {"a": "ACGTNNacg", "b": "GG"}, tmp_path / name
    if form == "2bit":
        write_2bit(path, contigs)
    else:
        path.write_bytes((gzip.compress if form == "gzip" else bytes)(as_fasta(contigs).encode()))
    assert dict(read_contigs(path)) == contigs
    build(tmp_path / "set", [path])
    shards = ShardSet.open(tmp_path / "set")
    assert {contig: shards.text(contig, 0, length) for contig, length in shards.contigs.items()} == contigs
    source = shards.index.recipe["sources"][0]
    assert (source["size"], source["sha256"]) == (path.stat().st_size, sha256_file(path))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_2bit_file_is_reported(tmp_path, workers):
    write_2bit(tmp_path / "x.2bit", {"a": "ACGT" * 2000})
    whole = (tmp_path / "x.2bit").read_bytes()
    for damaged, fault in (
        (whole[:-100], "truncated"),
        (whole[:10], "damaged"),
        (b"", "empty; choose a FASTA or .2bit file"),
        (b"x" + whole[1:], "not FASTA: starts with .* choose a FASTA or .2bit file"),
        (gzip.compress(whole), "a compressed .2bit file; if a genome is expected, decompress the file"),
    ):
        (tmp_path / "x.2bit").write_bytes(damaged)
        with pytest.raises(UserError, match=rf"x\.2bit: .*{fault}"):
            build(tmp_path / "set", [tmp_path / "x.2bit"], workers=workers)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Server of a FASTA file, plain and gzipped, that takes several requests to read, and of a small .2bit file."""
    monkeypatch.setattr(
        ldarnet.genome.sources, "REMOTE_RETRY", Retry(first_wait=0.01, max_wait=0.05, max_total=2.0, timeout=5.0)
    )
    folder = tmp_path / "served"
    folder.mkdir()
    random = np.random.default_rng(0)
    contigs = {
        f"c{number}": random.choice(np.frombuffer(b"ACGT", np.uint8), 2_000_000).tobytes().decode()
        for number in range(4)
    }
    (folder / "x.fa").write_text(as_fasta(contigs))
    (folder / "x.fa.gz").write_bytes(gzip.compress((folder / "x.fa").read_bytes(), 1))
    write_2bit(folder / "x.2bit", {"c": "ACGTNnacgt" * 500})
    server = RangeServer(folder)
    yield server
    server.close()


@pytest.mark.parametrize("name", ["x.fa", "x.fa.gz", "x.2bit"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_url_gives_the_same_shards_as_the_file(tmp_path, served, name, ranges):
    if not ranges:
        served.faults.append(faults.ignore_range)
    options = {"block": 2**20, "shard_size": 3_000_000, "workers": 2}
    build(tmp_path / "remote", [SequenceSource(f"{served.url}/{name}")], **options)
    build(tmp_path / "local", [served.folder / name], **options)
    assert files(tmp_path / "remote") == files(tmp_path / "local")
    assert not build(tmp_path / "remote", [SequenceSource(f"{served.url}/{name}")], **options)[1]


def cut_after(count: int):
    """Fault that closes the connection after about `count` bytes of the body."""

    def fault(handler):
        write = handler.wfile.write
        sent = 0

        def writing(data):
            nonlocal sent
            if sent + len(data) > 2000 + count:
                write(data[:count])
                handler.connection.close()
                raise ConnectionAbortedError
            sent += len(data)
            return write(data)

        handler.wfile.write = writing
        return False

    return fault


@pytest.mark.parametrize("ranges", [True, False])
def test_a_build_continues_after_a_lost_connection(tmp_path, served, ranges):
    if not ranges:
        served.faults.append(faults.ignore_range)
    build(tmp_path / "local", [served.folder / "x.fa"])
    served.faults.append(faults.times(2, cut_after(1_500_000), "x.fa"))
    served.faults.append(faults.times(2, faults.status(500), "x.fa"))
    build(tmp_path / "remote", [SequenceSource(f"{served.url}/x.fa")])
    assert files(tmp_path / "remote") == files(tmp_path / "local")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (faults.status(404), "no such file; check the address"),
        (faults.status(403), "no permission to read it"),
        (faults.status(500), r"failed after \d+ attempts"),
    ],
)
def test_server_errors_are_reported_with_the_url(tmp_path, served, fault, message):
    served.faults.append(fault)
    with pytest.raises(UserError, match=rf"{served.url}/x\.fa\.gz: {message}"):
        build(tmp_path / "set", [SequenceSource(f"{served.url}/x.fa.gz")])
    assert not (tmp_path / "set").exists()


def test_a_server_failure_is_reported_and_packed_parts_are_kept(tmp_path, served):
    source, options = SequenceSource(f"{served.url}/x.fa"), {"shard_size": 1_500_000}
    requested = 0

    def die(handler):
        nonlocal requested
        requested += handler.command == "GET"
        return requested > 1 and faults.status(503)(handler)

    served.faults.append(die)
    with pytest.raises(UserError, match=r"x\.fa: failed after \d+ attempts"):
        build(tmp_path / "set", [source], **options)
    kept = {path: path.stat().st_ino for path in (tmp_path / "set").glob("*.tar")}
    assert len(kept) >= 2
    served.faults.clear()
    build(tmp_path / "set", [source], **options)
    assert {path: path.stat().st_ino for path in kept} == kept
    build(tmp_path / "local", [served.folder / "x.fa"], **options)
    assert files(tmp_path / "set") == files(tmp_path / "local")


def test_an_invalid_url_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"zzz://host/x\.fa: .*zzz"):
        build(tmp_path / "set", [SequenceSource("zzz://host/x.fa")])
