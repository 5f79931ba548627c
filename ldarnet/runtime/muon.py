"""Muon for the matrices of the hidden layers, AdamW for all other parameters.

The update is that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (arXiv 2502.16982), reimplemented because
torch's class cannot skip a step on the device and needs whole matrices. DeepSpeed's flat partitions (ZeRO stages 1 to
3) cut matrices between ranks: each rank updates the momentum of its fragments, and the fragments of a cut matrix are
all-reduced before the orthogonalization. Fused projections are orthogonalized part by part.

DeepSpeed's own Muon is not used: it clips orthogonalized updates instead of gradients, treats a fused projection as one
matrix, and scales the learning rate differently.

Shapes: B matrices, R rows, C columns.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from ldarnet.config.optimization import AdamWSection
from ldarnet.runtime.deepspeed_internals import ADAMW_MOMENTS, MUON_MOMENTS, Fragment, unsupported
from ldarnet.runtime.distributed import World

MATRIX_ROWS = "matrix_rows"
"""Key of a Muon parameter group: for each parameter, the number of rows of each matrix stacked in it."""
MOMENTUM, ITERATIONS, COEFFICIENTS, EPS = 0.95, 5, (3.4445, -4.7750, 2.0315), 1e-7
"""Defaults of `torch.optim.Muon`."""
RMS = 0.2
"""Root mean square of AdamW's updates, which Muon's updates match."""


@dataclass(frozen=True)
class _Matrix:
    """A matrix, and the elements of it that this rank updates.

    Attributes:
        shape: rows and columns.
        flat: tensor in the parameter groups that contains the local elements.
        start: index of the first local element in `flat`.
        offset: index of the first local element in the flattened matrix.
        size: number of local elements.
        cut: whether a rank has only some of the elements.
    """

    shape: tuple[int, int]
    flat: Tensor
    start: int
    offset: int
    size: int
    cut: bool = False

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def local(self, flat: Tensor) -> Tensor:
        """The local elements in a tensor that is laid out like `self.flat`."""
        return flat.view(-1).narrow(0, self.start, self.size)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the parameter groups with the key `MATRIX_ROWS`, fused AdamW for the others.

    Both skip the step on the device if `found_inf` is 1. Call `locate` before the first step.

    Args:
        groups: parameter groups with `name`, `lr` and `weight_decay`.
        config: AdamW settings.
    """

    found_inf: Tensor | None = None

    def __init__(self, groups: list[dict], config: AdamWSection) -> None:
        super().__init__(groups, {"betas": config.betas, "eps": config.eps, "fused": True})
        self._adamw = torch.optim.AdamW(self._groups(muon=False), betas=config.betas, eps=config.eps, fused=True)
        self._adamw.state = self.state
        self._stacks = [
            (index, parameter, parameter.shape[1], rows)
            for index, group in enumerate(self.param_groups)
            for parameter, rows in zip(group["params"], group.get(MATRIX_ROWS, ()), strict=False)
        ]
        self._muon_tensors = {id(parameter) for _, parameter, _, _ in self._stacks}
        self._matrices: list[_Matrix] = []

    def _groups(self, *, muon: bool) -> list[dict]:
        return [group for group in self.param_groups if (MATRIX_ROWS in group) == muon]

    def moments(self, tensor: Tensor) -> tuple[str, ...]:
        """Keys of the moments of a parameter, or of a flat partition of parameters."""
        return MUON_MOMENTS if id(tensor) in self._muon_tensors else ADAMW_MOMENTS

    def locate(self, find: Callable[[nn.Parameter, int], Fragment], world: World) -> None:
        """Locate the matrices in the tensors that DeepSpeed put into the parameter groups; every rank must call this.

        Args:
            find: function of a parameter and the index of its group that returns the fragment that this rank updates.
            world: the process group.

        Raises:
            UserError: the fragments of the ranks do not add up to whole matrices; raised on all ranks.
        """
        matrices = []
        for index, parameter, columns, stack in self._stacks:
            fragment = find(parameter, index)
            for last, rows in zip(accumulate(stack), stack, strict=True):
                first = (last - rows) * columns
                begin = max(fragment.offset, first)
                size = max(0, min(fragment.offset + fragment.size, last * columns) - begin)
                start = fragment.start + begin - fragment.offset if size else 0
                matrices.append(_Matrix((rows, columns), fragment.flat, start, begin - first if size else 0, size))
        sizes = world.sum_on_host(*(matrix.size for matrix in matrices))
        parts = world.sum_on_host(*(0 < matrix.size < matrix.numel for matrix in matrices))
        if any(size not in (one.numel, one.numel * world.size) for size, one in zip(sizes, matrices, strict=True)):
            raise unsupported("its partitions do not contain every matrix exactly once")
        self._matrices = [
            _Matrix(one.shape, one.flat, one.start, one.offset, one.size, bool(part))
            for one, part in zip(matrices, parts, strict=True)
        ]
        self._muon_tensors |= {id(matrix.flat) for matrix in matrices}
        self._world = world

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters; DeepSpeed may put only some of the groups, or of their tensors, into the groups."""
        self._adamw.param_groups = self._groups(muon=False)
        setattr(self._adamw, "found_inf", self.found_inf)  # noqa: B010 (undeclared attribute)
        self._adamw.step()
        flats = [
            (flat, group) for group in self._groups(muon=True) for flat in group["params"] if flat.grad is not None
        ]
        updates = {id(flat): self._accumulate(flat) for flat, _ in flats}
        self._orthogonalize([matrix for matrix in self._matrices if id(matrix.flat) in updates], updates)
        for flat, group in flats:
            decayed = flat * (1 - group["lr"] * group["weight_decay"])
            self._keep(flat, decayed.sub_(updates[id(flat)], alpha=group["lr"]))

    def _accumulate(self, flat: Tensor) -> Tensor:
        """Add the gradient to the momentum, and return the sum of both (Nesterov)."""
        assert flat.grad is not None
        state = self.state[flat]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(flat)
        momentum = state["momentum_buffer"].lerp(flat.grad, 1 - MOMENTUM)
        self._keep(state["momentum_buffer"], momentum)
        return flat.grad.lerp(momentum, MOMENTUM)

    def _orthogonalize(self, matrices: list[_Matrix], updates: dict[int, Tensor]) -> None:
        """Replace the matrices in `updates` by orthogonal ones with the root mean square of AdamW's updates."""
        by_shape: dict[tuple[int, int], list[tuple[_Matrix, Tensor]]] = {}
        for matrix, whole in self._whole(matrices, updates):
            by_shape.setdefault(matrix.shape, []).append((matrix, whole))
        for shape, entries in by_shape.items():
            result_BRC = orthogonalize(torch.stack([whole for _, whole in entries]))
            scaled_BRC = result_BRC.float() * (RMS * math.sqrt(max(shape)))
            for (matrix, _), scaled in zip(entries, scaled_BRC, strict=True):
                matrix.local(updates[id(matrix.flat)]).copy_(scaled.flatten().narrow(0, matrix.offset, matrix.size))

    def _whole(self, matrices: list[_Matrix], updates: dict[int, Tensor]) -> Iterator[tuple[_Matrix, Tensor]]:
        """Yield the matrices of which this rank has elements, with all elements; every rank must exhaust this."""
        device = self._world.device
        cut = [matrix for matrix in matrices if matrix.cut]
        if cut:
            gathered = torch.zeros(sum(matrix.numel for matrix in cut), device=device)
            pieces = gathered.split([matrix.numel for matrix in cut])
            for matrix, piece in zip(cut, pieces, strict=True):
                piece.narrow(0, matrix.offset, matrix.size).copy_(matrix.local(updates[id(matrix.flat)]))
            self._world.sum_on_device(gathered)
            for matrix, piece in zip(cut, pieces, strict=True):
                if matrix.size:
                    yield matrix, piece.view(matrix.shape)
        for matrix in matrices:
            if matrix.size and not matrix.cut:
                yield matrix, matrix.local(updates[id(matrix.flat)]).view(matrix.shape).to(device)

    def _keep(self, old: Tensor, new: Tensor) -> None:
        """Replace `old` by `new` in place, unless the step is skipped."""
        old.copy_(new if self.found_inf is None else torch.where(self.found_inf.bool(), old, new))


def orthogonalize(matrices_BRC: Tensor) -> Tensor:
    """Approximate the closest matrices with orthonormal rows or columns, in bf16: singular values become about 1.

    Newton-Schulz iteration of `torch.optim.Muon`, for a batch of matrices; returns (B, R, C).
    """
    tall = matrices_BRC.shape[1] > matrices_BRC.shape[2]
    x = matrices_BRC.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.mT if tall else x
