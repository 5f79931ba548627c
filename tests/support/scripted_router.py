"""Stand-in for a model whose boundaries are a known function of the bases."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor


class ScriptedRouter(torch.nn.Module):
    """Model with one router: `mask_of` maps ids, (B, L), to boundaries; the first base always begins a chunk."""

    device = torch.device("cpu")

    def __init__(self, mask_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mask_of = mask_of

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        mask = self.mask_of(input_ids).clone()
        mask[:, 0] = True
        return SimpleNamespace(boundaries=(SimpleNamespace(probability=mask.float(), mask=mask),))


def changes_of_base(ids: Tensor) -> Tensor:
    """A boundary wherever a base differs from the base to its left."""
    return ids != ids.roll(1, dims=1)
