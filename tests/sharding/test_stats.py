import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from ldarnet.data import ShardSet
from ldarnet.data.index import Index
from ldarnet.errors import UserError
from ldarnet.genome.iupac import IUPAC_CODES
from ldarnet.program import call
from sharding.build import build
from sharding.composition import GC_BINS, GC_WINDOW, Segments, count_blocks, count_set
from sharding.stats import main, n50, short

RUN = st.tuples(st.sampled_from((IUPAC_CODES + IUPAC_CODES.lower()).decode()), st.integers(1, 30))
SEQUENCE = st.lists(RUN, min_size=1, max_size=15).map(lambda runs: "".join(letter * times for letter, times in runs))


def naive(text: str) -> list[int]:
    count = Counter(text.upper())
    named = [count[letter] for letter in "ACGTN"]
    return [*named, len(text) - sum(named), sum(letter.islower() for letter in text)]


def counted(folder: Path) -> np.ndarray:
    shards = ShardSet.open(folder)
    return count_blocks(shards, range(len(shards.index.blocks)), Segments(shards.index)).letters


def name_species(folder: Path, names: list[str], species: list[int]) -> None:
    """Assign the contigs of a set to species."""
    index = Index.load(folder)
    contigs = replace(index.contigs, species_names=names, species=np.array(species))
    replace(index, contigs=contigs).save(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequences=st.lists(SEQUENCE, min_size=1, max_size=3), block=st.integers(1, 60), data=st.data())
def test_counts_of_each_split_equal_a_naive_count(tmp_path_factory, sequences, block, data):
    folder = tmp_path_factory.mktemp("count")
    sequences = ["ACGT", *sequences]
    (folder / "in.fa").write_text("".join(f">c{number}\n{text}\n" for number, text in enumerate(sequences)))
    lines, expected = ["c0\t0\t4\ttrain"], {"train": "ACGT", "other": ""}
    for number, text in enumerate(sequences[1:], start=1):
        cuts = sorted({0, *data.draw(st.lists(st.integers(0, len(text)), max_size=5)), len(text)})
        for start, stop in pairwise(cuts):
            split = data.draw(st.sampled_from(("train", "other")))
            expected[split] += text[start:stop]
            if split != "other":
                lines.append(f"c{number}\t{start}\t{stop}\t{split}")
    (folder / "splits.bed").write_text("\n".join(lines))
    build(folder / "set", [folder / "in.fa"], splits_bed=folder / "splits.bed", block=block)
    assert counted(folder / "set")[0].tolist() == [naive(expected["train"]), naive(expected["other"])]


def test_species_are_counted_separately_with_any_number_of_workers(tmp_path):
    texts = ["ACGTN" * 30_000, "ggccRYa" * 20_000, "TTTT" * 25_000]
    (tmp_path / "in.fa").write_text("".join(f">c{number}\n{text}\n" for number, text in enumerate(texts)))
    build(tmp_path / "set", [tmp_path / "in.fa"], contig_splits={"valid": ["c1"]}, block=1000)
    name_species(tmp_path / "set", ["mouse", "yeast"], [0, 1, 0])
    shards = ShardSet.open(tmp_path / "set")
    done: list[int] = []
    counts = count_set(shards, 2, done.append)
    assert sum(done) == sum(map(len, texts))
    assert counts.letters[0].tolist() == [naive(texts[0] + texts[2]), [0] * 7, [0] * 7]
    assert counts.letters[1].tolist() == [[0] * 7, naive(texts[1]), [0] * 7]
    alone = count_set(shards, 1, done.append)
    assert (alone.letters == counts.letters).all() and (alone.gc == counts.gc).all()


