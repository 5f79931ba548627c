"""Gradient norms per module, for any ZeRO stage.

With ZeRO, each rank holds flat fragments of the gradients, and DeepSpeed frees them inside its optimizer step. A step
pre-hook of the inner optimizer therefore reads the gradients, after they have been clipped. The hook only measures each
module's fraction of the squared global norm. `norms` multiplies the square root of this fraction by the global norm
before clipping. Clipping does not change these fractions, because it scales all modules equally. They are also correct
in stage 0, where every rank counts the whole gradient.
"""

from typing import Any

import torch
from torch import Tensor

from ldarnet.model import LDARNetLanguageModel
from ldarnet.model.network import Stage
from ldarnet.ops import to_device
from ldarnet.runtime.deepspeed_internals import local_fragment
from ldarnet.runtime.distributed import World


def parts_of(model: LDARNetLanguageModel) -> dict[str, str]:
    """Map each parameter to the module name used in metrics: `embeddings`, `lm_head` or `stage<index>/<module>`."""
    parts = {name: name.removeprefix("model.").partition(".")[0] for name, _ in model.named_parameters()}
    for prefix, module in model.named_modules():  # inner stages come after the stages that contain them
        if isinstance(module, Stage):
            names = [name for name, _ in module.named_parameters()]
            parts |= {f"{prefix}.{name}": f"stage{module.depth}/{name.partition('.')[0]}" for name in names}
    return parts


class GradientParts:
    """Measures gradient norms per module, for selected updates.

    Args:
        model: the model being trained.
        optimizer: the DeepSpeed optimizer; in ZeRO stage 0, the torch optimizer.
        zero_stage: ZeRO stage, 0 to 3.
    """

    def __init__(self, model: LDARNetLanguageModel, optimizer: Any, zero_stage: int, world: World) -> None:
        self._model, self._optimizer, self._stage, self._world = model, optimizer, zero_stage, world
        self._parts = parts_of(model)
        self.names = sorted(set(self._parts.values()))
        self._squares: Tensor | None = None
        self._indices: dict[tuple[int, ...], Tensor] = {}
        getattr(optimizer, "optimizer", optimizer).register_step_pre_hook(self._measure)

    def watch_next_update(self) -> None:
        """Measure the next update; call `take_squares` after that update."""
        self._squares = torch.zeros(len(self.names), dtype=torch.float64, device=self._world.device)

    def take_squares(self) -> Tensor:
        """Squared gradient norm of each module in the watched update; every rank must call this method.

        Returns:
            (modules,) float64 on the device, all-reduced.
        """
        assert self._squares is not None
        squares, self._squares = self._world.sum_on_device(self._squares), None
        return squares

    def norms(self, squares: Tensor, global_norm: float) -> dict[str, float]:
        """Gradient norm of each module.

        Args:
            squares: return value of `take_squares`, copied to the host.
            global_norm: global gradient norm of the update, before clipping.

        Returns:
            Gradient norm by module name; empty if the gradient was zero or not finite, or was not measured.
        """
        if not 0 < squares.sum() < torch.inf:
            return {}
        norms = global_norm * (squares / squares.sum()).sqrt()
        return dict(zip(self.names, norms.tolist(), strict=True))

    def _measure(self, inner: torch.optim.Optimizer, *_: Any) -> None:
        """Accumulate the squared norms of the local gradients in the parameter groups of `inner`.

        DeepSpeed may step `inner` once for all parameter groups, or once per group.
        """
        if self._squares is None:
            return
        updated = {id(flat) for group in inner.param_groups for flat in group["params"]}
        modules, gradients = [], []
        for name, parameter in self._model.named_parameters():
            fragment = local_fragment(self._optimizer, self._stage, parameter)
            if fragment is not None and id(fragment.flat) in updated and fragment.flat.grad is not None:
                modules.append(self.names.index(self._parts[name]))
                gradients.append(fragment.narrow(fragment.flat.grad))
        if gradients:
            norms = torch.stack(torch._foreach_norm(gradients)).to(self._squares)
            self._squares.index_add_(0, self._index(tuple(modules)), norms.square())

    def _index(self, modules: tuple[int, ...]) -> Tensor:
        """Module indices as a tensor on the device, cached to avoid a copy in each step."""
        if modules not in self._indices:
            self._indices[modules] = to_device(torch.tensor(modules), self._world.device)
        return self._indices[modules]
