"""Copies between host and device keep values, shapes and precision."""

from pathlib import Path

import pytest
import torch

from ldarnet.ops.transfer import HOST_WAITS, to_device, to_host

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_bytes_are_widened_to_the_same_values():
    ids, labels = torch.arange(256, dtype=torch.uint8), torch.arange(-128, 128, dtype=torch.int8)
    assert to_device(ids, CPU, torch.int64).tolist() == list(range(256))
    assert to_device(labels, CPU, torch.int64).tolist() == list(range(-128, 128))
    assert to_device(ids, CPU) is ids


def test_many_tensors_reach_the_host_in_one_copy(monkeypatch):
    copies, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor) or cpu(tensor))
    counts = torch.tensor([[2**53 - 1, -3], [0, 1]])
    loss = torch.tensor(1 / 3, dtype=torch.float32, requires_grad=True)
    found = to_host([counts, loss, torch.zeros(0, 3), 2.5], CPU)
    assert len(copies) == 1
    assert [tensor.shape for tensor in found] == [(2, 2), (), (0, 3), ()]
    assert found[0].long().equal(counts)
    assert [found[1].item(), found[3].item()] == [loss.item(), 2.5]


@pytest.mark.parametrize("place", sorted(HOST_WAITS))
def test_listed_waits_exist(place):
    file, function = place.split()
    assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8")