def test_gc_windows_ignore_ambiguity_codes(tmp_path):
    at, gc, half = "AT" * (GC_WINDOW // 2), "GC" * (GC_WINDOW // 2), "AG" * (GC_WINDOW // 2)
    few_n, most_n = "N" * 4000 + "GT" * 3000, "N" * 6000 + "G" * 4000
    rest = "G" * (GC_WINDOW - 1)
    (tmp_path / "in.fa").write_text(f">c\n{at}{gc}{half}{few_n}{most_n}{rest}\n")
    build(tmp_path / "set", [tmp_path / "in.fa"])
    shards = ShardSet.open(tmp_path / "set")
    histogram = count_blocks(shards, [0], Segments(shards.index)).gc[0]
    assert {row: histogram[row] for row in np.flatnonzero(histogram).tolist()} == {0: 1, 50: 2, GC_BINS - 1: 1}


@pytest.mark.parametrize(("lengths", "expected"), [([5], 5), ([1, 1, 1, 1], 1), ([10, 6, 4, 1], 6), ([10, 5, 5], 10)])
def test_n50(lengths, expected):
    assert n50(np.array(lengths)) == expected


@pytest.mark.parametrize(
    ("bases", "text"),
    [
        (0, "0 b"),
        (999, "999 b"),
        (924_431, "924 kb"),
        (63_025_520, "63 Mb"),
        (174 * 10**9, "174 Gb"),
        (10**13, "10,000 Gb"),
    ],
)
def test_lengths_have_three_digits(bases, text):
    assert short(bases) == text


@pytest.fixture
def three(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    with (tmp_path / "in.fa").open("w") as file:
        for number, length in enumerate((90_000, 40_000, 30_000, 200)):
            file.write(f">c{number}\n{''.join(generator.choice(list('ACGTacgt'), length))}NNNN\n")
    build(tmp_path / "set", [tmp_path / "in.fa"], contig_splits={"valid": ["c1"], "test": ["c3"]}, block=20_000)
    name_species(tmp_path / "set", ["human", "yeast"], [0, 0, 1, 1])
    return tmp_path / "set"


def test_tables_and_plots_are_written(three, tmp_path, capsys):
    assert call(main, [str(three), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"valid +1 +40 kb +5\d\.\d% +0\.0% +0 +\d\d\.\d%|valid +1 +40 kb", printed)
    assert re.search(r"yeast +2 +30 kb +30\.2 kb", printed)
    figures = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert figures["total"]["bases"] == 160_216
    assert figures["total"]["letters"]["N"] == 16
    assert figures["species"]["human"]["n50"] == 90_004
    assert figures["species"]["yeast"]["splits"]["test"]["bases"] == 204
    assert 0.45 < figures["total"]["masked_share"] < 0.55
    assert sum(figures["species"]["human"]["gc_of_10000_base_windows"]) == 13
    packed = sum(path.stat().st_size for path in three.iterdir())
    assert figures["total"]["bytes"] == packed
    markdown = (tmp_path / "out" / "stats.md").read_text()
    assert "| human | 2 | 90 kb | 130 kb |" in markdown
    assert f"| bits per base on disk | {8 * packed / 160_216:.3f} |" in markdown
    assert "| masked | packed bits/base |" in markdown
    for name in ("composition", "gc", "contigs", "splits"):
        plot = matplotlib.image.imread(tmp_path / "out" / f"{name}.png")
        assert plot.shape[0] > 300 and plot.std() > 0.05
        assert f"![{name}]({name}.png)" in markdown


def test_nothing_is_written_without_an_output_folder(three, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert call(main, [str(three), "--workers", "1"]) == 0
    assert "Splits by species" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_many_species_are_truncated_on_the_terminal_but_not_in_files(tmp_path, capsys):
    (tmp_path / "in.fa").write_text("".join(f">c{number}\n{'ACGT' * (number + 5)}\n" for number in range(60)))
    build(tmp_path / "set", [tmp_path / "in.fa"])
    name_species(tmp_path / "set", [f"species{number}" for number in range(60)], list(range(60)))
    assert call(main, [str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "species59 " in printed and "species2 " not in printed and "and 20 more" in printed
    assert "| species2 |" in (tmp_path / "out" / "stats.md").read_text()


def test_bad_arguments_and_damage_are_reported(three, tmp_path):
    with pytest.raises(UserError, match=r"--workers.*greater than or equal to 1"):
        call(main, [str(three), "--workers", "0"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is a file, not a folder; choose another --out"):
        call(main, [str(three), "--workers", "1", "--out", str(tmp_path / "file")])
    shard = next(three.glob("shard-*.tar"))
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=rf"{shard.name}"):
        call(main, [str(three), "--workers", "2"])


def test_names_of_any_kind_break_neither_plots_nor_tables(tmp_path, monkeypatch, capsys):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **more: (figures.append(self), save(self, *args, **more))
    )
    names = ["$x_{y$", "_hidden", "a|b<c>", "\x1b[31mred"]
    shown = [*names[:3], r"\x1b[31mred"]
    (tmp_path / "in.fa").write_text("".join(f">c{number}\n{'ACGT' * 50}\n" for number in range(4)))
    build(tmp_path / "set", [tmp_path / "in.fa"])
    name_species(tmp_path / "set", names, [0, 1, 2, 3])
    assert call(main, [str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    drawn = {text.get_text().strip() for figure in figures for text in figure.findobj(Text)}
    assert set(shown) <= drawn
    legend = [text.get_text().strip() for text in figures[2].axes[1].get_legend().get_texts()]
    assert sorted(legend) == sorted(shown)
    markdown, printed = (tmp_path / "out" / "stats.md").read_text(), capsys.readouterr().out
    assert "| a\\|b\\<c\\> |" in markdown
    assert all(name in printed for name in shown)
    assert "\x1b" not in markdown + printed
