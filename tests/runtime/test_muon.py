"""Muon's update equals that of PyTorch; skipped steps change nothing; DeepSpeed cannot replace the optimizer."""

import copy
from types import SimpleNamespace

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.config.optimization import OptimizerSection
from ldarnet.errors import UserError
from ldarnet.runtime.deepspeed_internals import Fragment, check_groups
from ldarnet.runtime.distributed import World
from ldarnet.runtime.muon import MATRIX_ROWS, MuonAdamW
from ldarnet.runtime.optimizer import build_optimizer, parameter_groups
from tests.support.plain_muon import PlainMuon

CONFIG = OptimizerSection(name="muon", lr=1e-2, weight_decay=0.1)


def whole(parameter: torch.nn.Parameter, _: int) -> Fragment:
    """Fragment of a rank that updates the whole parameter."""
    return Fragment(parameter, 0, 0, parameter.numel())


def built(world: World) -> tuple[LDARNetForMaskedLM, MuonAdamW]:
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    optimizer = build_optimizer(parameter_groups(model, CONFIG), CONFIG)
    assert isinstance(optimizer, MuonAdamW)
    optimizer.locate(whole, world)
    return model, optimizer


def set_gradients(seed: int, *models: LDARNetForMaskedLM) -> None:
    for model in models:
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)


def test_steps_equal_those_of_pytorch(world):
    model, optimizer = built(world)
    first, reference = dict(copy.deepcopy(model).named_parameters()), copy.deepcopy(model)
    plain = PlainMuon(parameter_groups(reference, CONFIG), CONFIG)
    for step in range(4):
        set_gradients(step, model, reference)
        for group in (*optimizer.param_groups, *plain.param_groups):
            group["lr"] = group["base_lr"] / (step + 1)
        optimizer.step()
        plain.step()
    for (name, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        # The orthogonalization is in bf16, and batched products of small matrices may be rounded differently.
        tolerance = 5e-3 if name in model.matrix_rows() else 1e-5
        assert (found - expected).norm() <= tolerance * (expected - first[name]).norm(), name


def test_a_skipped_step_changes_nothing(world):
    model, optimizer = built(world)
    set_gradients(0, model)
    optimizer.step()

    def state() -> list[torch.Tensor]:
        moments = [tensor for entry in optimizer.state.values() for tensor in entry.values()]
        return [tensor.detach().clone() for tensor in (*model.parameters(), *moments)]

    before = state()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(map(torch.equal, state(), before))
    set_gradients(1, model)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert not any(map(torch.equal, state(), before))


def test_groups(world):
    model, optimizer = built(world)
    kinds = [f"stage{stage}/{kind}" for stage in (0, 1) for kind in ("decay", "muon", "no_decay")]
    assert [group["name"] for group in optimizer.param_groups] == kinds
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([3e-2] * 3 + [1e-2] * 3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0] * 2
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon = [group for group in optimizer.param_groups if MATRIX_ROWS in group]
    assert {names[id(one)] for group in muon for one in group["params"]} == model.matrix_rows().keys()
    for name, parameter in model.named_parameters():
        matrix = name in model.matrix_rows()
        assert optimizer.moments(parameter) == (("momentum_buffer",) if matrix else ("exp_avg", "exp_avg_sq"))


def test_a_replaced_optimizer_is_an_error(world):
    _, optimizer = built(world)
    groups = list(optimizer.param_groups)
    check_groups(optimizer, optimizer, groups)
    check_groups(SimpleNamespace(optimizer=optimizer), optimizer, groups)
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    with pytest.raises(UserError, match="it replaced the optimizer MuonAdamW by SGD"):
        check_groups(SimpleNamespace(optimizer=sgd), optimizer, groups)
    optimizer.param_groups = [dict(group) for group in groups]
    with pytest.raises(UserError, match="it replaced the parameter groups"):
        check_groups(optimizer, optimizer, groups)


def test_partitions_that_miss_a_part_of_a_matrix_are_an_error(world):
    _, optimizer = built(world)
    with pytest.raises(UserError, match="do not contain every matrix exactly once"):
        optimizer.locate(lambda one, _: Fragment(one, 0, 0, one.numel() - 1), world)
