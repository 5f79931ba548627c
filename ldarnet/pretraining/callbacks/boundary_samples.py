"""Write the boundaries along one held-out window to boundaries.jsonl after each validation."""

from typing import Any

from ldarnet.io import run_files
from ldarnet.pretraining.boundary_sample import boundary_sample
from ldarnet.pretraining.callbacks.base import register
from ldarnet.pretraining.callbacks.metrics_file import JsonLinesWriter


@register(order=60)
class BoundarySamples(JsonLinesWriter):
    """Writes boundaries.jsonl; does nothing for a model without chunks."""

    file_name = run_files.BOUNDARIES

    def on_validation(self, line: dict[str, Any]) -> None:
        """Compute the boundaries along the window and append them to the file."""
        run = self.context
        if sample := boundary_sample(run.engine, run.inputs.shards, run.config, run.world, run.inputs.boundaries):
            self.write({"step": line["step"], **sample})
