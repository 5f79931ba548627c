"""The recipe for a new kernel: one file, found, verified and dispatched without any other change."""

import sys

import pytest
import torch

from ldarnet.ops import KernelOptions, backends_of, external, kernel_for, kernels, resolve, skip_reason
from ldarnet.ops.verify import TOLERANCES, max_error
from ldarnet.plugins import load_folder

EXTERNAL = """
from ldarnet.ops.registry import register

@register("swiglu", "toy")
def swiglu(x_TF):
    y, gate = x_TF.chunk(2, dim=-1)
    return gate.sigmoid() * gate * y
"""
TRITON = """
def attention(q, k, v, packing, window):
    from ldarnet.ops import backends_of
    return backends_of("attention")["torch"].function(q, k, v, packing, window)
"""


@pytest.fixture(autouse=True)
def unchanged_registry():
    before = {operation: dict(backends_of(operation)) for operation in ("swiglu", "attention")}
    resolve.cache_clear()
    yield
    for operation, backends in before.items():
        backends_of(operation).clear()
        backends_of(operation).update(backends)
    resolve.cache_clear()
    for name in ("ldarnet.ops.external.toy", "ldarnet.ops.kernels.attention"):
        sys.modules.pop(name, None)


def test_a_file_in_external_is_registered_verified_and_dispatched(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(EXTERNAL)
    monkeypatch.setattr(external, "__path__", [*external.__path__, str(tmp_path)])
    load_folder(external.__name__)
    toy = backends_of("swiglu")["toy"]
    for dtype in (torch.float64, torch.float32):
        assert max_error(toy, "cpu", dtype, [5, 1, 70]) <= TOLERANCES[dtype]
    assert skip_reason(toy, "cpu", torch.float32) == ""
    x = torch.randn(4, 6)
    assert resolve("swiglu", "cpu", torch.float32) is toy  # auto prefers the backend registered last
    assert kernel_for("swiglu", x, KernelOptions({"swiglu": "toy"})) is toy.function
    assert kernel_for("swiglu", x, KernelOptions({"swiglu": "torch"})) is backends_of("swiglu")["torch"].function


def test_a_file_in_kernels_named_after_an_operation_is_registered_and_imported_on_first_use(tmp_path, monkeypatch):
    (tmp_path / "attention.py").write_text(TRITON)
    (tmp_path / "helpers.py").write_text("raise AssertionError('not named after an operation')")
    monkeypatch.setattr(kernels, "__path__", [*kernels.__path__, str(tmp_path)])
    kernels.register_kernels()
    kernel = backends_of("attention")["triton"]
    assert "ldarnet.ops.kernels.attention" not in sys.modules
    assert kernel.unsupported_reason("cpu", torch.float32) == "runs on cuda, not on cpu"
    assert max_error(kernel, "cpu", torch.float32, [5, 1, 70], width=16) <= TOLERANCES[torch.float32]
