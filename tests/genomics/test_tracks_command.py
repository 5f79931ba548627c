"""`ldarnet tracks` and the regions of `ldarnet tokenize`, from files to files."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ldarnet import LDARNetConfig, LDARNetForCausalLM, LDARNetForSequenceClassification
from ldarnet.genomics import progress, tracks
from ldarnet.genomics.boundaries import BoundaryScorer
from ldarnet.genomics.partial import PartialScores
from ldarnet.model import write_model
from tests.support.genomics import random_bases, save, write_genome
from tests.support.twobit_writer import write_2bit

TEXT = ("--format", "bedgraph,bed")
SMALL = (*TEXT, "--window", "64", "--device", "cpu")
CONTIGS = {"chr2": random_bases(900), "chr10": random_bases(300, 1) + "N" * 400 + random_bases(150, 2)}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_genome(tmp_path / "g.fa", CONTIGS)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != tracks.RECORD}


def bed_rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def values(text: str) -> dict[tuple[str, int], float]:
    """Value by contig and position of a bedGraph."""
    return {
        (contig, at): float(value) for contig, start, end, value in bed_rows(text) for at in range(int(start), int(end))
    }


def test_a_genome_becomes_sorted_tracks_and_chunks(ldarnet, model, genome, tmp_path):
    status, printed, errors = ldarnet("tracks", model, genome, "--out", tmp_path / "out", *SMALL)
    assert (status, errors) == (0, "")
    assert f"wrote {tmp_path / 'out'}: boundary_stage0.bedgraph, chunks_stage0.bed\n" in printed
    assert "1,750 bases in 0:00:0" in printed and "bases/s; windows of 64 bases with margins of 8" in printed
    found = contents(tmp_path / "out")
    assert {*found} == {"boundary_stage0.bedgraph", "chunks_stage0.bed"}
    p = values(found["boundary_stage0.bedgraph"])
    with_bases = {(name, at) for name, bases in CONTIGS.items() for at, base in enumerate(bases) if base != "N"}
    assert with_bases <= {*p} and ("chr10", 500) not in p and all(0 <= value <= 1 for value in p.values())
    rows = bed_rows(found["chunks_stage0.bed"])
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    for before, after in pairwise(rows):
        assert before[0] != after[0] or int(before[2]) <= int(after[1])
    assert {(row[0], at) for row in rows for at in range(int(row[1]), int(row[2]))} == {*p}
    for contig, start, end, name, score, strand, first, mean in rows:
        inside = [p[contig, at] for at in range(int(start), int(end))]
        assert int(name) == len(inside) and strand == "." and abs(int(score) - 1000 * float(first)) < 1
        assert float(first) == pytest.approx(inside[0], abs=1e-4)
        assert float(mean) == pytest.approx(np.mean(inside), abs=1e-3)


def test_files_depend_neither_on_batches_nor_on_the_form_of_the_genome(ldarnet, model, genome, tmp_path):
    ldarnet("tracks", model, genome, "--out", tmp_path / "a", *SMALL, "--batch", 1)
    write_2bit(tmp_path / "g.2bit", {name: bases.lower() for name, bases in CONTIGS.items()})
    ldarnet("tracks", model, tmp_path / "g.2bit", "--out", tmp_path / "b", *SMALL, "--batch", 5)
    one, other = contents(tmp_path / "a"), contents(tmp_path / "b")
    expected, found = values(one["boundary_stage0.bedgraph"]), values(other["boundary_stage0.bedgraph"])
    assert found == pytest.approx(expected, abs=1.1e-4)  # values are rounded to 1e-4
    assert [row[:3] for row in bed_rows(one["chunks_stage0.bed"])] == [
        row[:3] for row in bed_rows(other["chunks_stage0.bed"])
    ]


def test_regions_have_the_values_and_the_chunks_of_the_genome(ldarnet, model, genome, tmp_path):
    ldarnet("tracks", model, genome, "--out", tmp_path / "all", *SMALL)
    bed = tmp_path / "r.bed"
    bed.write_text("chr10\t250\t800\nchr2\t600\t700\n")
    region = ("--region", "chr2:101-333", "--bed", bed)
    assert ldarnet("tracks", model, genome, "--out", tmp_path / "part", *region, *SMALL)[0] == 0
    places = {"chr2": [(100, 333), (600, 700)], "chr10": [(250, 800)]}
    everything, part = contents(tmp_path / "all"), contents(tmp_path / "part")
    expected = {
        (contig, at): value
        for (contig, at), value in values(everything["boundary_stage0.bedgraph"]).items()
        if any(start <= at < end for start, end in places[contig])
    }
    assert values(part["boundary_stage0.bedgraph"]) == pytest.approx(expected, abs=1.1e-4)
    chunks = [
        row
        for row in bed_rows(everything["chunks_stage0.bed"])
        if any(start <= int(row[1]) and int(row[2]) <= end for start, end in places[row[0]])
    ]
    assert [row[:3] for row in bed_rows(part["chunks_stage0.bed"])] == [row[:3] for row in chunks]
    assert len(chunks) > 20


def test_coordinates_in_names_and_new_names_are_used(ldarnet, model, tmp_path):
    genome = write_genome(tmp_path / "g.fa", {"7:1001-1100": random_bases(100)})
    (tmp_path / "names.tsv").write_text("7\tchr7\n")
    options = ("--rename", tmp_path / "names.tsv", "--region", "chr7:1041-1060")
    assert ldarnet("tracks", model, genome, "--out", tmp_path / "out", *options, *SMALL)[0] == 0
    assert [*values(contents(tmp_path / "out")["boundary_stage0.bedgraph"])] == [
        ("chr7", at) for at in range(1040, 1060)
    ]
    status, printed, _ = ldarnet("tokenize", model, genome, *options)
    rows = bed_rows(printed)
    assert status == 0 and rows
    for contig, start, end, bases in rows:
        assert contig == "chr7" and bases == random_bases(100)[int(start) - 1000 : int(end) - 1000]
        assert 1040 <= int(start) < int(end) <= 1060


def test_likelihoods_and_strands_have_files_of_their_own(ldarnet, model, genome, tmp_path):
    options = ("--likelihood", "--masked-every", 4, "--strands", "both", "--region", "chr2:1-200")
    assert ldarnet("tracks", model, genome, "--out", tmp_path / "out", *options, *SMALL)[0] == 0
    signals = [
        f"{name}_{strand}"
        for name in ("boundary_stage0", "log_likelihood", "entropy")
        for strand in ("forward", "reverse")
    ]
    found = contents(tmp_path / "out")
    assert {*found} == {
        *(f"{name}.bedgraph" for name in signals),
        "chunks_stage0_forward.bed",
        "chunks_stage0_reverse.bed",
    }
    likelihood, entropy = (values(found[f"{name}_forward.bedgraph"]) for name in ("log_likelihood", "entropy"))
    assert {*likelihood} == {*entropy} == {("chr2", at) for at in range(200)}
    assert max(likelihood.values()) <= 0 <= min(entropy.values()) and max(entropy.values()) <= np.log(4) + 1e-4
    assert {row[5] for row in bed_rows(found["chunks_stage0_reverse.bed"])} == {"-"}
    record = json.loads((tmp_path / "out" / tracks.RECORD).read_text())
    assert (record["window"], record["margin"], record["masked_every"], record["bases"]) == (64, 8, 4, 200)


def test_a_single_stack_has_likelihoods_only(ldarnet, genome, tmp_path):
    single = save(tmp_path / "single", arch_layout=["m1"], d_model=[16], d_intermediate=[0])
    options = ("--region", "chr2:1-100", *SMALL)
    status, _, errors = ldarnet("tracks", single, genome, "--out", tmp_path / "out", *options)
    assert status == 1 and "single stage and no chunks" in errors
    assert ldarnet("tracks", single, genome, "--out", tmp_path / "out", "--likelihood", *options)[0] == 0
    assert {*contents(tmp_path / "out")} == {"log_likelihood.bedgraph", "entropy.bedgraph"}


def test_causal_models_have_boundaries_but_no_masked_likelihoods(ldarnet, genome, tmp_path):
    causal, region = save(tmp_path / "causal", LDARNetForCausalLM, causal=True), ("--region", "chr2:1-100", *SMALL)
    status, _, errors = ldarnet("tracks", causal, genome, "--out", tmp_path / "out", "--likelihood", *region)
    assert status == 1 and not (tmp_path / "out").exists()
    assert errors.startswith("error: ") and errors.endswith("; choose a pretrained model that is not causal\n")
    assert errors.count("\n") == 1
    found = {}
    for strands in ("both", "average"):
        out = tmp_path / strands
        assert ldarnet("tracks", causal, genome, "--out", out, "--strands", strands, *region)[0] == 0
        found |= {name: values(text) for name, text in contents(out).items() if name.endswith("graph")}
    forward, reverse = (found[f"boundary_stage0_{strand}.bedgraph"] for strand in ("forward", "reverse"))
    mean = {at: (forward[at] + reverse[at]) / 2 for at in reverse}
    assert {at: found["boundary_stage0.bedgraph"][at] for at in reverse} == pytest.approx(mean, abs=1.1e-4)


class StopError(Exception):
    """Raised by a scorer."""


@pytest.fixture
def scored(monkeypatch):
    """Windows that the model scored so far; `limit` of them are allowed."""
    state, score = {"windows": 0, "limit": 10**9}, BoundaryScorer.__call__

    def counted(scorer, windows):
        state["windows"] += len(windows)
        if state["windows"] > state["limit"]:
            raise StopError
        return score(scorer, windows)

    monkeypatch.setattr(BoundaryScorer, "__call__", counted)
    return state


def test_an_interrupted_command_resumes_with_the_next_contig(ldarnet, model, genome, tmp_path, scored):
    command = ("tracks", model, genome, "--out", tmp_path / "out", *SMALL, "--batch", 1)
    ldarnet("tracks", model, genome, "--out", tmp_path / "expected", *SMALL, "--batch", 1)
    expected = contents(tmp_path / "expected")
    scored |= {"windows": 0, "limit": 25}  # chr2, the first in the file, has 19 windows
    assert ldarnet(*command)[0] == 70
    assert {path.name for path in (tmp_path / "out").iterdir()} == {tracks.PARTIAL}
    scored |= {"windows": 0, "limit": 10**9}
    status, printed, _ = ldarnet(*command)
    assert status == 0 and scored["windows"] < 19
    assert "850 bases in" in printed and "; 900 reused from an interrupted run" in printed
    assert contents(tmp_path / "out") == expected
    scored["limit"] = 0
    status, printed, _ = ldarnet(*command)
    assert status == 0 and "already finished: boundary_stage0.bedgraph, chunks_stage0.bed" in printed


@pytest.mark.parametrize("change", ["strands", "genome", "window", "model"])
def test_unfinished_tracks_of_another_configuration_are_discarded(ldarnet, model, genome, tmp_path, scored, change):
    scored["limit"] = 25
    command = ["tracks", model, genome, "--out", tmp_path / "out", *SMALL, "--batch", 1]
    assert ldarnet(*command)[0] == 70
    scored |= {"windows": 0, "limit": 10**9}
    match change:
        case "strands":
            command += ["--strands", "forward"]
        case "genome":
            write_genome(genome, CONTIGS | {"chr2": random_bases(900, 9)})
        case "window":
            command[command.index("64")] = "72"
        case "model":
            command[1] = save(tmp_path / "other", target_ratio=3.0)
    status, printed, errors = ldarnet(*command)
    assert status == 0 and "reused" not in printed
    assert errors == f"{tmp_path / 'out'}: discarded the unfinished tracks of another model, genome or configuration\n"


def test_finished_tracks_of_another_configuration_are_replaced(ldarnet, model, genome, tmp_path):
    out, region = tmp_path / "out", ("--region", "chr2:1-200")
    ldarnet("tracks", model, genome, "--out", out, "--strands", "both", *region, *SMALL)
    (out / "notes.txt").write_text("mine")
    status, _, errors = ldarnet("tracks", model, genome, "--out", out, *region, *SMALL)
    assert (status, errors) == (0, f"{out}: replaced the tracks of another model, genome or configuration\n")
    assert {*contents(out)} == {"boundary_stage0.bedgraph", "chunks_stage0.bed", "notes.txt"}
    one_format = ("--format", "bedgraph", *SMALL[2:])
    assert "already finished" in ldarnet("tracks", model, genome, "--out", out, *region, *one_format)[1]


def test_another_format_is_added_to_finished_tracks(ldarnet, model, genome, tmp_path):
    out, region = tmp_path / "out", ("--region", "chr2:1-200")
    for form in ("bed", "bedgraph"):
        assert ldarnet("tracks", model, genome, "--out", out, *region, "--format", form, *SMALL[2:])[0] == 0
    assert {*contents(out)} == {"boundary_stage0.bedgraph", "chunks_stage0.bed"}
    assert "already finished" in ldarnet("tracks", model, genome, "--out", out, *region, *SMALL)[1]


def test_damaged_partial_scores_are_computed_again(ldarnet, model, genome, tmp_path, scored):
    scored["limit"] = 25
    command = ("tracks", model, genome, "--out", tmp_path / "out", *SMALL, "--batch", 1)
    assert ldarnet(*command)[0] == 70
    (file,) = (tmp_path / "out" / tracks.PARTIAL).glob("*/*.f32")
    file.write_bytes(file.read_bytes()[:-4])
    scored["limit"] = 10**9
    status, printed, _ = ldarnet(*command)
    assert status == 0 and "1,750 bases in" in printed and "reused" not in printed


def test_a_folder_with_a_damaged_key_is_started_anew(tmp_path):
    folder = tmp_path / "partial"
    for text in ("", "{", '{"key": 1}'):
        PartialScores(folder, "0" * 64, ["p"], [])
        (folder / "key.json").write_text(text)
        assert PartialScores(folder, "0" * 64, ["p"], []).discarded
    assert not PartialScores(folder, "0" * 64, ["p"], []).discarded


def test_a_damaged_record_is_an_error(ldarnet, model, genome, tmp_path):
    command = ("tracks", model, genome, "--out", tmp_path / "out", "--region", "chr2:1-100", *SMALL)
    assert ldarnet(*command)[0] == 0
    record = tmp_path / "out" / tracks.RECORD
    record.write_text(record.read_text().replace("boundary_stage0.bedgraph", "../boundary_stage0.bedgraph"))
    status, _, errors = ldarnet(*command)
    assert status == 1 and "tracks.json: damaged (files.0: " in errors and "remove it and run" in errors


def test_progress_shows_share_speed_and_remaining_time(ldarnet, model, tmp_path, monkeypatch):
    genome = write_genome(tmp_path / "g.fa", {"a[red]\x1b[31m": random_bases(500)})
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    _, _, errors = ldarnet("tracks", model, genome, "--out", tmp_path / "a", *SMALL, "--batch", 2)
    lines = errors.splitlines()
    pattern = r"a\[red\]\\x1b\[31m  \d+% of 500 bases  .* k?bases/s  ETA \d:\d\d:\d\d"
    assert [line for line in lines if not re.fullmatch(pattern, line)] == []
    assert len(lines) > 2 and "  100% of 500 bases" in lines[-1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    _, _, errors = ldarnet("tracks", model, genome, "--out", tmp_path / "b", *SMALL)
    assert "bases/s  ETA" in errors and r"a[red]\x1b[31m" in errors


def test_bigwig_and_bigbed_are_read_by_an_independent_reader(ldarnet, model, genome, tmp_path):
    reader = pytest.importorskip("pyBigWig", reason="pyBigWig, an independent reader, is not installed")
    pytest.importorskip("pybigtools", reason="pybigtools is not installed")
    options = ("--format", "bigwig,bedgraph,bed,bigbed", "--window", 64, "--device", "cpu", "--likelihood")
    status, _, errors = ldarnet("tracks", model, genome, "--out", tmp_path / "out", *options)
    assert (status, errors) == (0, "")
    for name in ("boundary_stage0", "log_likelihood", "entropy"):
        expected = values((tmp_path / "out" / f"{name}.bedgraph").read_text())
        with reader.open(str(tmp_path / "out" / f"{name}.bw")) as file:
            assert file.chroms() == {contig: len(bases) for contig, bases in CONTIGS.items()}
            found = {
                (contig, at): value
                for contig in CONTIGS
                for at, value in enumerate(file.values(contig, 0, len(CONTIGS[contig])))
                if not np.isnan(value)
            }
        assert found == pytest.approx(expected, abs=1e-6)
    lines = (tmp_path / "out" / "chunks_stage0.bed").read_text().splitlines()
    with reader.open(str(tmp_path / "out" / "chunks_stage0.bb")) as file:
        entries = [
            f"{contig}\t{start}\t{end}\t{rest}"
            for contig in sorted(CONTIGS)
            for start, end, rest in file.entries(contig, 0, len(CONTIGS[contig]))
        ]
    assert entries == lines


def test_without_a_window_length_the_default_is_reported(ldarnet, model, genome, tmp_path):
    options = (*TEXT, "--region", "chr2:1-50", "--device", "cpu")
    _, printed, errors = ldarnet("tracks", model, genome, "--out", tmp_path / "a", *options)
    assert errors == f"{model}: length in pretraining unknown; using --window 4096\n"
    assert "windows of 4,096 bases with margins of 512" in printed
    (model.parent / "config.yaml").write_text("data: {length: 80}")
    try:
        _, printed, errors = ldarnet("tracks", model, genome, "--out", tmp_path / "b", *options)
    finally:
        (model.parent / "config.yaml").unlink()
    assert errors == "" and "windows of 80 bases with margins of 10" in printed


ERRORS = {
    "unknown contig": (["--region", "2:1-50"], "no contig 2 in", "this genome calls it chr2"),
    "beyond the contig": (["--region", "chr2:1-901"], "extends beyond the end of the contig (900 bases)", "assembly"),
    "unknown format": (["--format", "wig"], "--format 'wig': unknown format", "choose from bigwig, bedgraph"),
    "no format for values": (["--likelihood", "--format", "bed"], "no format for values", "add bigwig or bedgraph"),
    "margin": (["--margin", "32"], "--margin 32: out of range", "choose 1 to 31 bases"),
    "device": (["--device", "abacus"], "--device abacus: not available", "use --device cpu"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_input_is_one_line_and_leaves_nothing(ldarnet, model, genome, tmp_path, case):
    options, *messages = ERRORS[case]
    status, printed, errors = ldarnet("tracks", model, genome, "--out", tmp_path / "out", *SMALL, *options)
    assert (status, printed) == (1, "") and errors.startswith("error: ") and errors.count("\n") == 1
    assert all(message in errors for message in messages)
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_fit_are_refused(ldarnet, genome, tmp_path):
    layout = {"arch_layout": ["m1"], "d_model": [16], "d_intermediate": [0]}
    kmers = save(tmp_path / "kmers", **layout, tokenizer={"method": "kmers", "k": 3})
    _, _, errors = ldarnet("tracks", kmers, genome, "--out", tmp_path / "out", *SMALL)
    assert "reads the tokens of a fixed tokenizer (method kmers), not bases" in errors
    write_model(LDARNetForSequenceClassification(LDARNetConfig.preset("tiny", num_labels=2)), tmp_path / "classifier")
    options = ("--out", tmp_path / "out", "--region", "chr2:1-100", *SMALL)
    assert ldarnet("tracks", tmp_path / "classifier", genome, *options)[0] == 0
    _, _, errors = ldarnet("tracks", tmp_path / "classifier", genome, "--likelihood", *options)
    assert "the model class is LDARNetForSequenceClassification, not LDARNetForMaskedLM" in errors


def test_tokenize_prints_the_chunks_of_regions(ldarnet, model, genome, tmp_path):
    options = ("--window", 64)
    everything = bed_rows(ldarnet("tokenize", model, genome, *options)[1])
    (tmp_path / "r.bed").write_text("chr10\t100\t240\n")
    region = ("--region", "chr2:11-300", "--bed", tmp_path / "r.bed")
    status, _, errors = ldarnet("tokenize", model, genome, *options, *region, "--out", tmp_path / "x.tsv")
    within = [
        row
        for row in everything
        if (row[0] == "chr2" and int(row[1]) >= 10 and int(row[2]) <= 300)
        or (row[0] == "chr10" and int(row[1]) >= 100 and int(row[2]) <= 240)
    ]
    assert status == 0 and within and bed_rows((tmp_path / "x.tsv").read_text()) == within
    assert f"x.tsv: 2 regions; {len(within)} chunks" in errors
