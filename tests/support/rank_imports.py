"""Imports of every rank, loaded once by the fork server."""

from importlib import import_module

from ldarnet.runtime.distributed import load_deepspeed

MODULES = (
    "ldarnet.pretraining.results",
    "ldarnet.finetuning.run",
    "ldarnet.cli",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "mlflow.store.tracking.sqlalchemy_store",
)

load_deepspeed()  # first: it hides MLflow while it imports DeepSpeed
for module in MODULES:
    import_module(module)
