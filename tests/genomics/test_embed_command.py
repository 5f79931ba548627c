"""`ldarnet embed`, from files to files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ldarnet import LDARNetModel, alphabet
from ldarnet.genomics.embeddings import Embedder
from ldarnet.model import load_backbone
from tests.support.genomics import random_bases, save, write_genome

THREE_STAGES = {
    "arch_layout": ["m1", ["m1", ["M1"], "m1"], "m1"],
    "d_model": [16, 24, 32],
    "d_intermediate": [0, 0, 32],
    "attn_cfg": {"num_heads": [2, 2, 2], "rotary_emb_dim": [8, 8, 8], "window_size": [7, 7, -1]},
}
SHORT = {"one": random_bases(50), "two": random_bases(23, 1) + "NNNN" + random_bases(9, 2), "none": "N" * 12}
GENOME = {"chr2": random_bases(500), "chr10": random_bases(150, 1) + "N" * 200 + random_bases(90, 2)}
SMALL = ("--window", 64, "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "model", LDARNetModel, **THREE_STAGES)


@pytest.fixture
def npy(ldarnet, model, tmp_path):
    """Run `ldarnet embed` with options; return the embeddings and the rows of the table, without its header."""

    def run(source: Path, *options) -> tuple[np.ndarray, list[list[str]]]:
        out = tmp_path / "out.npy"
        status, _, errors = ldarnet("embed", model, source, "--out", out, *SMALL, *options)
        assert status == 0, errors
        lines = (tmp_path / "out.rows.tsv").read_text().splitlines()
        return np.load(out), [line.split("\t") for line in lines[1:]]

    return run


def hidden(model: Path, bases: str, layer: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Hidden states of one sequence, without padding, and the boundaries of each stage at its bases."""
    ids = torch.from_numpy(alphabet.encode(bases).astype(np.int64))[None]
    with torch.no_grad():
        output = load_backbone(model).eval()(ids, output_hidden_states=True, output_boundaries=True)
    masks = [output.boundary_mask[0, :, stage].numpy() for stage in range(2)]
    return output.hidden_states[layer][0].numpy(), masks


def known(bases: str) -> np.ndarray:
    return np.array([base != "N" for base in bases])


@pytest.mark.parametrize("layer", range(-1, 6))
def test_a_sequence_has_the_mean_over_its_bases(npy, model, tmp_path, layer):
    found, rows = npy(write_genome(tmp_path / "s.fa", SHORT), "--layer", layer, "--strands", "forward")
    assert rows == [[name, name, "0", str(len(bases)), "+"] for name, bases in SHORT.items()]
    for vector, bases in zip(found[:2], [*SHORT.values()][:2], strict=True):
        states, masks = hidden(model, bases, layer)
        depth = {2: 1, 3: 2, 4: 1}.get(layer, 0)
        at = np.cumsum(masks[depth - 1]) - 1 if depth else np.arange(len(bases))
        assert np.abs(vector - states[at][known(bases)].mean(0)).max() < 1e-5
    assert np.isnan(found[2]).all()


def test_bases_have_the_mean_of_the_hidden_states_of_both_strands(npy, model, tmp_path):
    found, rows = npy(write_genome(tmp_path / "s.fa", SHORT), "--level", "base")
    assert [int(row[-1]) for row in rows] == [0, 50, 86] and len(found) == 98
    bases = SHORT["two"]
    reverse = alphabet.decode(alphabet.reverse_complement(alphabet.encode(bases)))
    expected = (hidden(model, bases, -1)[0] + hidden(model, reverse, -1)[0][::-1]) / 2
    assert np.abs(found[50:86] - expected)[known(bases)].max() < 1e-5
    assert (np.isnan(found).all(1) == ~known("".join(SHORT.values()))).all()


