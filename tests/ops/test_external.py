"""Adapters for third-party kernels: compared with the references on a GPU; with stubs or an interpreter elsewhere."""

import sys
from contextlib import nullcontext
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from ldarnet.errors import UserError
from ldarnet.ops import DEFAULT_SIZES, Packing, backends_of, external, operations
from ldarnet.ops.external.mamba_ssm import mamba_scan
from ldarnet.ops.verify import TOLERANCES, Sizes, max_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = [[17], [1000], [5, 64, 1, 200, 63], [30, 0, 70]]
ADAPTERS = [
    backend
    for operation in operations()
    for backend in backends_of(operation).values()
    if backend.function.__module__.startswith(external.__name__)
]
ATTENTION = [("torch.nn.attention.varlen", "varlen_attn", "torch-varlen")]
ATTENTION += [("flash_attn", "flash_attn_varlen_func", "flash-attn")]
ATTENTION += [("flash_attn_interface", "flash_attn_varlen_func", "flash-attn-3")]
NEEDS_MAMBA = (
    "needs mamba-ssm; its Triton part is enough: MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE "
    "pip install --no-build-isolation --no-deps mamba-ssm einops"
)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda backend: f"{backend.operation}={backend.name}")
def test_matches_the_reference_on_a_gpu(adapter, lengths, width, directions):
    if reason := adapter.unsupported_reason(DEVICE, torch.bfloat16):
        pytest.skip(reason)
    sizes = Sizes.uniform(width)._replace(directions=directions)
    assert max_error(adapter, DEVICE, torch.bfloat16, lengths, sizes=sizes) <= TOLERANCES[torch.bfloat16]


@pytest.mark.parametrize("features", [12, 264])
@pytest.mark.parametrize("name", [name for _, _, name in ATTENTION])
def test_unsupported_head_dimensions_are_rejected(name, features):
    q = torch.zeros(5, 2, features)
    with pytest.raises(UserError, match=rf"={name}: head dimension {features} must be .*; set ops\.attention=torch"):
        backends_of("attention")[name].function(q, q, q, Packing.of_lengths(torch.tensor([5]), 5, 5), -1)


@pytest.fixture
def interpreted(monkeypatch):
    """Make mamba-ssm's scan run under Triton's interpreter."""
    pytest.importorskip("triton", reason="needs Triton: pip install triton")
    if find_spec("mamba_ssm") is None:
        pytest.skip(NEEDS_MAMBA)
    if DEVICE == "cuda":
        pytest.skip("needs a machine without a GPU, where Triton kernels are interpreted")
    from triton.runtime.autotuner import Autotuner

    mamba_scan()
    loaded = [module for name, module in sys.modules.items() if name.startswith("mamba_ssm.ops.triton")]
    for kernel in {value for module in loaded for value in vars(module).values() if isinstance(value, Autotuner)}:
        monkeypatch.setattr(kernel, "configs", kernel.configs[:1])
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(multi_processor_count=4))


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3)], ids=str)
def test_mamba_ssm_scan_under_the_interpreter(dtype, tolerance, directions):
    # Not bfloat16: the interpreter would multiply its raw bit patterns.
    adapter = backends_of("ssd")["mamba-ssm"]
    sizes = Sizes.uniform(16)._replace(directions=directions)
    assert max_error(adapter, "cpu", dtype, [5, 20, 1, 0, 30], sizes=sizes) < tolerance
    assert "mamba_ssm" not in sys.modules


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
def test_mamba_ssm_scan_in_the_sizes_of_the_models():
    adapter, sizes = backends_of("ssd")["mamba-ssm"], DEFAULT_SIZES._replace(heads=1)
    assert max_error(adapter, "cpu", torch.float32, [20, 0, 11], sizes=sizes) < 1e-5


