"""The formulas that are compiled are the operations that they stand for."""

import pytest
import torch

from benchmarks.torch_compile import FORMULAS
from ldarnet.ops import Backend
from ldarnet.ops.verify import max_error


@pytest.mark.parametrize("operation", FORMULAS)
def test_formulas_agree_with_the_references(operation):
    backend = Backend(operation, "formula", FORMULAS[operation])
    assert max_error(backend, "cpu", torch.float64, (3, 40, 1)) < 1e-12
