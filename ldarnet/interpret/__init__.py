"""Compute and plot chunk boundaries; plot the metrics of a training run."""

from ldarnet.interpret.boundaries import boundary_figure, boundary_track
from ldarnet.interpret.figures import training_figure

__all__ = ["boundary_figure", "boundary_track", "training_figure"]
