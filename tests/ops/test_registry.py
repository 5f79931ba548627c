"""Choosing between backends."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ldarnet.errors import UserError
from ldarnet.ops import Backend, backends_of, choose_backends, input_dtype, operations, resolve, skip_reason
from ldarnet.ops.registry import register
from ldarnet.ops.verify import TOLERANCES, max_error

OPERATIONS = {"ssd", "convolution", "dechunk", "attention", "add_norm", "gated_norm", "swiglu"}


@pytest.fixture
def registered():
    """Registers backends of ``swiglu`` for one test."""
    known = backends_of("swiglu")
    before = dict(known)
    resolve.cache_clear()
    yield lambda name, **settings: register("swiglu", name, **settings)
    known.clear()
    known.update(before)
    resolve.cache_clear()


def plain_swiglu(x):
    return backends_of("swiglu")["torch"].function(x)


def test_every_operation_has_a_reference_that_runs_everywhere():
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
        ({"ssd": "nonesuch"}, "no backend 'nonesuch'; choose auto or one of torch"),
        ({"nonesuch": "torch"}, "no operation 'nonesuch'; the operations are"),
    ],
)
def test_a_demand_that_cannot_be_met_fails_with_the_remedy(override, message):
    with pytest.raises(UserError, match=message):
        choose_backends("cpu", torch.float32, override)


def test_auto_prefers_the_backend_that_was_registered_last(registered):
    registered("good")(plain_swiglu)
    registered("better")(plain_swiglu)
    assert resolve("swiglu", "cpu", torch.float32).name == "better"
    assert resolve("swiglu", "cpu", torch.float32, "good").name == "good"


def test_auto_passes_over_what_takes_other_dtypes(registered):
    registered("half", dtypes=(torch.bfloat16,))(plain_swiglu)
    assert resolve("swiglu", "cpu", torch.float32).name == "torch"
    assert resolve("swiglu", "cpu", torch.bfloat16).name == "half"
    with pytest.raises(UserError, match="takes bfloat16, not float32"):
        resolve("swiglu", "cpu", torch.float32, "half")


def test_auto_passes_over_a_kernel_that_is_wrong_here_and_says_why(registered, caplog):
    registered("wrong")(lambda x: plain_swiglu(x) * 1.1)
    assert resolve("swiglu", "cpu", torch.float32).name == "torch"
    assert "skipping ops.swiglu=wrong: differs here" in caplog.text
    assert "differs here from the reference by 0.1" in skip_reason(backends_of("swiglu")["wrong"], "cpu", torch.float32)


def test_auto_passes_over_a_kernel_whose_gradient_is_wrong(registered):
    registered("wrong")(lambda x: plain_swiglu(x) * 2 - plain_swiglu(x).detach())
    assert "differs here" in skip_reason(backends_of("swiglu")["wrong"], "cpu", torch.float32)


def test_auto_passes_over_a_kernel_that_fails_here_and_says_why(registered):
    def broken(x):
        raise RuntimeError("no image for this device\nlong trace")

    registered("broken")(broken)
    assert resolve("swiglu", "cpu", torch.float32).name == "torch"
    reason = skip_reason(backends_of("swiglu")["broken"], "cpu", torch.float32)
    assert reason == "does not run here: RuntimeError: no image for this device"


def test_a_kernel_may_be_tried_for_the_first_time_within_a_recomputed_layer_under_autocast(registered):
    registered("right")(plain_swiglu)
    x = torch.randn(4, 6, requires_grad=True)

    def layer(x):
        return resolve("swiglu", "cpu", torch.float32).function(x * 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = checkpoint(layer, x, use_reentrant=False)
    y.sum().backward()
    assert resolve("swiglu", "cpu", torch.float32).name == "right"
    assert x.grad.isfinite().all()


def test_what_is_told_of_a_bf16_model_is_what_it_uses():
    seen = choose_backends("cpu", torch.bfloat16)
    assert seen == {name: resolve(name, "cpu", input_dtype(name, torch.bfloat16)).name for name in OPERATIONS}
    assert {name for name in OPERATIONS if input_dtype(name, torch.bfloat16) == torch.float32} == {
        "add_norm",
        "dechunk",
    }


def test_no_memory_for_a_trial_is_no_verdict_on_the_kernel(registered):
    def full(x):
        raise torch.OutOfMemoryError("full")

    registered("full")(full)
    with pytest.raises(torch.OutOfMemoryError):
        resolve("swiglu", "cpu", torch.float32)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_reference_agrees_with_itself_in_every_dtype(operation, dtype):
    reference = backends_of(operation)["torch"]
    assert isinstance(reference, Backend)
    error = max_error(reference, "cpu", dtype, [5, 1, 70], width=16)
    assert error <= TOLERANCES[dtype]
    assert (error == 0) == (dtype == torch.float64)


@pytest.mark.parametrize("operation", sorted(OPERATIONS - {"attention", "convolution"}))
def test_bf16_inputs_are_computed_in_float32_and_rounded_once(operation):
    reference = backends_of(operation)["torch"]
    assert max_error(reference, "cpu", torch.bfloat16, [5, 1, 400], width=16) <= 2**-8
