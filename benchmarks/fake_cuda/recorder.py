"""Dispatch mode that runs CUDA operations on fake tensors and records them; operations on host tensors run for real."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.fake_cuda.trace import ROOT, Operation, StepTrace
from ldarnet.model.cost import keys_per_query

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
GATHERS = ("index_select", "gather", "index", "embedding")
"""Operations that read only the selected rows of their first input."""
FREE = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "_reshape_alias"),
    *("lift_fresh", "lift", "detach", "alias", "set_", "resize_", "record_stream", "is_same_size"),
}
"""Operations that launch nothing, besides views."""
OVERWRITES = ("copy_", "fill_", "zero_", "normal_", "uniform_")
SEVERAL_LAUNCHES = {"nonzero": 3}
TENSORS_PER_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36}
"""Number of tensor lists of a multi-tensor operation -> tensors per launch (multi_tensor_apply in PyTorch)."""
BLOCK_ELEMENTS, BLOCKS_PER_LAUNCH = 65536, 320
TF32 = "tf32"
"""Dtype of a product of float32 matrices that are rounded to TF32."""
CONCATENATIONS = "concatenations"
GRADIENT_COPY = "ldarnet/ops/columns.py collect"
"""Function that copies gradients into the gradient of one wide tensor, if their kernel did not write them there."""
FP32_LINEAR = "ldarnet/model/linear.py"
"""File of a module whose matrix products are attributed to the module that calls it."""


class Recorder(TorchDispatchMode):
    """Records the device operations, host synchronizations and host-device copies of each step.

    Args:
        bases_per_chunk: assumed number of positions per boundary. A boundary mask has no values here, so this sets the
            number of its true elements.
    """

    def __init__(self, bases_per_chunk: float) -> None:
        super().__init__()
        self.phase = "start"
        self.steps: dict[str, StepTrace] = {}
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._bases_per_chunk = bases_per_chunk
        self._counts: defaultdict[str, Counter[Operation]] = defaultdict(Counter)
        self._pinned: list[Tensor] = []
        self.begin("set-up")

    def begin(self, name: str) -> None:
        """Start a step; later operations, waits and copies are recorded in this step."""
        self.step = self.steps.setdefault(name, StepTrace(name))

    def finish(self) -> dict[str, StepTrace]:
        """Return the recorded steps."""
        for name, step in self.steps.items():
            step.operations = [replace(key, calls=calls) for key, calls in self._counts[name].items()]
        return self.steps

    def count(
        self, part: str, name: str, tensors: Sequence[Tensor], *, launches: int = 1, flops: int = 0, place: str = ""
    ) -> None:
        """Record a kernel that reads or writes each tensor once."""
        moved = sum({id(tensor): size(tensor) for tensor in tensors}.values())
        dtype = str(tensors[0].dtype).removeprefix("torch.") if tensors else ""
        self._add(part, name, dtype, place, launches, moved, flops)

    def wait(self, place: str) -> None:
        """Record that the host waits for the device."""
        self.step.waits[place] = self.step.waits.get(place, 0) + 1

    def _add(self, part: str, name: str, dtype: str, where: str, launches: int, moved: int, flops: int) -> None:
        phase = "backward" if in_backward() else self.phase
        self._counts[self.step.name][Operation(phase, part, name, dtype, where, launches, moved, flops)] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(tensor.device.type == "cuda" for tensor in inputs)
        if name in ("_pin_memory", "is_pinned"):
            return self._pinning(name, inputs[0])
        if kwargs.get("pin_memory"):
            self._pinned.append(func(*args, **kwargs | {"pin_memory": None}))
            return self._pinned[-1]
        if not on_device and not str(kwargs.get("device", "")).startswith("cuda"):
            return func(*args, **kwargs)
        if on_device and (read := self._read(name, args, kwargs, inputs)) is not None:
            return read[0]
        if name not in ("_to_copy", "copy_") and any(tensor.is_cpu and tensor.dim() for tensor in inputs):
            self.step.mixed_devices.append(f"{name} {place()}")
        with self._fake:
            out = func(*args, **kwargs)
        if name in ("_to_copy", "copy_") and inputs[-1].is_cpu:
            self._to_device(inputs[-1], kwargs.get("non_blocking") or (name == "copy_" and bool(args[2:] and args[2])))
        if not func.is_view and name not in FREE:
            self._record(func, name, args, kwargs, out)
        return out

    def _pinning(self, name: str, tensor: Tensor) -> Any:
        if name == "is_pinned":
            return self._is_pinned(tensor)
        self._pinned.append(tensor.clone())
        return self._pinned[-1]

    def _is_pinned(self, tensor: Tensor) -> bool:
        pointer = tensor.untyped_storage().data_ptr()
        return any(pinned.untyped_storage().data_ptr() == pointer for pinned in self._pinned)

    def _read(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor]) -> list[Any] | None:
        """Record an operation that needs values of a device tensor on the host, and replace its result.

        Returns:
            A list that holds the result; None if this is another kind of operation.
        """
        first = inputs[0]
        match name:
            case "nonzero":
                self.wait(place())
                self.count("other PyTorch operations", name, inputs, launches=SEVERAL_LAUNCHES[name])
                rows = max(1, int(first.numel() / self._bases_per_chunk))
                with self._fake:
                    return [torch.empty(rows, first.dim(), dtype=torch.int64, device=first.device)]
            case "_local_scalar_dense" | "is_nonzero":
                self.wait(place())
                return [torch.full((), number_read(), dtype=first.dtype).item()]
            case "equal":
                self.wait(place())
                return [True]
            case "_to_copy" if torch.device(kwargs.get("device") or first.device).type == "cpu":
                self._to_host(first, kwargs.get("non_blocking", False))
                return [torch.full(first.shape, number_read(), dtype=kwargs.get("dtype") or first.dtype)]
            case "copy_" if first.is_cpu and not inputs[-1].is_cpu:
                self._to_host(inputs[-1], self._is_pinned(first) and bool(args[2:] and args[2]))
                return [first.fill_(number_read())]
        return None

    def _to_device(self, source: Tensor, asynchronous: bool) -> None:
        if not asynchronous:
            self.wait(place())
        elif not self._is_pinned(source):
            where = place()
            self.step.pageable_copies[where] = self.step.pageable_copies.get(where, 0) + 1

    def _to_host(self, source: Tensor, asynchronous: bool) -> None:
        if not asynchronous:
            self.wait(place())
        self.count("copies between host and device", "copy to host", [source])

    def _record(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        read, written = traffic(func, name, args, kwargs, out)
        tensors = [*read, *written]
        if not tensors:
            return
        lists = [value for value in (*args, *kwargs.values()) if isinstance(value, (list, tuple)) and value]
        lists = [value for value in lists if isinstance(value[0], Tensor)]
        several = name.startswith(("_foreach", "_fused")) and lists
        launches = multi_tensor_launches(lists) if several else SEVERAL_LAUNCHES.get(name, 1)
        flops, where = 0, ""
        first = next((tensor for tensor in tensors if tensor.is_floating_point()), tensors[0])
        dtype = str(first.dtype).removeprefix("torch.")
        if name in PRODUCTS:
            if dtype == "float32" and torch.backends.cuda.matmul.fp32_precision == "tf32":
                dtype = TF32
            flops = int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out))
            where = "" if in_backward() else place(FP32_LINEAR)
        elif name.startswith("_varlen_attn"):
            flops = attention_flops(name, func, args, kwargs)
        moved = gathered(read, written) if name in GATHERS else sum(map(size, tensors))
        part = part_of(name, dtype, self.phase)
        if name == "copy_" and in_backward() and place() == GRADIENT_COPY:
            part = CONCATENATIONS
        self._add(part, name, dtype, where, launches, moved, flops)


def size(tensor: Tensor) -> int:
    """Bytes of a tensor; expanded dimensions count once."""
    elements = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= length if stride or length == 0 else 1
    return elements


def gathered(read: list[Tensor], written: list[Tensor]) -> int:
    """Bytes of a gather: its indices, and the selected rows read and written."""
    return sum(map(size, read[1:])) + 2 * sum(map(size, written))


def traffic(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors that an operation reads, and tensors that it writes."""
    read: dict[int, Tensor] = {}
    written: dict[int, Tensor] = {}
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        tensors = {id(leaf): leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)}
        writes = argument.alias_info is not None and argument.alias_info.is_write
        if writes and argument.name != "grads":  # fused optimizers write gradients only if they scale them
            written |= tensors
        if not (writes and (argument.is_out or (name in OVERWRITES and number == 0))):
            read |= tensors
    results = out if isinstance(out, (list, tuple)) else [out]
    for returned, result in zip(func._schema.returns, results, strict=False):
        if returned.alias_info is None:
            written |= {id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
    return list(read.values()), list(written.values())


def multi_tensor_launches(lists: Sequence[Sequence[Tensor]]) -> int:
    """Number of launches for an operation on lists of tensors: PyTorch limits the tensors and blocks per launch."""
    blocks = sum(-(-tensor.numel() // BLOCK_ELEMENTS) for tensor in lists[0])
    per_launch = TENSORS_PER_LAUNCH[min(len(lists), max(TENSORS_PER_LAUNCH))]
    return max(-(-len(lists[0]) // per_launch), -(-blocks // BLOCKS_PER_LAUNCH), 1)


def attention_flops(name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """FLOPs of sliding-window attention: per visible key, two products in the forward pass and five in backward."""
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    query, length, window = given["query"], given["max_q"], given.get("window_size") or [-1, -1]
    keys = keys_per_query(length, max(window))
    return int((5 if "backward" in name else 2) * 2 * query.numel() * keys)


def part_of(name: str, dtype: str, phase: str) -> str:
    """Part of the step to which a PyTorch operation belongs."""
    if name in PRODUCTS:
        return f"matrix products, {dtype}"
    if name == "index_select":
        return "row gathers (index_select)"
    if name == "cat":
        return CONCATENATIONS
    if name.startswith(("_varlen_attn", "_flash", "_scaled_dot")):
        return "attention"
    if name.startswith(("_foreach", "_fused")) or (phase == "update" and not in_backward()):
        return "clipping, guard, optimizer"
    return "other PyTorch operations"


def number_read() -> int:
    """Stand-in for a number that the host reads from the device.

    1 in ``stage_metrics``, because it divides by the number; 0 everywhere else.
    """
    return int(any(frame.f_code.co_name == "stage_metrics" for frame in _frames()))


def place(hidden: str = "") -> str:
    """File and function of the innermost caller in `ldarnet`; if there is none, of the innermost one in a benchmark.

    Callers in the file `hidden` are skipped.
    """
    other = ""
    for frame in _frames():
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        file = path.removeprefix(f"{ROOT}/")
        if file in (path, hidden) or name.startswith("<"):
            continue
        if file.startswith("ldarnet/"):
            return f"{file} {name}"
        if file.startswith("benchmarks/") and not file.startswith("benchmarks/fake_cuda/"):
            other = other or f"{file} {name}"
    return other or "PyTorch"


def in_backward() -> bool:
    """Whether autograd is running a backward pass."""
    return torch._C._current_graph_task_id() != -1


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