@pytest.mark.parametrize("stage", [0, 1])
def test_a_chunk_has_its_state_in_the_next_stage(npy, model, tmp_path, stage):
    source = write_genome(tmp_path / "s.fa", {"one": SHORT["one"]})
    options = ("--level", "chunk", "--strands", "forward", "--stage", stage, "--layer", stage + 2)
    found, rows = npy(source, *options)
    states, masks = hidden(model, SHORT["one"], stage + 2)
    starts = np.flatnonzero(masks[stage])
    assert [int(row[2]) for row in rows] == starts.tolist()
    assert [int(row[3]) for row in rows] == [*starts[1:].tolist(), 50]
    assert len(rows) > 1 and np.abs(found - states[: len(rows)]).max() < 1e-5
    assert float(rows[0][5]) == 1


@pytest.mark.parametrize("level", ["sequence", "chunk", "base"])
def test_embeddings_do_not_depend_on_batches(npy, tmp_path, level):
    source = write_genome(tmp_path / "g.fa", SHORT | GENOME)
    one, rows = npy(source, "--level", level, "--batch", 1)
    other, others = npy(source, "--level", level, "--batch", 1000)
    assert [row[:4] for row in rows] == [row[:4] for row in others]
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_regions_have_the_embeddings_of_the_genome(npy, tmp_path):
    genome = write_genome(tmp_path / "g.fa", GENOME)
    bed = tmp_path / "r.bed"
    bed.write_text("chr10\t100\t400\tb\nchr2\t30\t300\ta\nchr2\t290\t310\nchr2\t0\t500\tall\n")
    bases, _ = npy(genome, "--level", "base")
    offset = {"chr2": 0, "chr10": 500}
    places = [
        ("b", "chr10", 100, 400),
        ("a", "chr2", 30, 300),
        ("chr2:291-310", "chr2", 290, 310),
        ("all", "chr2", 0, 500),
    ]
    expected = [bases[offset[contig] + start : offset[contig] + end] for _, contig, start, end in places]
    found, rows = npy(genome, "--level", "base", "--bed", bed)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)
    assert [tuple(row[:4]) for row in rows] == [tuple(map(str, place)) for place in places]
    means, _ = npy(genome, "--bed", bed)
    np.testing.assert_allclose(means, [np.nanmean(part, axis=0) for part in expected], atol=1e-5)
    everything, all_rows = npy(genome, "--level", "chunk")
    chunks, rows = npy(genome, "--level", "chunk", "--bed", bed)
    for name, contig, start, end in places:
        inside = [
            i for i, row in enumerate(all_rows) if row[1] == contig and start <= int(row[2]) and int(row[3]) <= end
        ]
        of_region = [i for i, row in enumerate(rows) if row[0] == name]
        assert [rows[i][1:4] for i in of_region] == [all_rows[i][1:4] for i in inside]
        np.testing.assert_allclose(chunks[of_region], everything[inside], atol=1e-5)
    assert len(rows) > 50


@pytest.mark.parametrize("level", ["sequence", "chunk", "base"])
def test_parquet_and_npy_have_the_same_rows(npy, ldarnet, model, tmp_path, level):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    source = write_genome(tmp_path / "g.fa", SHORT | GENOME)
    expected, rows = npy(source, "--level", level)
    out = tmp_path / "new" / "out.parquet"
    status, printed, errors = ldarnet("embed", model, source, "--out", out, "--level", level, *SMALL)
    assert status == 0 and printed.startswith(f"wrote {out}: {len(expected):,} embeddings with 16 values each\n")
    assert ("1,038 bases with 16 values each: 66" in errors) == (level == "base")
    table = parquet.read_table(out)
    found = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(found, expected)
    columns = [table[name].to_pylist() for name in ("name", "contig", "start", "end", "strand")]
    if level == "base":
        rows = [
            [name, contig, str(at), str(at + 1), strand]
            for name, contig, start, end, strand, _ in rows
            for at in range(int(start), int(end))
        ]
    assert [[str(cell) for cell in row] for row in zip(*columns, strict=True)] == [row[:5] for row in rows]
    settings = json.loads(table.schema.metadata[b"ldarnet"])
    assert (settings["level"], settings["layer"], settings["window"]) == (level, 5, 64)
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]


