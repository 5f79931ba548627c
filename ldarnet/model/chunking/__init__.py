"""Chunking methods: where chunks begin. One file per method.

A method selects the boundaries of a stage. Everything else (encoder, main network, dechunking, decoder, head) is the
same code for all methods. To add a method, add a file to this folder with a subclass of `ChunkingMethod` that is
decorated with `register`.

Shapes: T packed positions of a stage, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ldarnet.ops import KernelOptions, Packing
from ldarnet.plugins import load_folder, suggestion
from ldarnet.printable import printable

Option = str | int | list[str]
"""Value of an option."""
Options = Mapping[str, Any]
"""Name of the method, ``method``, and its options, of type `Option`; the field ``chunking`` of a model configuration.
"""
PUBLISHED = "learned"
"""The published method, which is the default."""
SMOOTHINGS = ("bidirectional", "mirrored", "forward", "none")
"""Values of the option ``smoothing``, the default first."""
Values = tuple[str, ...] | tuple[int, ...] | type[int] | type[str] | type[list]
"""Allowed values of an option, the default first. ``int`` is a non-negative integer, by default 0; ``str`` is a text,
and ``list`` a list of texts, both empty by default."""
COMMON_OPTIONS: dict[str, Values] = {
    "residual": ("full", "masked", "none"),
    "smoothing": SMOOTHINGS,
    "ratio_loss": ("two_sided", "hinge"),
}
"""Options of all methods.

``residual``: the residual path around the main network is open, closed at [MASK] (arXiv 2601.03019), or absent.

``smoothing``: exponential smoothing of the chunks c_j; p_j is the probability of the boundary before chunk j.

- ``bidirectional``: the mean of the scans z_j = p_j c_j + (1 - p_j) z_{j-1} and z_j = p_j c_j + (1 - p_j) z_{j+1}.
- ``mirrored``: the second scan is z_j = p_{j+1} c_j + (1 - p_{j+1}) z_{j+1}, with p = 1 after the last chunk of a
  sequence. Reversing chunks and boundaries of a sequence then reverses the result.
- ``forward``: the first scan alone (H-Net, arXiv 2507.07955), so that the result does not depend on later chunks.
- ``none``: z_j = c_j.

``ratio_loss``: see :mod:`ldarnet.model.losses`."""
CAUSAL_VALUES: dict[str, tuple[str, ...]] = {
    "similarity": ("forward", "bidirectional"),
    "selection": ("threshold",),
    "mask_protection": ("none",),
    "phase": ("fixed",),
    "residual": ("full", "none"),
    "smoothing": ("forward", "none"),
}
"""Values of options that causal models support, the default first; all values of other options. The values that are
missing look ahead, or have an effect only at [MASK]."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of the positions of a stage; in inner stages, of the first base of each chunk.

    Attributes:
        ids: (T,) int64; None if the model was called with embeddings.
        mask_token_id: id of [MASK].
        boundary: boundaries that are computed outside of the network, (T,) bool; None for other methods, and in inner
            stages.
        chunks: number of these boundaries in each sequence, if the host knows it; see `Routing`.
    """

    ids: Tensor | None
    mask_token_id: int
    boundary: Tensor | None = None
    chunks: tuple[int, ...] | None = None

    def required(self, option: str) -> Tensor:
        """Return the ids.

        Raises:
            ValueError: there are no ids; the message names the chunking ``option`` that needs them.
        """
        if self.ids is None:
            raise ValueError(f"inputs_embeds: chunking with {option} needs token ids; pass input_ids")
        return self.ids

    def masked(self, option: str) -> Tensor:
        """Whether each position is [MASK], (T,) bool; for the argument and the error, see `required`."""
        return self.required(option) == self.mask_token_id

    def select(self, index_M: Tensor) -> Tokens:
        """Tokens of the positions with these indices, (M,)."""
        return Tokens(None if self.ids is None else self.ids.index_select(0, index_M), self.mask_token_id)


@dataclass(frozen=True)
class Routing:
    """Boundaries of a packed row.

    Attributes:
        probability: boundary probability, (T,), at least float32; 1 at the start of each sequence.
        boundary: boundary mask, (T,) bool; True at the start of each sequence.
        packing: packing of the T positions.
        counted: positions that the ratio loss counts, (T,) bool; None for all.
        chunks: number of boundaries in each sequence, where the host knows it without reading the boundaries; the host
            then does not wait for the device to count them.
    """

    probability: Tensor
    boundary: Tensor
    packing: Packing
    counted: Tensor | None = None
    chunks: tuple[int, ...] | None = None


class ChunkingMethod(nn.Module):
    """Selects the boundaries of a stage.

    Attributes:
        OPTIONS: allowed values of each option.
        has_router: whether the method has query and key projections.
        nested: whether the method works in inner stages, whose positions are chunks.
        learns_before_training: whether `fit` must be called before training.
        supports_causal: whether causal models may use the method: with the options that `CAUSAL_VALUES` allows,
            boundaries and probabilities must not depend on later positions.
        causal: whether the model is causal; set by the model.
    """

    OPTIONS: ClassVar[dict[str, Values]] = {}
    has_router: ClassVar[bool] = False
    nested: ClassVar[bool] = True
    learns_before_training: ClassVar[bool] = False
    supports_causal: ClassVar[bool] = False
    causal: bool = False

    def __init__(self, options: Options, target_ratio: float, width: int, ops: KernelOptions) -> None:
        """Build the method for a stage.

        Args:
            options: options of the method, complete; see `complete_options`.
            target_ratio: target number of positions per chunk.
            width: width of the stage.
            ops: selection of kernels.
        """
        super().__init__()
        self.options, self.target_ratio, self.ops = options, target_ratio, ops

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Select the boundaries from the output of the encoder, (T, D), and the tokens."""
        raise NotImplementedError

    def fit(self, ids_bL: np.ndarray) -> None:
        """Learn from training windows without masks, (b, L) uint8, before training."""
        raise NotImplementedError

    @classmethod
    def check(cls, target_ratio: float) -> None:
        """Check that the method works with a target ratio.

        Raises:
            ValueError: it does not; the message starts with ``target_ratio``.
        """

    @classmethod
    def expected_ratio(cls, target_ratio: float) -> float | None:
        """Expected number of positions per chunk; None if it must be measured."""
        return target_ratio


