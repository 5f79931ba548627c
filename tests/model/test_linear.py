"""Linear layers: where TF32 is allowed, that it cannot move a boundary, and gradients of weights in float32."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model import linear
from ldarnet.model.chunking import learned
from ldarnet.model.linear import AutocastLinear, Fp32Linear, Tf32Terms, _HalfLinear, _Tf32Linear
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
    out = _Tf32Linear.apply(x, layer.weight, layer.bias, "float32", None)
    torch.testing.assert_close(out, layer(x))
    ours, expected = (torch.autograd.grad(y.sin().sum(), inputs) for y in (out, layer(x)))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_in_three_products_is_a_linear_layer(shape, bias):
    layer, x = Fp32Linear(3, 4, bias=bias), torch.randn(shape, requires_grad=True)
    inputs = [x, *layer.parameters()]
    for terms in (None, Tf32Terms.of(x.flatten(0, -2))):
        out = _Tf32Linear.apply(x, layer.weight, layer.bias, "tf32x3", terms)
        torch.testing.assert_close(out, layer(x))
        ours, expected = (torch.autograd.grad(y.sin().sum(), inputs) for y in (out, layer(x)))
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b)


def rounded_to_tf32(x):
    return ((x.view(torch.int32) + 2**12) & ~(2**13 - 1)).view(torch.float32)


class RoundedProducts(TorchDispatchMode):
    """Rounds the factors of matrix products to TF32, as a GPU does, and counts the products."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.calls += 1
            args = (*args[:-2], *(rounded_to_tf32(factor.contiguous()) for factor in args[-2:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("identity", [True, False], ids=["identity", "random"])
def test_three_products_in_tf32_are_as_exact_as_one_in_float32(identity):
    torch.manual_seed(0)
    width = 512
    weight = torch.randn(width, width) * (0.002 if identity else 0.02) + identity * torch.eye(width)
    x = torch.randn(256, width)
    expected, scale = x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T

    def error(y):
        return ((y.double() - expected) / scale).square().mean().sqrt().item()

    with RoundedProducts() as products:
        ours = _Tf32Linear.apply(x, weight, None, "tf32x3", None)
        once = _Tf32Linear.apply(x, weight, None, "float32", None)
    assert products.calls == 4
    assert error(ours) < 2 * error(x @ weight.T)
    assert ((ours.double() - expected).abs() <= 2**-19 * scale + width * 2**-24 * scale).all()
    assert error(once) > 100 * error(ours)


def test_terms_are_exact():
    x = torch.randn(64, 32) * 10.0 ** torch.randint(-6, 6, (64, 32))
    high, low = Tf32Terms.of(x)
    assert torch.equal(high + low, x) and torch.equal(high, rounded_to_tf32(high))
    assert (low.abs() <= 2**-10 * x.abs()).all()


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_layer_in_bf16(bias):
    layer, x = AutocastLinear(3, 4, bias=bias), torch.randn(2, 5, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
    out = _HalfLinear.apply(x.bfloat16(), layer.weight, layer.bias)
    assert torch.equal(out, expected)
    dout = torch.randn(2, 5, 4, dtype=torch.bfloat16)
    ours, theirs = (torch.autograd.grad(y, [x, *layer.parameters()], dout) for y in (out, expected))
    assert [gradient.dtype for gradient in ours] == [torch.float32] * len(ours)
    assert torch.equal(ours[0], theirs[0])
    rows, inputs = dout.flatten(0, 1).float(), x.detach().bfloat16().float().flatten(0, 1)
    torch.testing.assert_close(ours[1], rows.T @ inputs)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_layer_in_bf16_is_unchanged_without_autocast_on_a_gpu():
    layer, plain, x = AutocastLinear(3, 4), torch.nn.Linear(3, 4), torch.randn(5, 3)
    plain.load_state_dict(layer.state_dict())
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize(("output", "products"), [("float32", [None]), ("tf32", ["tf32"]), ("tf32x3", ["tf32"] * 3)])
def test_products_in_tf32(output, products):
    before = matmul.fp32_precision
    layer, x = Fp32Linear(3, 4), torch.randn(7, 3, requires_grad=True)
    with torch.autograd.set_multithreading_enabled(False), Precisions() as precisions:
        _Tf32Linear.apply(x, layer.weight, layer.bias, output, None).sum().backward()
    assert precisions.seen == [*(name or before for name in products), "tf32", "tf32"]
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
    rounded = [module for module in model.modules() if isinstance(module, Fp32Linear) and module.gpu_output == "tf32"]
    assert len(rounded) == len(before.boundaries) == 2
    for module in rounded:
        torch.nn.init.normal_(module.weight)
    after = model(ids)
    assert not torch.equal(before.logits, after.logits)
    for a, b in zip(before.boundaries, after.boundaries, strict=True):
        assert a.mask.float().mean() * len(a.mask[0]) > 1 and torch.equal(a.probability, b.probability)


@pytest.mark.parametrize("adapter", [False, True])
def test_router_in_three_products_places_the_same_boundaries(adapter, monkeypatch):
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    router = model.model.backbone.router
    for layer in (router.q_proj, router.k_proj):
        torch.nn.init.normal_(layer.weight)
    ids = torch.randint(0, 5, (2, 200))
    (before,) = model(ids).boundaries
    if adapter:  # a layer of another class takes one input
        plain = torch.nn.Linear(*router.k_proj.weight.shape, bias=False)
        plain.load_state_dict(router.k_proj.state_dict())
        router.k_proj = plain
    for module in (linear, learned):
        monkeypatch.setattr(module, "uses_tf32", lambda x: True)
    with Precisions() as precisions:
        (after,) = model(ids).boundaries
    assert precisions.seen.count("tf32") == (3 if adapter else 6) + 1  # and the residual path
    assert torch.equal(before.mask, after.mask)
    torch.testing.assert_close(before.probability, after.probability, rtol=0, atol=1e-6)
