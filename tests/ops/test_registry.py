"""Registry and dispatch of backends."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ldarnet.errors import UserError
from ldarnet.ops import (
    Backend,
    KernelOptions,
    backends_of,
    choose_backends,
    input_dtype,
    operations,
    resolve,
    skip_reason,
)
from ldarnet.ops.registry import register
from ldarnet.ops.verify import TOLERANCES, max_error

OPERATIONS = {"ssd", "convolution", "dechunk", "attention", "add_norm", "gated_norm", "rotary", "router", "swiglu"}


@pytest.fixture
def registered():
    """Register backends of ``swiglu`` for one test."""
    known = backends_of("swiglu")
    before = dict(known)
    resolve.cache_clear()
    yield lambda name, **settings: register("swiglu", name, **settings)
    known.clear()
    known.update(before)
    resolve.cache_clear()


def plain_swiglu(x):
    return backends_of("swiglu")["torch"].function(x)


def test_every_operation_has_a_reference_for_every_device_and_dtype():
    assert set(operations()) == OPERATIONS
    for operation in operations():
        first = next(iter(backends_of(operation).values()))
        assert first.name == "torch"
        assert not first.unsupported_reason("anything", torch.float64)


def test_auto_on_a_cpu_is_the_reference():
    assert choose_backends("cpu", torch.float32) == dict.fromkeys(OPERATIONS, "torch")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"ssd": "mamba-ssm"}, "ops.ssd=mamba-ssm is not supported: runs on cuda, not on cpu"),
        ({"ssd": "nonesuch"}, "unknown backend 'nonesuch'; choose auto or one of torch"),
        ({"nonesuch": "torch"}, "unknown operation 'nonesuch'; choose one of"),
    ],
)
def test_an_unsupported_override_is_an_error_with_a_hint(override, message):
    with pytest.raises(UserError, match=message):
        choose_backends("cpu", torch.float32, KernelOptions(override))


def test_auto_prefers_the_backend_that_was_registered_last(registered):
    registered("good")(plain_swiglu)
    registered("better")(plain_swiglu)
    assert resolve("swiglu", "cpu", torch.float32).name == "better"
    assert resolve("swiglu", "cpu", torch.float32, "good").name == "good"


def test_auto_skips_backends_of_other_dtypes(registered):
    registered("half", dtypes=(torch.bfloat16,))(plain_swiglu)
    assert resolve("swiglu", "cpu", torch.float32).name == "torch"
    assert resolve("swiglu", "cpu", torch.bfloat16).name == "half"
    with pytest.raises(UserError, match="supports bfloat16, not float32"):
        resolve("swiglu", "cpu", torch.float32, "half")


def test_auto_skips_a_kernel_that_does_not_match_the_reference_and_logs_why(registered, caplog):
    registered("wrong")(lambda x: plain_swiglu(x) * 1.1)
    assert resolve("swiglu", "cpu", torch.float32).name == "torch"
    assert "skipping ops.swiglu=wrong: does not match the reference" in caplog.text
    assert "does not match the reference on this device: relative error 0.1" in skip_reason(
        backends_of("swiglu")["wrong"], "cpu", torch.float32
    )


def test_auto_skips_a_kernel_with_a_wrong_gradient(registered):
    registered("wrong")(lambda x: plain_swiglu(x) * 2 - plain_swiglu(x).detach())
    assert "does not match the reference" in skip_reason(backends_of("swiglu")["wrong"], "cpu", torch.float32)


def test_auto_skips_a_kernel_that_fails(registered):
    def broken(x):
        raise RuntimeError("no image for this device\nlong trace")

    registered("broken")(broken)
    assert resolve("swiglu", "cpu", torch.float32).name == "torch"
    reason = skip_reason(backends_of("swiglu")["broken"], "cpu", torch.float32)
    assert reason == "failed on this device: RuntimeError: no image for this device"


def test_a_kernel_may_be_verified_inside_a_checkpointed_layer_under_autocast(registered):
    registered("right")(plain_swiglu)
    x = torch.randn(4, 6, requires_grad=True)

    def layer(x):
        return resolve("swiglu", "cpu", torch.float32).function(x * 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = checkpoint(layer, x, use_reentrant=False)
    y.sum().backward()
    assert resolve("swiglu", "cpu", torch.float32).name == "right"
    assert x.grad.isfinite().all()


def test_choose_backends_returns_what_a_bf16_model_uses():
    seen = choose_backends("cpu", torch.bfloat16)
    assert seen == {name: resolve(name, "cpu", input_dtype(name, torch.bfloat16)).name for name in OPERATIONS}
    assert {name for name in OPERATIONS if input_dtype(name, torch.bfloat16) == torch.float32} == {
        "add_norm",
        "dechunk",
        "router",
    }


def test_running_out_of_memory_during_verification_is_not_a_mismatch(registered):
    def full(x):
        raise torch.OutOfMemoryError("full")

    registered("full")(full)
    with pytest.raises(torch.OutOfMemoryError):
        resolve("swiglu", "cpu", torch.float32)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_reference_passes_verification_in_every_dtype(operation, dtype):
    reference = backends_of(operation)["torch"]
    assert isinstance(reference, Backend)
    error = max_error(reference, "cpu", dtype, [5, 1, 70], width=16)
    assert error <= TOLERANCES[dtype]
    assert (error == 0) == (dtype == torch.float64)


@pytest.mark.parametrize("operation", sorted(OPERATIONS - {"attention", "convolution"}))
def test_bf16_inputs_are_computed_in_float32_and_rounded_once(operation):
    reference = backends_of(operation)["torch"]
    assert max_error(reference, "cpu", torch.bfloat16, [5, 1, 400], width=16) <= 2**-8
