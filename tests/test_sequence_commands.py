"""Names, notes, progress and write errors of `ldarnet predict` and `ldarnet tokenize`."""

import csv
import gzip
import lzma
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, LDARNetForSequenceClassification, threads
from ldarnet.cli import sequences
from ldarnet.finetuning.predict import Classifier
from ldarnet.io.tsv import UniqueNames
from ldarnet.model import write_model
from tests.support.twobit_writer import write_2bit

COMMANDS = ["predict", "tokenize"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    config = LDARNetConfig.preset("tiny")
    config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    folder = tmp_path_factory.mktemp("classifier") / "model"
    write_model(LDARNetForSequenceClassification(config), folder)
    return folder


def write_fasta(path: Path, *names: str, bases: str = "ACGTACGTAACC") -> Path:
    path.write_text("".join(f">{name}\n{bases}\n" for name in names), encoding="utf-8")
    return path


def names_of(text: str, header: bool) -> list[str]:
    """Distinct names in the first column of a table, as a csv reader reads it."""
    rows = list(csv.reader(text.splitlines(), delimiter="\t", strict=True))
    return list(dict.fromkeys(row[0] for row in rows[header:]))


NAMES = {
    "plain": (["a", "b"], ["a", "b"]),
    "repeated": (["a", "a", "b", "a"], ["a", "a#2", "b", "a#3"]),
    "a taken suffix": (["a#2", "a", "a"], ["a#2", "a", "a#3"]),
    "quotation marks": (['"a', 'b"c', '"d"'], ['"a', 'b"c', '"d"']),
    "an escape sequence": (["\x1b[31ma", "b\x07"], [r"\x1b[31ma", r"b\x07"]),
    "a bidirectional control": (["a\u202eb", "c"], [r"a\u202eb", "c"]),
    "escaped names that are equal": (["\x07", r"\x07"], [r"\x07", r"\x07#2"]),
    "other alphabets": (["größe", "染色体"], ["größe", "染色体"]),
    "formulas": (["=1+1", "-a"], ["=1+1", "-a"]),
}


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_names_in_tables_are_unique_and_printable(ldarnet, model, tmp_path, command, case):
    given, expected = NAMES[case]
    status, printed, errors = ldarnet(command, model, write_fasta(tmp_path / "x.fa", *given))
    assert status == 0
    assert names_of(printed, header=command == "predict") == expected
    assert ("repeated name" in errors) == any("#" in new and new not in given for new in expected)
    assert "\x1b" not in printed + errors


@pytest.mark.parametrize("command", COMMANDS)
def test_the_form_of_the_input_file_does_not_matter(ldarnet, model, tmp_path, command):
    text = ">a one\nACGTACGTAACC\nacgtn\n>b\nGGCCR\n"
    write_2bit(tmp_path / "plain.fa", {"a": "ACGTACGTAACCacgtn", "b": "GGCCN"})  # recognized by content
    forms = {
        "windows.fa": ("\ufeff" + text.replace("\n", "\r\n")).encode(),
        "mac.txt": text.replace("\n", "\r").encode(),
        "packed.fa": gzip.compress(text.encode()),
        "plain.2bit": lzma.compress(text.encode()),
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "x.fa").write_text(text)
    status, expected, _ = ldarnet(command, model, tmp_path / "x.fa")
    assert status == 0 and names_of(expected, header=command == "predict") == ["a", "b"]
    for name in forms:
        assert ldarnet(command, model, tmp_path / name)[:2] == (0, expected)
    status, printed, _ = ldarnet(command, model, tmp_path / "plain.fa")
    assert (status, printed.replace("N\n", "R\n")) == (0, expected)
    (tmp_path / "packed.fa").write_bytes(forms["packed.fa"][:-9])
    status, _, errors = ldarnet(command, model, tmp_path / "packed.fa")
    assert status == 1 and f"error: {tmp_path / 'packed.fa'}: truncated" in errors and errors.count("\n") == 1


def test_names_of_python_records_fit_into_a_table(model):
    classifier = Classifier(model)
    names = [name for name, _ in classifier.predict([("a\tb", "ACGT"), ("a\nb", "ACGT"), ("", "ACGT")])]
    assert names == ["a b", "a b#2", "sequence:3"]
    assert "1 repeated name got a suffix" in classifier.note()


def test_suffixes_are_unique_among_all_names():
    names = UniqueNames()
    given = ["a", "a", "a#2", "a#2", "a", "a#3"]
    found = [names.add(name, "x") for name in given]
    assert len(set(found)) == len(found)
    assert found[:2] == ["a", "a#2"]


def test_records_of_n_alone_are_noted(ldarnet, model, tmp_path):
    fasta = tmp_path / "x.fa"
    fasta.write_text(">a\nNNNNNNNN\n>b\nACGTNNNN\n>c\nnnRRnnnnnn\n")
    status, printed, errors = ldarnet("predict", model, fasta)
    assert status == 0 and len(printed.splitlines()) == 4
    assert "3 sequences; 2 ambiguity codes were replaced with N; 2 of N alone, whose predictions carry no" in errors


def test_tokenize_writes_a_file(ldarnet, model, tmp_path):
    fasta, out = write_fasta(tmp_path / "x.fa", "a", "b"), tmp_path / "new" / "chunks.tsv"
    _, printed, _ = ldarnet("tokenize", model, fasta)
    status, nothing, errors = ldarnet("tokenize", model, fasta, "--out", out)
    assert (status, nothing, out.read_text()) == (0, "", printed)
    assert f"wrote {out}: 2 sequences; {len(printed.splitlines())} chunks" in errors


def test_tokenize_writes_the_tokens_that_a_model_reads(ldarnet, tmp_path):
    shape = {"arch_layout": ["M1"], "d_model": [16], "d_intermediate": [32]}
    config = LDARNetConfig.preset("tiny", **shape, tokenizer={"method": "kmers", "k": 3})
    write_model(LDARNetForMaskedLM(config), tmp_path / "model")
    fasta, out = write_fasta(tmp_path / "x.fa", "a", bases="ACGTNNAC"), tmp_path / "tokens.tsv"
    status, _, errors = ldarnet("tokenize", tmp_path / "model", fasta, "--out", out)
    assert status == 0 and f"wrote {out}: 1 sequence; 4 tokens" in errors
    assert out.read_text() == "a\t0\t3\tACG\na\t3\t6\tTNN\na\t6\t7\tA\na\t7\t8\tC\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_progress_bar_is_shown_on_a_terminal(ldarnet, model, tmp_path, monkeypatch, command):
    fasta, out = write_fasta(tmp_path / "x.fa", *map(str, range(8))), tmp_path / "out.tsv"
    monkeypatch.setattr(sequences, "PROGRESS_SECONDS", 0.0)
    words = {"predict": "predicting", "tokenize": "tokenizing"}
    assert words[command] not in ldarnet(command, model, fasta, "--out", out)[2]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    options = ["--batch", 1] if command == "predict" else []
    status, _, errors = ldarnet(command, model, fasta, "--out", out, *options)
    assert status == 0 and words[command] in errors and "%" in errors
    monkeypatch.setattr(sequences, "PROGRESS_SECONDS", 1000.0)
    assert words[command] not in ldarnet(command, model, fasta, "--out", out)[2]


def test_progress_reaches_the_number_of_bases(model):
    done = []
    records = [("a", "ACGT" * 5), ("b", "ACGTA" * 7), ("c", "A")]
    for options in ({}, {"strands": 2}, {"max_length": 8}, {"batch": 1}):
        done.clear()
        assert len(list(Classifier(model, **options).predict(records, advance=done.append))) == 3
        assert sum(done) == 56


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_size_limit_is_one_line_and_leaves_nothing(ldarnet, model, tmp_path, command):
    fasta, out = write_fasta(tmp_path / "x.fa", *map(str, range(8))), tmp_path / "out" / "x.tsv"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        status, printed, errors = ldarnet(command, model, fasta, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, printed) == (1, "")
    assert errors == (
        f"error: file size limit exceeded while writing {out}; raise the limit (ulimit -f), or write to another file "
        "system\n"
    )
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_standard_output_is_one_line(model, tmp_path, command):
    fasta = write_fasta(tmp_path / "x.fa", *map(str, range(8)))
    with Path("/dev/full").open("w") as full:
        program = [sys.executable, "-c", "from ldarnet.cli import main; main()", command, str(model), str(fasta)]
        ended = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "error: cannot write to standard output (No space left on device); redirect it to another disk"
    )
    assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_an_output_that_is_not_a_file_is_kept(ldarnet, model, tmp_path, command, kind):
    fasta, out = write_fasta(tmp_path / "x.fa", "a"), tmp_path / "out"
    out.mkdir() if kind == "folder" else os.mkfifo(out)
    before = out.stat().st_ino
    status, _, errors = ldarnet(command, model, fasta, "--out", out)
    assert status == 1 and errors.startswith(f"error: {out}: a ") and errors.count("\n") == 1
    assert out.stat().st_ino == before and sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.fa"]


@pytest.fixture
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_busy_machine_gives_one_thread_and_a_note(command, ldarnet, model, tmp_path, monkeypatch, restored_threads):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "idle_cores", lambda enough: 0.3)
    fasta = write_fasta(tmp_path / "x.fa", "a")
    status, _, errors = ldarnet(command, model, fasta)
    assert status == 0 and torch.get_num_threads() == 1
    assert "using 1 thread (4 cores, 0.3 idle; set OMP_NUM_THREADS=4 to use all)" in errors
    monkeypatch.setattr(threads, "idle_cores", lambda enough: 4.0)
    assert "thread" not in ldarnet(command, model, fasta)[2]
