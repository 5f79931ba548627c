"""Compiled PyTorch operations agree with their references."""

import pytest
import torch

from benchmarks.torch_compile import PYTORCH_OPS
from ldarnet.ops import Backend
from ldarnet.ops.verify import max_error


@pytest.mark.parametrize("operation", PYTORCH_OPS)
def test_operations_agree_with_the_references(operation):
    backend = Backend(operation, "pytorch", PYTORCH_OPS[operation])
    assert max_error(backend, "cpu", torch.float64, (3, 40, 1)) < 1e-12
