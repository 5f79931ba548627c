import hashlib
import json
import multiprocessing
import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldarnet.errors import UserError
from ldarnet.io.retry import Retry
from ldarnet.program import call
from sharding.fetch import fetch, main
from sharding.published import Registry
from tests.support.publishers import Server

YEAST = "ucsc/goldenPath/sacCer3/bigZips/sacCer3.fa.gz"
YEAST_SUMS = "ucsc/goldenPath/sacCer3/bigZips/md5sum.txt"
LIST = "huggingface/datasets/InstaDeepAI/multi_species_genomes/resolve/main/urls.txt"
CONTENT = random.Random(0).randbytes(3_000_000)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def yeast(server: Server) -> Server:
    server.add(YEAST, CONTENT, YEAST_SUMS)
    return server


def get(server: Server, name: str, out: Path, **options) -> str:
    return fetch(Registry(server.mirrors), name, out, retry=Retry(max_attempts=3, first_wait=0.01), **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_downloaded_and_verified_with_a_receipt(yeast, tmp_path, capsys):
    out = tmp_path / "y and z"
    assert call(main, ["sacCer3", "--out", str(out), *(f"--mirror={mirror}" for mirror in yeast.mirrors)]) == 0
    assert names(out) == ["fetched.json", "sacCer3.fa.gz"]
    assert (out / "sacCer3.fa.gz").read_bytes() == CONTENT
    receipt = json.loads((out / "fetched.json").read_text())["sacCer3.fa.gz"]
    assert receipt["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert receipt["size"] == len(CONTENT)
    assert receipt["url"].endswith(YEAST)
    assert receipt["checked_against"].startswith(f"md5:{hashlib.md5(CONTENT).hexdigest()} in http")
    assert re.match(r"20\d\d-\d\d-\d\dT", receipt["date"])
    printed = capsys.readouterr().out
    assert "[1/1] sacCer3.fa.gz: 3,000,000 bytes, verified" in printed
    assert f"ldarnet shard --out '{out}-shards' '{out}'/sacCer3.fa.gz --split" in printed


def test_existing_files_are_not_downloaded_again(yeast, tmp_path):
    get(yeast, "sacCer3", tmp_path)
    count = len(yeast.requests)
    get(yeast, "sacCer3", tmp_path)
    assert len(yeast.requests) == count


def test_files_of_the_user_are_kept(yeast, tmp_path):
    (tmp_path / "sacCer3.fa.gz").write_text("precious")
    with pytest.raises(
        UserError, match=r"sacCer3\.fa\.gz: exists but was not downloaded by this program; move it away"
    ):
        get(yeast, "sacCer3", tmp_path)
    assert (tmp_path / "sacCer3.fa.gz").read_text() == "precious"


def test_a_file_without_checksum_is_reported(server, tmp_path, capsys):
    server.add("ucsc/goldenPath/hg38/bigZips/hg38.fa.gz", CONTENT, "ucsc/goldenPath/hg38/bigZips/md5sum.txt")
    server.add("google/basenji_barnyard2/sequences_human.bed", b"chr1\t0\t131072\ttrain\n")
    build = get(server, "hg38", tmp_path)
    assert build == f"{tmp_path}/hg38.fa.gz --splits-bed {tmp_path}/human-sequences.bed"
    digest = hashlib.sha256(b"chr1\t0\t131072\ttrain\n").hexdigest()
    shown = capsys.readouterr().out
    assert f"human-sequences.bed: 20 bytes, NOT VERIFIED (its publisher provides no checksum), sha256 {digest}" in shown
    assert "hg38.fa.gz: 3,000,000 bytes, verified" in shown


def test_a_download_resumes_after_a_lost_connection(yeast, tmp_path):
    yeast.breaks = 4
    get(yeast, "sacCer3", tmp_path)
    assert (tmp_path / "sacCer3.fa.gz").read_bytes() == CONTENT
    assert [requested for path, requested in yeast.requests if path == YEAST][:3] == [
        None,
        "bytes=1500000-",
        "bytes=2250000-",
    ]
    assert yeast.sent[YEAST] == len(CONTENT)


def test_a_download_restarts_if_the_server_has_no_ranges(yeast, tmp_path):
    yeast.ranges, yeast.breaks = False, 1
    get(yeast, "sacCer3", tmp_path)
    assert (tmp_path / "sacCer3.fa.gz").read_bytes() == CONTENT
    assert yeast.sent[YEAST] == 1.5 * len(CONTENT)


def test_repeated_connection_loss_is_reported_and_received_data_are_kept(yeast, tmp_path):
    yeast.ranges, yeast.breaks = False, 99
    with pytest.raises(UserError, match=r"failed after 3 attempts in \d s \(connection lost\); check") as error:
        get(yeast, "sacCer3", tmp_path)
    assert "http" in str(error.value) and "run the same command again" in str(error.value)
    assert names(tmp_path) == [".fetching"]
    yeast.ranges, yeast.breaks = True, 0
    get(yeast, "sacCer3", tmp_path)
    assert yeast.requests[-1] == (YEAST, "bytes=1500000-")
    assert names(tmp_path) == ["fetched.json", "sacCer3.fa.gz"]


def test_a_download_restarts_if_the_file_changed(yeast, tmp_path):
    yeast.breaks, other = 99, os.urandom(2_000_000)
    with pytest.raises(UserError, match=r"failed after 1 attempts in 0 s \(connection lost\)"):
        fetch(Registry(yeast.mirrors), "sacCer3", tmp_path, retry=Retry(max_attempts=1))
    del yeast.files[YEAST_SUMS]
    yeast.add(YEAST, other, YEAST_SUMS)
    yeast.tag, yeast.breaks = '"two"', 0
    get(yeast, "sacCer3", tmp_path)
    assert (tmp_path / "sacCer3.fa.gz").read_bytes() == other


def test_a_busy_server_is_retried_a_limited_number_of_times(yeast, tmp_path):
    yeast.errors = [503, 429]
    get(yeast, "sacCer3", tmp_path / "a")
    yeast.errors = [500, 502, 503]
    with pytest.raises(UserError, match=r"http.*md5sum\.txt: failed after 3 attempts in \d s \(HTTP 503\)"):
        get(yeast, "sacCer3", tmp_path / "b")


def test_no_network_is_one_error(tmp_path):
    with pytest.raises(UserError, match=r"http.*md5sum\.txt: failed after 2 attempts in \d s \(connection refused\)"):
        fetch(Registry(["ucsc=http://127.0.0.1:1"]), "sacCer3", tmp_path, retry=Retry(max_attempts=2, first_wait=0.01))
    with pytest.raises(UserError, match=r"http://nowhere\.invalid/.*: failed after .*check the network"):
        fetch(Registry(["ucsc=http://nowhere.invalid"]), "sacCer3", tmp_path, retry=Retry(max_attempts=1))


def test_a_missing_file_is_one_error(yeast, tmp_path):
    del yeast.files[YEAST]
    with pytest.raises(UserError, match=rf"http.*{YEAST}: not found \(HTTP 404\).*use a mirror"):
        get(yeast, "sacCer3", tmp_path)
    yeast.files[YEAST] = CONTENT
    yeast.errors = [403]
    with pytest.raises(UserError, match=r": refused \(HTTP 403\)"):
        get(yeast, "sacCer3", tmp_path)


def test_a_wrong_checksum_is_rejected_and_the_next_run_restarts(yeast, tmp_path):
    yeast.files[YEAST] = b"X" + CONTENT[1:]
    with pytest.raises(
        UserError,
        match=r"sacCer3\.fa\.gz: http.*: hash is md5:[0-9a-f]+, expected md5:[0-9a-f]+ \(in http.*use a --mirror",
    ):
        get(yeast, "sacCer3", tmp_path)
    assert names(tmp_path) == [".fetching"]
    assert names(tmp_path / ".fetching") == []
    yeast.files[YEAST] = CONTENT
    get(yeast, "sacCer3", tmp_path)
    assert (tmp_path / "sacCer3.fa.gz").read_bytes() == CONTENT


def test_a_missing_checksum_requires_the_unchecked_option(yeast, tmp_path, capsys):
    yeast.files[YEAST_SUMS] = b"00000000000000000000000000000000  other.gz\n"
    with pytest.raises(
        UserError, match=r"not listed in http.*md5sum\.txt; use --unchecked to download the file without verification"
    ):
        get(yeast, "sacCer3", tmp_path)
    del yeast.files[YEAST_SUMS]
    with pytest.raises(UserError, match=r"the checksum list .*md5sum\.txt no longer exists; use --unchecked"):
        get(yeast, "sacCer3", tmp_path)
    get(yeast, "sacCer3", tmp_path, unchecked=True)
    assert "NOT VERIFIED (it is not listed in http" in capsys.readouterr().out


def test_a_killed_download_resumes(yeast, tmp_path):
    yeast.pause = 0.05
    process = multiprocessing.get_context("fork").Process(target=get, args=(yeast, "sacCer3", tmp_path))
    process.start()
    part = tmp_path / ".fetching" / "sacCer3.fa.gz.part"
    while not (part.exists() and part.stat().st_size > 300_000):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    have = part.stat().st_size
    assert 300_000 < have < len(CONTENT)
    assert names(tmp_path) == [".fetching"]
    yeast.pause = 0
    get(yeast, "sacCer3", tmp_path)
    assert yeast.requests[-1] == (YEAST, f"bytes={have}-")
    assert (tmp_path / "sacCer3.fa.gz").read_bytes() == CONTENT


def test_a_second_process_in_one_folder_is_rejected(yeast, tmp_path):
    yeast.pause = 0.02
    first = threading.Thread(target=get, args=(yeast, "sacCer3", tmp_path))
    first.start()
    while not (tmp_path / ".fetching" / "sacCer3.fa.gz.part").exists():
        time.sleep(0.01)
    with pytest.raises(UserError, match="another process is downloading into this folder"):
        get(yeast, "sacCer3", tmp_path)
    first.join()
    assert (tmp_path / "sacCer3.fa.gz").read_bytes() == CONTENT


def test_a_too_small_disk_is_reported_at_the_start(yeast, tmp_path, tiny_disk):
    yeast.pause = 0.1
    with pytest.raises(
        UserError, match=r"no space left on device: .*sacCer3\.fa\.gz is 3,000,000 bytes, .* free; free some"
    ):
        get(yeast, "sacCer3", tiny_disk / "y")
    assert yeast.sent[YEAST] < 2**20


def test_a_full_disk_is_reported_and_received_data_are_used_later(yeast, tiny_disk, monkeypatch):
    monkeypatch.setattr("ldarnet.io.download._free", lambda _: 10**9)
    with pytest.raises(UserError, match=r"no space left on device while writing .*sacCer3\.fa\.gz\.part; free some"):
        get(yeast, "sacCer3", tiny_disk / "y")
    subprocess.run(["mount", "-o", "remount,size=8m", tiny_disk], check=True)
    get(yeast, "sacCer3", tiny_disk / "y")
    assert (tiny_disk / "y" / "sacCer3.fa.gz").read_bytes() == CONTENT
    assert yeast.requests[-1][1] is not None


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs permission to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


NCBI = "https://ftp.ncbi.nlm.nih.gov"


@pytest.fixture
def assemblies(server: Server) -> list[str]:
    """The publisher's list of 104 assemblies: the last 50 are the test split, the 50 before them validation."""
    lines = []
    for number in range(104):
        stem = f"GCF_{number:09d}.1_ASM{number}v1"
        inner = f"{stem[4:7]}/{stem[7:10]}/{stem[10:13]}"
        folder = f"genomes/all/GCF/{inner}/{stem}"
        content = f">c{number}\nACGT\n".encode()
        server.add(f"ncbi/{folder}/{stem}_genomic.fna.gz", content, f"ncbi/{folder}/md5checksums.txt")
        lines.append(f"{NCBI}/{folder}/{stem}_genomic.fna.gz")
    server.files[LIST] = "\n".join(lines).encode()
    return lines


def test_assemblies_are_downloaded_in_parallel(server, assemblies, tmp_path):
    server.pause = 0.02
    get(server, "multispecies", tmp_path, jobs=4)
    assert 2 <= server.max_concurrent <= 8  # the server may still count a request whose response has arrived
    assert names(tmp_path) == ["assemblies", "fetched.json", "genomes.tsv", "test.txt", "urls.txt", "valid.txt"]
    rows = [line.split("\t") for line in (tmp_path / "genomes.tsv").read_text().splitlines()]
    assert len(rows) == 104
    assert rows[7][0] == "GCF_000000007.1_ASM7v1"
    assert (tmp_path / rows[7][1]).read_text() == ">c7\nACGT\n"
    count = len(server.requests)
    get(server, "multispecies", tmp_path)
    assert len(server.requests) == count


def test_the_split_matches_the_publisher(server, assemblies):
    registry = Registry()
    parsed = registry.parse_assemblies(registry["multispecies"], "\n".join(assemblies))
    assert [assembly.split for assembly in parsed] == ["train"] * 4 + ["valid"] * 50 + ["test"] * 50


def test_held_out_species_are_listed_for_the_build(server, assemblies, tmp_path):
    build = get(server, "multispecies", tmp_path)
    assert build.startswith(f"--genomes {tmp_path}/genomes.tsv --split valid=@{tmp_path}/valid.txt --split test=@")
    valid, test = ((tmp_path / f"{split}.txt").read_text().splitlines() for split in ("valid", "test"))
    assert (valid[0], len(valid), test[-1]) == ("GCF_000000004.1_ASM4v1/", 50, "GCF_000000103.1_ASM103v1/")


def test_an_assembly_is_named_by_the_species_in_its_url(server, assemblies, tmp_path):
    stem = "GCF_000968595.1_ASM96859v1"
    folder = f"genomes/refseq/fungi/Rasamsonia_emersonii/latest_assembly_versions/{stem}"
    assemblies[0] = f"ftp://ftp.ncbi.nlm.nih.gov/{folder}/{stem}_genomic.fna.gz"
    server.files[LIST] = "\n".join(assemblies).encode()
    home = f"ncbi/genomes/all/GCF/000/968/595/{stem}"
    server.add(f"{home}/{stem}_genomic.fna.gz", b">r\nAC\n", f"{home}/md5checksums.txt")
    get(server, "multispecies", tmp_path)
    assert (
        (tmp_path / "genomes.tsv").read_text().startswith(f"Rasamsonia_emersonii\tassemblies/{stem}_genomic.fna.gz\n")
    )
    receipt = json.loads((tmp_path / "fetched.json").read_text())[f"assemblies/{stem}_genomic.fna.gz"]
    assert receipt["url"].endswith(f"{home}/{stem}_genomic.fna.gz")


def test_missing_assemblies_are_reported_and_can_be_skipped(server, assemblies, tmp_path):
    for number in (5, 99):
        path = assemblies[number].removeprefix(f"{NCBI}/")
        del server.files[f"ncbi/{path}"], server.files[f"ncbi/{path.rpartition('/')[0]}/md5checksums.txt"]
    with pytest.raises(
        UserError, match=r"2 of 104 assemblies no longer exist .*GCF_000000005\.1.*use --skip-missing to skip"
    ):
        get(server, "multispecies", tmp_path)
    assert not (tmp_path / "genomes.tsv").exists()
    get(server, "multispecies", tmp_path, skip_missing=True)
    assert len((tmp_path / "genomes.tsv").read_text().splitlines()) == 102


def test_one_error_stops_all_downloads_and_the_next_run_resumes(server, assemblies, tmp_path):
    path = assemblies[60].removeprefix(f"{NCBI}/")
    good, server.files[f"ncbi/{path}"] = server.files[f"ncbi/{path}"], b"damaged"
    with pytest.raises(UserError, match=r"GCF_000000060\.1_ASM60v1_genomic\.fna\.gz: http.*: hash is md5:"):
        get(server, "multispecies", tmp_path, jobs=2)
    before = set(names(tmp_path / "assemblies"))
    assert 50 < len(before) < 104
    server.files[f"ncbi/{path}"] = good
    server.requests.clear()
    get(server, "multispecies", tmp_path, jobs=2)
    assert len(names(tmp_path / "assemblies")) == 104
    assert not before & {path.rsplit("/", 1)[-1] for path, _ in server.requests}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("https://example.org/genomes/all/GCF_000000001.1_A_genomic.fna.gz", "is not the URL of an assembly at"),
        (f"{NCBI}/genomes/../../GCF_000000001.1_A_genomic.fna.gz", "is not the URL of an assembly at"),
        (f"{NCBI}/genomes/all/evil.sh", "is not the URL of an assembly at"),
        (
            f"{NCBI}/genomes/all/GCF/000/000/002/GCF_000000002.1_ASM2v1/GCF_000000002.1_ASM2v1_genomic.fna.gz",
            "listed twice",
        ),
    ],
)
def test_a_malformed_assembly_list_is_rejected(assemblies, line, text):
    registry = Registry()
    lines = [*assemblies[:3], line, *assemblies[3:]]
    with pytest.raises(UserError, match=rf"urls\.txt: line 4: .*{text}"):
        registry.parse_assemblies(registry["multispecies"], "\n".join(lines))


