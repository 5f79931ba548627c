"""Imports of every rank, loaded once by the fork server."""

from ldarnet.runtime.distributed import load_deepspeed

load_deepspeed()
