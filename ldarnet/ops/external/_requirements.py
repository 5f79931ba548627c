"""Dtypes and install command that several adapters share."""

import torch

INSTALL_KERNELS = 'pip install --no-build-isolation ".[kernels]"'
HALF = (torch.bfloat16, torch.float16)
