"""Outputs of the Hugging Face classes, and conversion between padded batches and packed rows.

Shapes: B sequences, L positions including padding, T packed positions, V vocabulary size, D width of the outermost
stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ldarnet.model.boundaries import Boundaries
from ldarnet.model.chunking import Routing
from ldarnet.ops import Packing


class BatchOutputs:
    """Per-batch outputs, stored as attributes rather than as ``ModelOutput`` entries.

    The pipelines and ``Trainer`` of transformers split or gather every ``ModelOutput`` entry along the batch dimension,
    which per-batch outputs do not have. Tuple outputs lack these attributes, and so do the outputs of a
    model offloaded by accelerate.

    Attributes:
        mlm_loss: mean cross-entropy over target positions, in nats; None without labels, and from models other than
            :class:`LDARNetForMaskedLM`.
        next_base_loss: mean cross-entropy over predicted tokens, in nats; None without labels, and from models other
            than :class:`LDARNetForCausalLM`.
        ratio_loss: ratio loss summed over stages; None from the backbone.
        boundaries: one entry per router, outermost first.
    """

    mlm_loss: Tensor | None = None
    next_base_loss: Tensor | None = None
    ratio_loss: Tensor | None = None
    boundaries: tuple[Boundaries, ...] | None = None


@dataclass
class LDARNetOutput(ModelOutput, BatchOutputs):
    """Output of :class:`LDARNetModel`.

    Attributes:
        last_hidden_state: (B, L, D), zero on padding.
        hidden_states: None unless requested. The first entry is the embeddings, (B, L, D). The other entries are the
            outputs of the stacks, in the order in which the stacks run; the last one is `last_hidden_state`. All
            entries are zero on padding. In inner stages, positions are chunks, and the width is that of the stage.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class LDARNetHeadOutput(ModelOutput, BatchOutputs):
    """Output of :class:`LDARNetForMaskedLM` and :class:`LDARNetForCausalLM`.

    Attributes:
        loss: mlm_loss or next_base_loss, plus ratio_weight * ratio_loss; None without labels.
        logits: (B, L, V); from a causal model, the logits at a position predict the next token.
        last_hidden_state: (B, L, D), zero on padding.
        hidden_states: see :class:`LDARNetOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class LDARNetClassifierOutput(ModelOutput, BatchOutputs):
    """Output of :class:`LDARNetForSequenceClassification`.

    Attributes:
        loss: cross-entropy + ratio_weight * ratio_loss; None without labels.
        logits: (B, num_labels).
        last_hidden_state: (B, L, D), zero on padding.
        hidden_states: see :class:`LDARNetOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


Output = TypeVar("Output", LDARNetOutput, LDARNetHeadOutput, LDARNetClassifierOutput)


def as_requested(output: Output, return_dict: bool | None) -> Output | tuple[Any, ...]:
    """Convert an output to a tuple if ``return_dict`` is False."""
    return output.to_tuple() if return_dict is False else output


@dataclass(frozen=True)
class BatchPadding:
    """Conversion between a padded batch and a packed row.

    Attributes:
        shape: shape of the padded batch, (B, L).
        index: (T,), index of each packed position in the flattened batch; None if the batch has no padding.
        padding_rows: number of rows, after the B sequences, that `unpack` drops.
    """

    shape: torch.Size
    index: Tensor | None
    padding_rows: int = 0

    @classmethod
    def of_packing(cls, packing: Packing) -> BatchPadding:
        """Build the conversion that pads each sequence of a packed row to ``packing.max_length``."""
        shape = torch.Size([packing.sequences, packing.max_length])
        return cls(shape, packing.sequence * packing.max_length + packing.position, packing.padding)

    def pack(self, x_BL: Tensor) -> Tensor:
        """Remove padding: (B, L, ...) to (T, ...)."""
        return x_BL.flatten(0, 1) if self.index is None else x_BL.flatten(0, 1)[self.index]

    def unpack(self, x_T: Tensor) -> Tensor:
        """Restore padding with zeros: (T, ...) to (B, L, ...)."""
        if self.index is not None:
            rows, length = self.shape[0] + self.padding_rows, self.shape[1]
            x_T = x_T.new_zeros(rows * length, *x_T.shape[1:]).index_copy(0, self.index, x_T)[: self.shape.numel()]
        return x_T.unflatten(0, self.shape)


def padded_boundaries(routing: Routing, padding: BatchPadding) -> Boundaries:
    """Boundaries of a batch from the output of a router."""
    counted = None if routing.counted is None else padding.unpack(routing.counted)
    probability, mask = padding.unpack(routing.probability), padding.unpack(routing.boundary)
    lengths = routing.packing.lengths[: routing.packing.sequences]
    return Boundaries(probability, mask, lengths, counted)
