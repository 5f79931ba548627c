import errno
import fcntl
import hashlib
import io
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

import ldarnet.data.writer
import sharding.build
import sharding.progress
from ldarnet.data import ShardSet
from ldarnet.data.index_file import TABLES
from ldarnet.errors import UserError
from ldarnet.program import USER_ERROR, call, run
from sharding.build import build, main
from sharding.genomes import BUNDLED_FASTA


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "genome.fa"
    path.write_text(">chrI\n" + "ACGTTGCA" * 500 + "\n>chrII\n" + "GATTACAN" * 100 + "\n")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_bundled_genome_matches_its_source_file(tmp_path, capsys):
    assert call(main, ["--out", str(tmp_path / "set")]) == 0
    shards = ShardSet.open(tmp_path / "set")
    source = (BUNDLED_FASTA.parent / "SOURCE.md").read_text()
    table = re.findall(r"\| (chr\w+) \| NC_\d+ \| ([\d,]+) \| `(\w{64})` \|", source)
    assert {name: int(length.replace(",", "")) for name, length, _ in table} == shards.contigs
    for name, length, digest in table:
        bases = shards.text(name, 0, int(length.replace(",", "")))
        assert hashlib.sha256(bases.encode()).hexdigest() == digest
    assert shards.splits == {"train": 2_126_243, "valid": 270_161}
    printed = capsys.readouterr().out
    assert "2,126,243" in printed
    assert float(re.search(r"([\d.]+) bits per base on disk", printed)[1]) < 2.1


def test_several_files_and_splits(tmp_path, fasta):
    more = tmp_path / "more.fa"
    more.write_text(">chrIII\nacgtRY\n")
    index, built = build(tmp_path / "set", [fasta, more], contig_splits={"valid": ["chrII"]})
    assert built
    assert index.contigs.all_names() == ["chrI", "chrII", "chrIII"]
    assert index.contigs.length.tolist() == [4000, 800, 6]
    assert index.contigs.source.tolist() == [0, 0, 1]
    assert [source["name"] for source in index.recipe["sources"]] == ["genome.fa", "more.fa"]
    shards = ShardSet.open(tmp_path / "set")
    assert shards.text("chrIII", 0, 6) == "acgtRY"
    assert shards.splits == {"train": 4006, "valid": 800}


def test_the_same_input_gives_the_same_bytes(tmp_path, fasta):
    for name in ("one", "two"):
        build(tmp_path / name, [fasta], block=300, shard_size=200)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    names = sorted(files(tmp_path / "one"))
    shards = [name for name in names if name.endswith(".tar")]
    assert len(shards) > 2
    for name in shards:
        with tarfile.open(tmp_path / "one" / name) as tar:
            members = tar.getmembers()
        assert [member.name for member in members] == sorted(member.name for member in members)
        assert {(member.mode, member.mtime, member.uid, member.uname) for member in members} == {(0o644, 0, 0, "")}


def test_a_second_build_does_nothing_and_different_input_is_rejected(tmp_path, fasta, capsys):
    arguments = ["--out", str(tmp_path / "set"), str(fasta), "--split", "valid=chrII"]
    assert call(main, arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    capsys.readouterr()
    assert call(main, arguments) == 0
    assert "already built" in capsys.readouterr().out
    with pytest.raises(UserError, match="different splits; choose another --out or delete this folder"):
        call(main, arguments[:3])
    fasta.write_text(fasta.read_text().replace("GATT", "CATT"))
    with pytest.raises(UserError, match="holds a shard set with different sources;"):
        call(main, arguments)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()} == before


def test_a_missing_shard_of_a_built_set_is_reported(tmp_path, fasta):
    build(tmp_path / "set", [fasta])
    (tmp_path / "set" / "shard-00000-0000-0000.tar").unlink()
    with pytest.raises(
        UserError, match=r"shard-00000-0000-0000\.tar: missing or has the wrong size; delete .*set and build the set"
    ):
        build(tmp_path / "set", [fasta])


def test_a_folder_with_other_files_is_left_alone(tmp_path, fasta):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "shard-00000-0000-0000.tar").write_text("precious")
    with pytest.raises(
        UserError, match="holds files that do not belong to a build; choose an empty or new --out folder"
    ):
        build(tmp_path / "mine", [fasta])
    assert files(tmp_path / "mine") == {"shard-00000-0000-0000.tar": b"precious"}
    with pytest.raises(UserError, match="cannot be used as a folder"):
        build(fasta, [fasta])