def test_tables_have_the_embeddings_of_fasta_files(npy, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    expected, _ = npy(write_genome(tmp_path / "s.fa", SHORT))
    text = "".join(f"{name},{bases.lower()}\n" for name, bases in SHORT.items())
    (tmp_path / "s.csv").write_text("id,Sequence\n" + text)
    (tmp_path / "s.tsv").write_text("seq\n" + "".join(f"{bases}\n" for bases in SHORT.values()))
    parquet.write_table(pyarrow.table({"name": [*SHORT], "sequence": [*SHORT.values()]}), tmp_path / "s.parquet")
    for name in ("s.csv", "s.tsv", "s.parquet"):
        found, rows = npy(tmp_path / name)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert [row[0] for row in rows] == ([f"sequence:{i}" for i in (1, 2, 3)] if name == "s.tsv" else [*SHORT])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "name,sequence\na,ACGT\nb,ACEF\n", "line 3: 'E' is not a nucleotide code"),
        ("s.csv", "name,sequence\na,ACGT\nb,\n", "line 3: no sequence; remove the line"),
        ("s.csv", "name,sequence\na,ACGT,x\n", "line 2: 3 columns, but 2 in the header"),
        ("s.csv", "name,dna2\na,ACGT\n", "line 1: no column with sequences"),
        ("s.csv", "name,sequence\n", "no sequences"),
        ("s.csv", "", "line 1: no column with sequences"),
        ("s.fa", "", "empty; choose a FASTA"),
        ("s.parquet", "PAR1", "damaged or not Parquet"),
    ],
)
def test_bad_input_is_one_clear_error(ldarnet, model, tmp_path, name, text, message):
    if name == "s.parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / name).write_text(text)
    status, _, errors = ldarnet("embed", model, tmp_path / name, "--out", tmp_path / "out.npy", *SMALL)
    assert status == 1 and f"{tmp_path / name}: " in errors and message in errors
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("out.zarr", (), "zarr is not supported; write out.npy"),
        ("out.csv", (), "unknown format; choose a name that ends with .parquet or .npy"),
        ("out.npy", ("--layer", 6), "--layer 6: no such layer; choose 0 (embeddings) to 5"),
        ("out.npy", ("--layer", -7), "--layer -7: no such layer"),
        ("out.npy", ("--level", "chunk", "--stage", 2), "stage 2: this model has chunks only at stages 0 to 1"),
        ("out.npy", ("--stage", 0), "--stage: only for --level chunk"),
        ("out.npy", ("--region", "chr3"), "no contig chr3"),
    ],
)
def test_unusable_options_are_errors(ldarnet, model, tmp_path, out, options, message):
    source = write_genome(tmp_path / "s.fa", SHORT)
    status, _, errors = ldarnet("embed", model, source, "--out", tmp_path / out, *SMALL, *options)
    assert status != 0 and message in errors
    assert [path.name for path in tmp_path.iterdir()] == ["s.fa"]


def test_a_single_stack_has_sequences_but_no_chunks(ldarnet, tmp_path):
    single = save(tmp_path / "single", LDARNetModel, arch_layout=["m1"], d_model=[16], d_intermediate=[0])
    command = ("embed", single, write_genome(tmp_path / "s.fa", SHORT), "--out", tmp_path / "out.npy", *SMALL)
    assert ldarnet(*command)[0] == 0
    status, _, errors = ldarnet(*command, "--level", "chunk")
    assert status == 1 and "single stage and no chunks" in errors


def test_an_interrupted_command_leaves_the_previous_file(npy, ldarnet, model, tmp_path, monkeypatch):
    source = write_genome(tmp_path / "g.fa", GENOME)
    npy(source)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run, calls = Embedder.__call__, []

    def interrupted(embedder, batch):
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(embedder, batch)

    monkeypatch.setattr(Embedder, "__call__", interrupted)
    out = ("--out", tmp_path / "out.npy", "--batch", 1, *SMALL, "--level", "base")
    assert ldarnet("embed", model, source, *out)[0] == 130
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
