"""Environment variables of the programs that trials run."""

import os

from ldarnet.config.resources import TrialResources
from ldarnet.redaction import has_credentials, redact

SECRETS = ("PASSWORD", "TOKEN")
"""Suffixes of the names of environment variables that hold secrets."""


def trial_environment(
    resources: TrialResources, gpus: float, tracking_uri: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Environment variables that configure MLflow and the number of CPU threads; without GPUs, they also hide the GPUs.

    Args:
        resources: resources of the trial.
        gpus: GPUs of the trial.
        tracking_uri: MLflow tracking URI; None if tracking is disabled.

    Returns:
        Two dicts: variables that override those of the node, and defaults for variables that the node does not set.
    """
    # Remote nodes do not inherit MLflow settings. Ray writes the variables to files, so secrets are excluded.
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("MLFLOW_") and not name.endswith(SECRETS) and not has_credentials(value)
    }
    defaults: dict[str, str] = {}
    if tracking_uri is not None:
        target = defaults if has_credentials(tracking_uri) else variables
        target["MLFLOW_TRACKING_URI"] = redact(tracking_uri)
    variables["OMP_NUM_THREADS"] = str(max(int(resources.cpus / resources.ranks), 1))
    if not gpus:
        variables |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return variables, defaults