def plain_causal_conv(x, weight, bias, seq_idx, activation):
    """Plain causal-conv1d. Shapes: x (1, C, T), weight (C, W), bias (C,), seq_idx (1, T)."""
    assert seq_idx.dtype == torch.int32 and activation == "silu" and x.stride(1) == 1
    W = weight.shape[1]
    out = bias[None, :, None].expand_as(x)
    for back in range(W):
        same = F.pad(seq_idx, (back, 0), value=-1)[:, : seq_idx.shape[1]] == seq_idx
        out = out + weight[:, W - 1 - back, None] * F.pad(x, (back, 0))[..., : x.shape[2]] * same
    return F.silu(out)


@pytest.mark.parametrize("directions", [1, 2])
def test_convolution_reverses_sequences_for_causal_conv1d(directions, monkeypatch):
    fake = ModuleType("causal_conv1d")
    fake.causal_conv1d_fn = plain_causal_conv
    monkeypatch.setitem(sys.modules, "causal_conv1d", fake)
    adapter = backends_of("convolution")["causal-conv1d"]
    sizes = Sizes.uniform(8)._replace(directions=directions)
    assert max_error(adapter, "cpu", torch.float64, [5, 20, 1, 0, 30], sizes=sizes) < 1e-9


def plain_scan(x, dt, a, b, c, chunk_size, *, D, dt_bias, dt_softplus, seq_idx):
    """Plain scan of mamba-ssm. Shapes: x (1, T, H, P), dt (1, T, H), a (H,), b and c (1, T, groups, N)."""
    assert dt_softplus and seq_idx.dtype == torch.int32
    heads, (dt, x) = x.shape[2] // b.shape[2], (F.softplus(dt + dt_bias)[0], x[0])
    b, c = (value[0].repeat_interleave(heads, 1) for value in (b, c))
    rows, state = [], torch.zeros_like(b[0][:, :, None] * x[0][:, None])
    for t, sequence in enumerate(seq_idx[0].tolist()):
        if t and sequence != seq_idx[0, t - 1]:
            state = torch.zeros_like(state)
        step = dt[t][:, None, None]
        state = (step * a[:, None, None]).exp() * state + step * b[t][:, :, None] * x[t][:, None]
        rows.append((c[t][:, :, None] * state).sum(1) + D[:, None] * x[t])
    return torch.stack(rows)[None]


@pytest.mark.parametrize("directions", [1, 2])
def test_scan_reverses_sequences_for_mamba_ssm(directions, monkeypatch):
    monkeypatch.setattr("ldarnet.ops.external.mamba_ssm.mamba_scan", lambda: plain_scan)
    sizes = Sizes.uniform(4)._replace(directions=directions)
    assert max_error(backends_of("ssd")["mamba-ssm"], "cpu", torch.float64, [5, 12, 1, 0, 3], sizes=sizes) < 1e-9


@pytest.mark.parametrize(
    ("window", "causal", "visible"), [(3, False, (3, 3)), (3, True, (3, 0)), (-1, False, (-1, -1)), (-1, True, (-1, 0))]
)
@pytest.mark.parametrize(("module", "function", "name"), ATTENTION, ids=[name for *_, name in ATTENTION])
def test_attention_passes_sequence_boundaries_and_windows(module, function, name, window, causal, visible, monkeypatch):
    seen = {}

    def fake_function(q, k, v, starts_q, starts_k, longest_q, longest_k, *, window_size):
        seen.update(starts=[starts_q, starts_k], longest=[longest_q, longest_k], window=window_size)
        return q + k + v

    fake = ModuleType(module)
    setattr(fake, function, fake_function)
    monkeypatch.setitem(sys.modules, module, fake)
    q, k, v = torch.randn(3, 12, 2, 8).unbind()
    packing = Packing(torch.tensor([0, 5, 5, 12]), total=12, max_length=10)
    out = backends_of("attention")[name].function(q, k, v, packing, window, causal)
    assert torch.equal(out, q + k + v)
    assert seen["longest"] == [10, 10] and seen["window"] == visible
    assert all(starts.dtype == torch.int32 and starts.tolist() == [0, 5, 5, 12] for starts in seen["starts"])
    assert packing.__dict__.keys() == {"starts", "total", "max_length", "padding", "known_lengths"}, (
        "the adapter computed unneeded attributes"
    )
