from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import encode
from ldarnet.errors import UserError
from ldarnet.interpret import boundary_figure, boundary_track
from ldarnet.interpret.boundaries import chunk_lengths, draw_boundaries, token_spans
from ldarnet.tokenization import tokenization


class Scripted(torch.nn.Module):
    """Model stand-in with fixed boundary masks, outermost stage first; an inner mask has one entry per outer chunk."""

    device = torch.device("cpu")

    def __init__(self, *masks):
        super().__init__()
        self.masks = [torch.tensor(mask, dtype=torch.bool) for mask in masks]

    def forward(self, input_ids):
        stages = [
            SimpleNamespace(probability=(0.25 + 0.5 * mask.float())[None], mask=mask[None]) for mask in self.masks
        ]
        return SimpleNamespace(boundaries=tuple(stages))


@pytest.fixture
def axes_drawn(monkeypatch):
    """Axes of the saved figure, in order of creation."""
    seen = []
    save = Figure.savefig

    def spy(figure, *args, **kwargs):
        seen.extend(figure.axes)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


def random_ids(length, seed=0):
    return np.random.default_rng(seed).integers(0, 5, length).astype(np.uint8)


def test_inner_stages_are_mapped_to_bases():
    outer = [1, 0, 1, 1, 0, 0, 1]
    inner = [1, 0, 1, 0]  # one entry per outer chunk, which start at bases 0, 2, 3, 6
    (p0, m0), (p1, m1) = boundary_track(Scripted(outer, inner), random_ids(7))
    assert m0.tolist() == [bool(x) for x in outer]
    assert p0.tolist() == [0.75 if x else 0.25 for x in outer]
    assert np.flatnonzero(m1).tolist() == [0, 3]
    assert p1.tolist() == [0.75, 0, 0.25, 0.75, 0, 0, 0.25]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_track_equals_model_output_in_evaluation_mode(dtype):
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).train()
    ids = random_ids(300).astype(dtype)
    tracks = boundary_track(model, ids)
    assert model.training
    model.eval()
    with torch.no_grad():
        stages = model(torch.from_numpy(ids.astype(np.int64))[None]).boundaries
    assert len(tracks) == len(stages)
    np.testing.assert_array_equal(tracks[0][0], stages[0].probability[0].numpy())
    np.testing.assert_array_equal(tracks[0][1], stages[0].mask[0].numpy())
    boundary_track(model, ids)
    assert not model.training


@pytest.mark.parametrize("ids", [np.zeros(0, np.uint8), np.zeros((1, 5), np.uint8)])
def test_track_needs_a_single_nonempty_sequence(ids):
    with pytest.raises(UserError, match="at least one base"):
        boundary_track(Scripted([1]), ids)


TOKENIZERS = [{"method": "kmers", "k": 3}, {"method": "bpe", "merges": ["A C", "AC G"]}]


@pytest.mark.parametrize("settings", TOKENIZERS, ids=["kmers", "bpe"])
@given(text=st.text("ACGTN", max_size=50), window=st.integers(1, 60))
def test_the_tokens_of_a_model_cover_the_sequence(settings, text, window):
    model = SimpleNamespace(config=SimpleNamespace(num_stages=1, tokenizer=settings))
    found = list(token_spans(model, text, window=window))
    assert "".join(text[start:end] for start, end in found) == text
    assert all(start // window == (end - 1) // window for start, end in found)
    tokenizer = tokenization(settings)
    for offset in range(0, len(text), window):
        tokens = tokenizer.encode(encode(text[offset : offset + window]))
        inside = [text[start:end] for start, end in found if offset <= start < offset + window]
        assert ["N" if "N" in piece else piece for piece in inside] == [tokenizer.tokens[token] for token in tokens]


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_chunk_lengths_sum_to_the_sequence_length(rest):
    mask = np.array([True, *rest])
    lengths = chunk_lengths(mask)
    assert len(lengths) == mask.sum()
    assert lengths.sum() == len(mask)
    assert lengths.min() >= 1


@pytest.mark.parametrize(
    ("length", "mask"),
    [(1, [1]), (2, [1, 0]), (60, [1] * 60), (61, [1] + [0] * 60), (1500, ([1, 0, 0, 0, 0] * 300))],
    ids=["one base", "two bases", "all boundaries", "no boundary but the first", "long"],
)
def test_figure_shows_lengths_and_coordinates(tmp_path, axes_drawn, length, mask):
    out = tmp_path / "figures" / "boundaries.png"
    boundary_figure(Scripted(mask), random_ids(length), "chrI", 999, out, title="A title")
    assert imread(out).shape[0] > 300
    assert [path.name for path in out.parent.iterdir()] == ["boundaries.png"]
    *rows, sequence, lengths = axes_drawn
    assert len(rows) == min(2, -(-length // 60))
    assert lengths.get_title("left") == f"{length / sum(mask):.2f} bases per chunk"
    assert sum(bar.get_height() for bar in lengths.patches) == sum(mask)
    assert sequence.get_title("left") == f"Whole sequence, {length:,} bp"
    assert sequence.get_xlim() == (999.5, 999.5 + length)
    assert "1,000" in [label.get_text() for label in rows[0].get_xticklabels()]
    assert f"chrI:1,000–{999 + length:,}" in [text.get_text() for text in rows[0].figure.texts]  # noqa: RUF001


def test_figure_draws_bases_and_chunks_of_the_first_rows(tmp_path, axes_drawn):
    ids = random_ids(90)
    mask = (np.arange(90) % 4 == 0).tolist()
    boundary_figure(Scripted(mask), ids, "c", 0, tmp_path / "b.png")
    first, second, *_ = axes_drawn
    assert "".join(text.get_text() for text in [*first.texts, *second.texts]) == "".join("ACGTN"[i] for i in ids)
    boxes = [[p for p in axes.patches if type(p).__name__ == "FancyBboxPatch"] for axes in (first, second)]
    assert list(map(len, boxes)) == [15, 8]
    colored = {bar.get_x() + bar.get_width() / 2: bar.get_facecolor() for bar in first.patches if bar not in boxes[0]}
    at_boundary = {color for position, color in colored.items() if round(position) % 4 == 0}
    elsewhere = {color for position, color in colored.items() if round(position) % 4}
    assert len(at_boundary) == len(elsewhere) == 1
    assert at_boundary != elsewhere


def test_figure_of_two_stages_marks_inner_chunks(tmp_path, axes_drawn):
    boundary_figure(Scripted([1, 0] * 20, [1, 0, 0, 0] * 5), random_ids(40), "c", 0, tmp_path / "b.png")
    brackets = [line for line in axes_drawn[0].lines if np.diff(line.get_xdata())[0] > 1]
    assert [round(np.diff(line.get_xdata())[0]) for line in brackets] == [8] * 5


def test_figure_without_boundaries_has_a_title_that_says_so():
    figure = Figure()
    draw_boundaries(figure, "ACGT", [(np.zeros(4), np.zeros(4, dtype=bool))], 0)
    assert figure.axes[-1].get_title() == "no boundaries"
