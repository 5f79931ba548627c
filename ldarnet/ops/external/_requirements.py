"""What the adapters declare about themselves: dtypes and the install command."""

import torch

INSTALL_KERNELS = 'pip install --no-build-isolation ".[kernels]"'
HALF = (torch.bfloat16, torch.float16)