def test_contig_names_must_differ_within_and_across_files(tmp_path, fasta):
    other = tmp_path / "other.fa"
    other.write_text(">chrV\nA\n>chrII\nA\n")
    with pytest.raises(UserError, match=rf"{other}: contig 'chrII' is also in {fasta}; rename one"):
        build(tmp_path / "set", [fasta, other])
    other.write_text(">chrV\nA\n>chrV\nA\n")
    with pytest.raises(UserError, match=r"contig 'chrV' occurs twice; rename one of them"):
        build(tmp_path / "set", [other])


def test_bad_input_leaves_no_index_and_can_be_fixed(tmp_path, fasta):
    good = fasta.read_text()
    fasta.write_text(good + ">p\nMKLV\n")
    with pytest.raises(UserError, match="protein"):
        build(tmp_path / "set", [fasta], block=100, shard_size=100)
    assert not (tmp_path / "set" / "index.json").exists()
    assert not list((tmp_path / "set").glob(".*"))
    with pytest.raises(UserError, match="not a shard set"):
        ShardSet.open(tmp_path / "set")
    fasta.write_text(good)
    build(tmp_path / "set", [fasta])
    assert sorted(files(tmp_path / "set")) == sorted(["index.json", *TABLES, "shard-00000-0000-0000.tar"])


def test_a_malformed_bed_file_is_reported_before_anything_is_written(tmp_path):
    bed = tmp_path / "splits.bed"
    bed.write_text("chrI\t0\t9\ttrain\nchrI\t5\t12\tvalid\n")
    with pytest.raises(UserError, match=r"splits\.bed: line 2: split 'valid' overlaps"):
        build(tmp_path / "set", [tmp_path / "absent.fa"], splits_bed=bed)
    assert not (tmp_path / "set").exists()


def test_a_bed_file_that_does_not_fit_the_contigs_leaves_no_index(tmp_path, fasta):
    bed = tmp_path / "splits.bed"
    bed.write_text("chrI\t0\t4001\ttrain\n")
    with pytest.raises(UserError, match=r"splits\.bed: line 1: chrI:0-4001 extends beyond the contig \(0-4000\)"):
        build(tmp_path / "set", [fasta], splits_bed=bed)
    with pytest.raises(UserError, match="not a shard set"):
        ShardSet.open(tmp_path / "set")
    bed.write_text("chrI\t0\t4000\ttrain\n")
    assert build(tmp_path / "set", [fasta], splits_bed=bed)[1]


def test_folders_in_place_of_input_files_are_reported(tmp_path, fasta):
    (tmp_path / "inner").mkdir()
    with pytest.raises(UserError, match="inner: a folder, not a file; choose a file"):
        build(tmp_path / "set", [tmp_path / "inner"])
    with pytest.raises(UserError, match="inner: a folder, not a file; choose a file"):
        build(tmp_path / "set", [fasta], splits_bed=tmp_path / "inner")


