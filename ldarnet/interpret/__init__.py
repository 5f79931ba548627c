"""Pictures and tracks of what a model has learned."""

from ldarnet.interpret.boundaries import boundary_figure, boundary_track
from ldarnet.interpret.figures import training_figure

__all__ = ["boundary_figure", "boundary_track", "training_figure"]
