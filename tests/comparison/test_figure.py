"""The figure stays within the range of a metric, and arms are distinguishable."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ldarnet.comparison import figure as figure_module
from ldarnet.comparison.reading import read_arms
from tests.support.made_results import make_run


@pytest.fixture
def draw_arms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Draw arms from their fold values and return the figure."""
    figures: list[Figure] = []

    @contextmanager
    def capture(out: Path, width: float, height: float) -> Iterator[Figure]:
        figures.append(Figure(figsize=(width, height)))
        yield figures[-1]

    monkeypatch.setattr(figure_module, "png_figure", capture)

    def draw(values: dict[str, list[float]], task: str = "nt/H3") -> Figure:
        arms = {arm: make_run(tmp_path / arm, task, folds) for arm, folds in values.items()}
        figure_module.draw(read_arms(arms), tmp_path / "unused.png")
        return figures[-1]

    return draw


def lines(figure: Figure, marker: str) -> list[Line2D]:
    return [line for line in figure.axes[0].get_lines() if line.get_marker() == marker]


def test_interval_is_clipped_at_the_limit_of_the_metric_with_an_arrow(draw_arms: Any) -> None:
    figure = draw_arms({"a": [-0.9, 0.0, 0.9], "b": [0.80, 0.81, 0.82]})
    low, high = figure.axes[0].get_xlim()
    assert -1.2 < low < -1 and 1 < high < 1.2
    assert [list(np.atleast_1d(lines(figure, arrow)[0].get_xdata())) for arrow in "<>"] == [[-1], [1]]
    assert len(lines(figure, "<")) == len(lines(figure, ">")) == 1  # for the first arm only
    assert "arrow" in figure.axes[0].get_xlabel()


def test_accuracy_is_clipped_at_0(draw_arms: Any) -> None:
    figure = draw_arms({"a": [0.1, 0.9, 0.1]}, task="gb/human_enhancers_cohn")
    assert [list(np.atleast_1d(lines(figure, arrow)[0].get_xdata())) for arrow in "<>"] == [[0], [1]]


def test_two_folds_are_drawn_without_interval(draw_arms: Any) -> None:
    figure = draw_arms({"a": [0.0, 0.484]})
    low, high = figure.axes[0].get_xlim()
    assert low > -0.1 and high < 1
    assert [list(np.asarray(dots.get_xdata())) for dots in lines(figure, ".")] == [[0.0, 0.484]]
    assert "dots: single folds" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize("folds", [[0.5], [0.5, 0.5], [0.5, 0.5, 0.5]])
def test_constant_folds_are_drawn_without_dots(draw_arms: Any, folds: list[float]) -> None:
    figure = draw_arms({"a": folds})
    assert "dots" not in figure.axes[0].get_xlabel()
    assert sum(len(np.asarray(dots.get_xdata())) for dots in lines(figure, ".")) == 0


def test_six_arms_differ_in_color_and_marker(draw_arms: Any) -> None:
    arms = {f"arm {number}": [0.5 + 0.01 * number] for number in range(6)}
    found = [line for line in draw_arms(arms).axes[0].get_lines() if line.get_label() in arms]
    assert len({to_hex(line.get_color()) for line in found}) == len({line.get_marker() for line in found}) == 6