@pytest.mark.parametrize("name", ["genome.fa", "splits.bed"])
def test_input_without_read_permission_is_reported(tmp_path, fasta, monkeypatch, name):
    bed = tmp_path / "splits.bed"
    bed.write_text("chrI\t0\t4000\ttrain\n")
    forbid(monkeypatch, name)
    with pytest.raises(UserError, match=f"{name}: no permission to read it; change its mode or owner"):
        build(tmp_path / "set", [fasta], splits_bed=bed)


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make opening files of this name fail; root, who may run the tests, ignores file modes."""
    real_open = io.open

    def guarded(file, *args, **kwargs):
        if Path(file).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", guarded)
    monkeypatch.setattr("io.open", guarded)


def test_a_split_without_bases_is_rejected(tmp_path):
    path = tmp_path / "n.fa"
    path.write_text(">a\nACGT\n>b\nNNNNRY\n")
    with pytest.raises(UserError, match=r"split 'valid': contains no A, C, G or T; change --split, --splits-bed or"):
        build(tmp_path / "set", [path], contig_splits={"valid": ["b"]})


def test_options_out_of_range_are_rejected(tmp_path, fasta):
    with pytest.raises(UserError, match="at least 1"):
        build(tmp_path / "set", [fasta], block=0)
    with pytest.raises(UserError, match="are mutually exclusive; use one of them"):
        call(main, ["--out", str(tmp_path / "set"), "--split", "a=b", "--splits-bed", "x"])


def test_a_full_disk_is_reported_and_leaves_no_partial_file(tmp_path, fasta, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ldarnet.data.writer, "_tar_writer", full)
    message = r"no space left on device while writing .*shard-00000-0000-0000\.tar; free some space and run the same"
    with pytest.raises(UserError, match=message):
        build(tmp_path / "set", [fasta])
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["unfinished"]
    monkeypatch.undo()
    assert build(tmp_path / "set", [fasta])[1]


@pytest.fixture
def tiny_disk(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs permission to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_build_resumes_after_a_full_disk(tiny_disk):
    with pytest.raises(UserError, match=r"no space left on device while writing "):
        build(tiny_disk / "set", [BUNDLED_FASTA], shard_size=300_000)
    kept = {path: path.stat().st_ino for path in (tiny_disk / "set").glob("*.tar")}
    assert kept
    assert not (tiny_disk / "set" / "index.json").exists()
    subprocess.run(["mount", "-o", "remount,size=2m", tiny_disk], check=True)
    assert build(tiny_disk / "set", [BUNDLED_FASTA], shard_size=300_000)[1]
    assert {path: path.stat().st_ino for path in kept} == kept
    assert sum(ShardSet.open(tiny_disk / "set").contigs.values()) == 2_396_404


def test_a_read_only_file_system_is_reported(tiny_disk, fasta):
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with pytest.raises(UserError, match=r"Read-only file system"):
        build(tiny_disk / "set", [fasta])
    (tiny_disk.parent / "link").symlink_to(tiny_disk)
    with pytest.raises(UserError, match=r"cannot write .*unfinished \(Read-only file system\)"):
        build(tiny_disk.parent / "link", [fasta])


def test_a_folder_in_use_by_another_build_is_rejected(tmp_path, fasta):
    (tmp_path / "set").mkdir()
    descriptor = os.open(tmp_path / "set", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another build is writing to this folder"):
        build(tmp_path / "set", [fasta])
    os.close(descriptor)
    assert build(tmp_path / "set", [fasta])[1]


def test_an_error_is_one_line_and_status_1(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "set"), str(tmp_path / "absent.fa")]
    assert run(main, arguments, name="build") == USER_ERROR
    assert capsys.readouterr().err == f"error: {tmp_path / 'absent.fa'}: no such file; check the path\n"


@pytest.mark.parametrize(
    ("arguments", "address"),
    [([], None), (["--ray"], ""), (["--ray", "--workers", "2"], ""), (["--ray", "auto"], "auto"), (["--ray="], "")],
)
def test_the_address_of_a_ray_cluster_is_optional(tmp_path, monkeypatch, arguments, address):
    def stub(*_, ray, **__):
        raise UserError(f"address {ray!r}")

    monkeypatch.setattr(sharding.build, "build", stub)
    with pytest.raises(UserError, match=f"^address {address!r}$"):
        call(main, ["--out", str(tmp_path / "set"), *arguments])


def test_human_chromosome_20_takes_less_than_2_1_bits_per_base(tmp_path, shared):
    source = shared / "data" / "genome_human_chr20_GRCh37" / "20.fa.gz"
    index, _ = build(tmp_path / "set", [source])
    size = sum(path.stat().st_size for path in (tmp_path / "set").iterdir())
    assert index.contigs.length[0] == 63_025_520
    assert 8 * size / 63_025_520 < 2.1


def test_tiles_and_exclusions_from_the_command_line(tmp_path, fasta, capsys):
    (tmp_path / "loci.bed").write_text("chrI\t100\t300\tlocus\nchrII\t0\t50\n")
    options = ["--split-hash", "valid=0.2,test=0.1", "--hash-tile", "100", "--exclude", str(tmp_path / "loci.bed")]
    arguments = ["--out", str(tmp_path / "set"), str(fasta), *options]
    assert call(main, arguments) == 0
    shards = ShardSet.open(tmp_path / "set")
    assert sum(shards.splits.values()) == 4800 - 250
    assert sum(shards.index.recipe["excluded"].values()) == 250
    for rows in shards.index.splits.values():
        assert not ((rows[:, 0] == 0) & (rows[:, 1] < 300) & (rows[:, 2] > 100)).any()
    assert len(shards.text("chrI", 0, 4000)) == 4000
    assert "excluded" in capsys.readouterr().out
    assert call(main, arguments) == 0
    with pytest.raises(UserError, match="holds a shard set with different splits, exclude"):
        call(main, [*arguments[:3], *options[2:4], "--split-hash", "valid=0.3"])


def test_a_completely_excluded_split_is_rejected(tmp_path, fasta):
    (tmp_path / "loci.bed").write_text("chrII\t0\t800\n")
    with pytest.raises(UserError, match="split 'valid': contains no A, C, G or T"):
        build(tmp_path / "set", [fasta], contig_splits={"valid": ["chrII"]}, exclude=[tmp_path / "loci.bed"])


def test_progress_is_printed_in_lines_without_a_terminal(tmp_path, fasta, monkeypatch):
    monkeypatch.setattr(sharding.progress, "_LINE_SECONDS", 0.0)
    printed = io.StringIO()
    build(tmp_path / "set", [fasta], console=Console(file=printed))
    assert re.search(r"packed 100% of the input, \d+(\.\d [kM])? ?bases/s", printed.getvalue())
