"""Supported dtypes and install command of the adapters."""

import torch

INSTALL_KERNELS = 'pip install --no-build-isolation ".[kernels]"'
HALF = (torch.bfloat16, torch.float16)
