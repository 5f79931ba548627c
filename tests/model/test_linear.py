"""Layers in at least float32: where TF32 is allowed, and that it cannot move a boundary."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.linear import Fp32Linear, _Tf32Linear
from ldarnet.ops import tf32

matmul = torch.backends.cuda.matmul


class Precisions(TorchDispatchMode):
    """Records the float32 precision of each matrix product."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.seen.append(matmul.fp32_precision)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_a_linear_layer(shape, bias):
    layer = Fp32Linear(3, 4, bias=bias).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    out = _Tf32Linear.apply(x, layer.weight, layer.bias, False)
    torch.testing.assert_close(out, layer(x))
    ours, expected = (torch.autograd.grad(y.sin().sum(), inputs) for y in (out, layer(x)))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("tf32_output", [True, False])
def test_products_in_tf32(tf32_output):
    before = matmul.fp32_precision
    layer, x = Fp32Linear(3, 4), torch.randn(7, 3, requires_grad=True)
    with torch.autograd.set_multithreading_enabled(False), Precisions() as precisions:
        _Tf32Linear.apply(x, layer.weight, layer.bias, tf32_output).sum().backward()
    assert precisions.seen == ["tf32" if tf32_output else before, "tf32", "tf32"]
    assert matmul.fp32_precision == before


def test_tf32_restores_the_precision_after_an_error():
    before = matmul.fp32_precision

    def failing_product():
        with tf32():
            raise RuntimeError(matmul.fp32_precision)

    with pytest.raises(RuntimeError, match="tf32"):
        failing_product()
    assert matmul.fp32_precision == before


def test_layers_with_outputs_in_tf32_do_not_affect_boundaries():
    settings = {"num_heads": [2, 2, 2], "rotary_emb_dim": [8, 8, 8], "window_size": [7, 3, -1]}
    config = LDARNetConfig.preset(
        "tiny", arch_layout=["m1", ["t1", ["m1"], "m1"], "m1"], d_model=[16, 16, 24], d_intermediate=[0, 0, 0],
        attn_cfg=settings,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(config)
    for module in model.modules():
        if isinstance(module, Fp32Linear):
            torch.nn.init.normal_(module.weight)
    ids = torch.randint(0, 5, (2, 200))
    before = model(ids)
    rounded = [module for module in model.modules() if isinstance(module, Fp32Linear) and module.tf32_output]
    assert len(rounded) == len(before.boundaries) == 2
    for module in rounded:
        torch.nn.init.normal_(module.weight)
    after = model(ids)
    assert not torch.equal(before.logits, after.logits)
    for a, b in zip(before.boundaries, after.boundaries, strict=True):
        assert a.mask.float().mean() * len(a.mask[0]) > 1 and torch.equal(a.probability, b.probability)
