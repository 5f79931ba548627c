"""Host memory of checkpoints is reused, and its contents do not depend on later training."""

import torch

from ldarnet.runtime.host_buffers import HostBuffers

CPU = torch.device("cpu")


def named(*tensors):
    return iter([(str(number), tensor) for number, tensor in enumerate(tensors)])


def test_copies_are_independent_of_the_tensors_and_reuse_their_memory():
    buffers, weight = HostBuffers(CPU), torch.nn.Parameter(torch.randn(3, 4))
    first = buffers.copy(named(weight, weight.detach().T), keep=True)
    expected = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    buffers.wait()
    assert first["0"].equal(expected)
    assert first["1"].equal(expected.T)
    assert all(copy.is_contiguous() and not copy.requires_grad for copy in first.values())
    second = buffers.copy(named(weight, torch.ones(4, 3)), keep=True)
    assert [second[name].data_ptr() for name in first] == [copy.data_ptr() for copy in first.values()]
    assert not second["0"].any()


def test_a_tensor_of_another_shape_or_dtype_gets_memory_of_its_own():
    buffers = HostBuffers(CPU)
    for tensor in (torch.zeros(3), torch.ones(1), torch.ones(1, dtype=torch.float64)):
        copy = buffers.copy(named(tensor), keep=True)["0"]
        assert copy.equal(tensor)
        assert copy.dtype == tensor.dtype


def test_ranks_that_keep_nothing_still_exhaust_the_iterator():
    tensors = named(torch.zeros(3), torch.zeros(2))
    assert HostBuffers(CPU).copy(tensors, keep=False) == {}
    assert list(tensors) == []
