"""Base class of methods whose boundaries are computed on the host, outside of the network.

Shapes: B sequences, L positions including padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ldarnet.alphabet import PAD
from ldarnet.errors import UserError
from ldarnet.model.chunking import ChunkingMethod, Options, Routing, Tokens, certain
from ldarnet.ops import Packing

Finder = Callable[[np.ndarray], np.ndarray]
"""Maps token ids, (B, L), to the boundaries, (B, L) bool."""


class GivenBoundaries(ChunkingMethod):
    """Boundaries that the caller passes to the model, or that are found in the token ids on the host.

    Data workers find the boundaries of training batches, so that the GPU does not wait for them. The host then also
    knows the number of chunks.

    Attributes:
        hint: where boundaries come from, for methods without a finder.
    """

    nested = False
    hint: ClassVar[str] = ""

    @classmethod
    def finder(cls, options: Options) -> Finder | None:
        """Function that finds the boundaries in token ids; None if the caller must pass them."""
        return None

    @classmethod
    def expected_ratio(cls, target_ratio: float) -> float | None:
        """None: the number of positions per chunk depends on the data."""
        return None

    def find(self, ids_BL: Tensor, real_BL: Tensor) -> Tensor:
        """Boundaries of a batch, (B, L) bool on the host; waits for the device of the ids.

        Args:
            ids_BL: token ids.
            real_BL: False on padding.

        Raises:
            UserError: the method cannot find boundaries in token ids.
        """
        if (finder := self.finder(self.options)) is None:
            raise UserError(f"chunking: method {self.options['method']} needs the argument `boundaries`; {self.hint}")
        ids = np.where(real_BL.cpu().numpy(), ids_BL.cpu().numpy(), PAD)
        return torch.from_numpy(finder(ids))

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Return the boundaries."""
        assert tokens.boundary is not None, "LDARNetModel.forward sets the boundaries"
        return certain(tokens.boundary, h_TD, packing, tokens.chunks)


def count_chunks(boundary_BL: Tensor, real_BL: Tensor) -> tuple[int, ...]:
    """Number of chunks of each sequence; the first position always starts one. Both tensors are on the host."""
    first_BL = real_BL & (real_BL.cumsum(1) == 1)
    return tuple((boundary_BL & real_BL | first_BL).sum(1).tolist())