def test_the_list_shows_size_license_and_host(capsys):
    assert call(main, ["--list"]) == 0
    printed = capsys.readouterr().out
    for name in ("hg38", "hs1", "mm39", "mm10", "dm6", "ce11", "sacCer3", "ecoli", "multispecies"):
        assert f"\n{name} " in f"\n{printed}"
    assert "license: " in printed and "hgdownload.soe.ucsc.edu" in printed and "0.98 GB" in printed


def test_unknown_names_and_mirrors_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"hg19: no such published set; use one of hg38, hs1"):
        call(main, ["hg19", "--out", str(tmp_path)])
    with pytest.raises(
        UserError, match="unknown publisher 'ensembl'; use PUBLISHER=URL, where PUBLISHER is one of ucsc, google"
    ):
        call(main, ["--list", "--mirror", "ensembl=http://x"])
    with pytest.raises(UserError, match="--mirror ucsc=x: 'x' is not an http or https URL; use ucsc=https://HOST"):
        call(main, ["--list", "--mirror", "ucsc=x"])
    with pytest.raises(UserError, match=r"--jobs.*greater than or equal to 1"):
        call(main, ["hg38", "--jobs", "0"])
    with pytest.raises(UserError, match="no genome set given; use --list to show the available sets"):
        call(main, [])
