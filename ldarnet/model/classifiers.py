"""Hugging Face classes that classify or regress sequences and positions.

Shapes: B sequences, L positions including padding, C classes or targets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.linear import Fp32Linear
from ldarnet.model.losses import batch_ratio_loss
from ldarnet.model.modeling import LDARNetModel, LDARNetPreTrainedModel
from ldarnet.model.outputs import LDARNetClassifierOutput, as_requested
from ldarnet.ops import to_device

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
"""Values of ``problem_type`` in transformers."""


class LDARNetClassifier(LDARNetPreTrainedModel):
    """LDARNet with a linear head of ``config.num_labels`` outputs; base class of the classifiers.

    ``config.problem_type`` selects the loss. A label of NaN is no target.

    - ``single_label_classification``, the default for at least two labels: cross-entropy; labels are int64 class
      indices, and -100 is no target.
    - ``multi_label_classification``: binary cross-entropy of each class; labels are floating-point, (..., C).
    - ``regression``, the default for one label: mean squared error; labels are numbers, (..., C), or without the last
      dimension if C is 1.
    """

    def __init__(self, config: LDARNetConfig) -> None:
        """Build the model with random weights. With ``num_labels=1``, set ``config.problem_type`` to ``regression``.

        Raises:
            ValueError: unknown ``problem_type``, no labels, or single-label classification with fewer than two classes.
        """
        labels, problem = config.num_labels or 0, config.problem_type
        if problem is None:
            problem = REGRESSION if labels == 1 else SINGLE_LABEL
        minimum = {SINGLE_LABEL: 2, MULTI_LABEL: 1, REGRESSION: 1}
        if problem not in minimum or labels < minimum[problem]:
            raise ValueError(
                f"num_labels={config.num_labels}, problem_type={config.problem_type!r}: not supported; set "
                f"problem_type to one of {', '.join(minimum)}, and num_labels to at least 1, or 2 for {SINGLE_LABEL}"
            )
        if problem == REGRESSION:
            config.problem_type = problem  # the pipelines of transformers would otherwise apply a sigmoid
        super().__init__(config)
        self.problem = problem
        self.model = LDARNetModel(config)
        self.classifier = Fp32Linear(config.d_model[0], labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        boundaries: Tensor | None = None,
        output_boundaries: bool | None = None,
    ) -> LDARNetClassifierOutput | tuple[Any, ...]:
        """Predict classes or values; see :class:`LDARNetClassifierOutput`.

        ``labels`` have the shape of the logits, without the last dimension for class indices; see the class. The other
        arguments and errors are those of :class:`LDARNetModel`.

        Raises:
            ValueError: the dtype or the shape of the labels does not match ``config.problem_type``.
        """
        out = self.model(
            *(input_ids, attention_mask, inputs_embeds),
            *(output_attentions, output_hidden_states, True, boundaries, output_boundaries),
        )
        real_BL = self.model.real_positions(input_ids, attention_mask, inputs_embeds)
        logits = self.classifier(self._features(out.last_hidden_state, real_BL))
        ratio_loss, _ = batch_ratio_loss(out.boundaries, self.config.target_ratio, form=self.config.ratio_loss)
        loss = None
        if labels is not None:
            counted_BL = real_BL if logits.dim() == 3 else None
            loss = prediction_loss(logits, labels, self.problem, counted_BL) + self.config.ratio_weight * ratio_loss
        output = LDARNetClassifierOutput(loss, logits, **out)
        output.ratio_loss, output.boundaries = ratio_loss, out.boundaries
        return as_requested(output, self.config.return_dict if return_dict is None else return_dict)

    def _features(self, hidden_BLD: Tensor, real_BL: Tensor) -> Tensor:
        """Inputs of the head, (..., D)."""
        raise NotImplementedError


class LDARNetForSequenceClassification(LDARNetClassifier):
    """LDARNet with a linear head on the mean hidden state over all positions except padding."""

    def _features(self, hidden_BLD: Tensor, real_BL: Tensor) -> Tensor:
        lengths = to_device(real_BL.sum(1, keepdim=True).clamp(min=1), hidden_BLD.device)
        return hidden_BLD.sum(1) / lengths


class LDARNetForTokenClassification(LDARNetClassifier):
    """LDARNet with a linear head at each position; padding has no targets."""

    def _features(self, hidden_BLD: Tensor, real_BL: Tensor) -> Tensor:
        return hidden_BLD


def prediction_loss(logits: Tensor, labels: Tensor, problem: str, real_BL: Tensor | None = None) -> Tensor:
    """Mean loss over the targets.

    Args:
        logits: (B, C), or (B, L, C).
        labels: see :class:`LDARNetClassifier`.
        problem: ``problem_type`` of transformers.
        real_BL: False on padding, which has no targets; None if the logits are per sequence.

    Raises:
        ValueError: the dtype or the shape of the labels does not match the problem.
    """
    if problem != REGRESSION and labels.is_floating_point() != (problem == MULTI_LABEL):
        needed = "int64 class indices" if problem == SINGLE_LABEL else "floating-point labels"
        raise ValueError(
            f"labels: dtype {labels.dtype} is not supported for {problem}; give {needed}, or set another problem_type"
        )
    if problem == REGRESSION and logits.shape == (*labels.shape, 1):
        labels = labels.unsqueeze(-1)
    shape = logits.shape[:-1] if problem == SINGLE_LABEL else logits.shape
    if labels.shape != shape:
        raise ValueError(f"labels: shape {tuple(labels.shape)} does not match {problem}; give {tuple(shape)}")
    if real_BL is not None:
        real_BL = to_device(real_BL, labels.device)
    if problem == SINGLE_LABEL:
        if real_BL is None:
            return F.cross_entropy(logits, labels)
        labels = labels.masked_fill(~real_BL, IGNORE_INDEX)
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / (labels != IGNORE_INDEX).sum().clamp(min=1)
    known = ~labels.isnan() if real_BL is None else ~labels.isnan() & real_BL[..., None]
    labels = torch.where(known, labels, 0).to(logits.dtype)
    if problem == MULTI_LABEL:
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    else:
        losses = (logits - labels).square()
    return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)
