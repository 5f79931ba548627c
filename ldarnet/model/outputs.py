"""Outputs of the Hugging Face classes, and conversion between padded batches and packed rows.

Shapes: B sequences, L positions including padding, T packed positions, V vocabulary size, D width of the outermost
stage.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        boundary_probability: (B, L, R) for R routers, outermost first; None unless requested by `output_boundaries`.
            The probability that a chunk of the stage begins at a position; 0 at positions that are not the start of a
            chunk of the enclosing stage, which the router does not see, and on padding.
        boundary_mask: (B, L, R) bool, True where a chunk of the stage begins; None unless requested.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    boundary_probability: Tensor | None = None
    boundary_mask: Tensor | None = None


@dataclass
class LDARNetHeadOutput(ModelOutput, BatchOutputs):
    """Output of :class:`LDARNetForMaskedLM` and :class:`LDARNetForCausalLM`.

    Attributes:
        loss: mlm_loss or next_base_loss, plus ratio_weight * ratio_loss; None without labels.
        logits: (B, L, V); from a causal model, the logits at a position predict the next token.
        last_hidden_state: (B, L, D), zero on padding.
        hidden_states: see :class:`LDARNetOutput`.
        boundary_probability: see :class:`LDARNetOutput`.
        boundary_mask: see :class:`LDARNetOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    boundary_probability: Tensor | None = None
    boundary_mask: Tensor | None = None


@dataclass
class LDARNetClassifierOutput(ModelOutput, BatchOutputs):
    """Output of :class:`LDARNetForSequenceClassification` and :class:`LDARNetForTokenClassification`.

    Attributes:
        loss: loss of the predictions + ratio_weight * ratio_loss; None without labels.
        logits: (B, num_labels), or (B, L, num_labels) for each position.
        last_hidden_state: (B, L, D), zero on padding.
        hidden_states: see :class:`LDARNetOutput`.
        boundary_probability: see :class:`LDARNetOutput`.
        boundary_mask: see :class:`LDARNetOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    boundary_probability: Tensor | None = None
    boundary_mask: Tensor | None = None


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


def at_positions(found: Sequence[Boundaries], shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Boundary probabilities and masks of all stages at the positions of the input, both (B, L, R).

    Args:
        found: boundaries of each stage, outermost first.
        shape: (B, L).
        device: device of the result if there are no stages.
    """
    probabilities, masks = [], []
    for stage in found:
        probability, mask = stage.probability, stage.mask
        if masks:  # positions of this stage are the chunks of the enclosing one
            begins = masks[-1]
            chunk = (begins.cumsum(1) - 1).clamp(0, mask.shape[1] - 1)
            probability = torch.where(begins, probability.gather(1, chunk), 0)
            mask = begins & mask.gather(1, chunk)
        probabilities.append(probability)
        masks.append(mask)
    if not masks:
        empty = torch.zeros(*shape, 0, device=device)
        return empty, empty.bool()
    return torch.stack(probabilities, -1), torch.stack(masks, -1)