def certain(boundary_T: Tensor, h_TD: Tensor, packing: Packing, chunks: tuple[int, ...] | None = None) -> Routing:
    """Routing of a method without probabilities: the probability is 1 at boundaries and 0 elsewhere.

    Smoothing then (almost) copies each chunk, and the straight-through factor carries no gradient. For ``chunks``, see
    `Routing`.
    """
    boundary_T = boundary_T | (packing.position == 0)
    dtype = torch.promote_types(h_TD.dtype, torch.float32)
    return Routing(boundary_T.to(dtype), boundary_T, packing, chunks=chunks)


_METHODS: dict[str, type[ChunkingMethod]] = {}


def register(name: str) -> Callable[[type[ChunkingMethod]], type[ChunkingMethod]]:
    """Decorator that registers a chunking method under a name."""

    def decorate(method: type[ChunkingMethod]) -> type[ChunkingMethod]:
        assert name not in _METHODS, f"chunking method {name} is registered twice"
        _METHODS[name] = method
        return method

    return decorate


def chunking_methods() -> dict[str, type[ChunkingMethod]]:
    """All chunking methods, by name."""
    load_folder(__name__)
    return dict(sorted(_METHODS.items()))


def method_of(options: Options) -> type[ChunkingMethod]:
    """The chunking method that options select."""
    name = str(options["method"])
    return _METHODS.get(name) or chunking_methods()[name]


def complete_options(given: Options, *, causal: bool = False) -> dict[str, Option]:
    """Add the default of each missing option, and check all options.

    Args:
        given: method and options.
        causal: whether the model is causal.

    Raises:
        ValueError: unknown method, unknown option of the method, a value that the option does not allow, or a method or
            value that causal models do not support.
    """
    methods, name = chunking_methods(), given.get("method", PUBLISHED)
    if name not in methods:
        raise ValueError(f"chunking: no method {printable(str(name))}; {suggestion(str(name), methods)}")
    allowed = COMMON_OPTIONS | methods[str(name)].OPTIONS
    if causal and not methods[str(name)].supports_causal:
        supported = ", ".join(other for other, method in methods.items() if method.supports_causal)
        raise ValueError(f"chunking: method {name} looks ahead, but causal is true; use one of {supported}")
    for key, value in given.items():
        if key == "method":
            continue
        if key not in allowed:
            hint = suggestion(str(key), allowed)
            raise ValueError(f"chunking: method {name} has no option {printable(str(key))}; {hint}")
        values = allowed[key]
        if isinstance(values, tuple) and (value not in values or isinstance(value, bool)):
            listed = ", ".join(str(one) for one in values)
            raise ValueError(f"chunking: {key}={printable(str(value))}; use one of {listed}")
        if values is int and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31):
            raise ValueError(f"chunking: {key}={printable(str(value))} must be an integer from 0 to {2**31 - 1}")
        if values is str and not isinstance(value, str):
            raise ValueError(f"chunking: {key}={printable(str(value))} must be a text")
        if values is list and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            raise ValueError(f"chunking: {key} must be a list of texts")
        if causal and value not in CAUSAL_VALUES.get(key, (value,)):
            listed = ", ".join(CAUSAL_VALUES[key])
            raise ValueError(f"chunking: {key}={printable(str(value))} does not work with causal=true; use {listed}")
    if causal:
        allowed |= {key: values for key, values in CAUSAL_VALUES.items() if key in allowed}
    defaults = {key: values[0] if isinstance(values, tuple) else values() for key, values in allowed.items()}
    return {"method": name, **defaults, **given}
