import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from ldarnet.errors import UserError
from ldarnet.interpret import training_figure


@pytest.fixture
def axes_drawn(monkeypatch):
    seen = []
    save = Figure.savefig

    def spy(figure, *args, **kwargs):
        seen.extend(figure.axes)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


def write_metrics(path, steps, *, every=0, stages=1):
    with path.open("w") as file:
        for step in range(1, steps + 1):
            values = {"mlm_loss": 1.3 + 0.6 / step, "bases": 4096 * step, "bases_per_chunk": [4.5, 3.0][:stages]}
            file.write(json.dumps({"step": step, "split": "train", "loss": 2.0, **values}) + "\n")
            if every and step % every == 0:
                values = {"mlm_loss": 1.31, "mask_loss": 1.34, "bases_per_chunk": [4.4, 2.9][:stages]}
                file.write(json.dumps({"step": step, "split": "valid", **values}) + "\n")
    return path


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize(("steps", "every", "stages"), [(1, 0, 1), (1, 1, 1), (2, 0, 2), (50, 10, 2), (5000, 500, 1)])
def test_figure_of_any_number_of_steps(tmp_path, axes_drawn, steps, every, stages):
    out = tmp_path / "figures" / "training.png"
    training_figure(write_metrics(tmp_path / "m.jsonl", steps, every=every, stages=stages), out)
    assert imread(out).shape[0] > 300
    loss, compression = axes_drawn
    assert loss.get_ylabel() == "nats per target position"
    assert compression.get_ylabel() == "bases per chunk"
    assert compression.get_xlabel() == "bases seen"
    assert labels(loss) == (["training", "validation", "validation, masked positions"] if every else ["training"])
    assert sum(label.startswith("training") for label in labels(compression)) == stages


def test_x_values_are_bases_seen(tmp_path, axes_drawn):
    training_figure(
        write_metrics(tmp_path / "m.jsonl", 40, every=20), tmp_path / "o.png", entropy=1.358, target_ratio=4.0
    )
    loss, compression = axes_drawn
    lines = {line.get_label(): line for line in loss.lines}
    assert lines["validation, masked positions"].get_xdata().tolist() == [20 * 4096, 40 * 4096]
    assert lines["validation, masked positions"].get_ydata().tolist() == [1.34, 1.34]
    assert set(lines["unigram baseline, 1.358"].get_ydata()) == {1.358}
    assert set({line.get_label(): line for line in compression.lines}["target, 4"].get_ydata()) == {4.0}
    low, high = loss.get_ylim()
    assert low < 1.3 < 1.358 < high
    assert compression.get_ylim() == (1, 8)


@pytest.mark.parametrize("masked", [1.3101, 1.31, 1.3099])
def test_labels_of_the_last_losses_do_not_overlap(tmp_path, axes_drawn, masked):
    path = write_metrics(tmp_path / "m.jsonl", 40, every=20)
    path.write_text(path.read_text().replace('"mask_loss": 1.34', f'"mask_loss": {masked}'))
    training_figure(path, tmp_path / "o.png")
    lower, upper = (text.get_window_extent() for text in axes_drawn[0].texts)
    assert lower.y1 <= upper.y0


def test_each_stage_has_a_target_line(tmp_path, axes_drawn):
    training_figure(write_metrics(tmp_path / "m.jsonl", 40, stages=2), tmp_path / "o.png", target_ratio=3.0)
    lines = {line.get_label(): line for line in axes_drawn[1].lines}
    assert set(lines["target, 3"].get_ydata()) == {3.0}
    assert set(lines["target, 9"].get_ydata()) == {9.0}
    assert {"training, stage 0", "training, stage 1"} <= lines.keys()


def test_smoothing_preserves_the_mean(tmp_path, axes_drawn):
    path = tmp_path / "m.jsonl"
    noise = np.random.default_rng(0).normal(0, 0.1, 1000)
    rows = [
        {"step": i, "split": "train", "mlm_loss": 1.3 + x, "bases": i, "bases_per_chunk": [4.0]}
        for i, x in enumerate(noise)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training_figure(path, tmp_path / "o.png")
    raw, smooth = (np.asarray(line.get_ydata()) for line in axes_drawn[0].lines[:2])
    assert len(raw) == len(smooth) == 1000
    assert smooth.std() < raw.std() / 3
    assert smooth.mean() == pytest.approx(raw.mean(), abs=0.01)


def test_the_last_of_repeated_steps_is_drawn_and_an_incomplete_line_ignored(tmp_path, axes_drawn):
    path = write_metrics(tmp_path / "m.jsonl", 5)
    repeated = path.read_text().splitlines()[-1].replace("1.42", "1.25")
    path.write_text(path.read_text() + repeated + "\n" + '{"step": 6, "spl')
    training_figure(path, tmp_path / "o.png")
    assert axes_drawn[0].lines[0].get_ydata().tolist()[-1] == 1.25


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("", "no training step"), ('{"a": 1}\n{"step": 1, "split": "train"}\n', "line 1")],
)
def test_invalid_metrics_file_is_an_error(tmp_path, content, message):
    path = tmp_path / "m.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        training_figure(path, tmp_path / "o.png")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "o.png").exists()
