"""Hugging Face classes with a head: language models.

Shapes: B sequences, L positions including padding, V vocabulary size.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from torch import Tensor, nn

from ldarnet.alphabet import IGNORE_INDEX, N
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.linear import Fp32Linear
from ldarnet.model.losses import batch_ratio_loss, cross_entropy_by_window, next_labels
from ldarnet.model.modeling import LDARNetModel, LDARNetPreTrainedModel
from ldarnet.model.outputs import LDARNetHeadOutput, as_requested
from ldarnet.ops import to_device


class LDARNetLanguageModel(LDARNetPreTrainedModel):
    """LDARNet with a linear head over the vocabulary; base class of the language models.

    Attributes:
        causal: value of ``config.causal`` that the class requires.
        loss_name: name of the output attribute with the mean cross-entropy over targets.
    """

    causal: ClassVar[bool]
    loss_name: ClassVar[str]
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: LDARNetConfig) -> None:
        """Build the model with random weights; tie head and embedding if ``config.tie_word_embeddings`` is True.

        Raises:
            ValueError: ``config.causal`` is that of the other class.
        """
        if config.causal != self.causal:
            other = LDARNetForCausalLM if config.causal else LDARNetForMaskedLM
            raise ValueError(f"causal={config.causal}: not supported by {type(self).__name__}; use {other.__name__}")
        super().__init__(config)
        self.model = LDARNetModel(config)
        self.lm_head = Fp32Linear(config.d_model[0], config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """Return the language modeling head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the language modeling head."""
        self.lm_head = new_embeddings

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
    ) -> LDARNetHeadOutput | tuple[Any, ...]:
        """Predict tokens; see :class:`LDARNetHeadOutput`.

        ``labels`` are (B, L) int64, with -100 at positions without a target; see the class for what they predict. The
        other arguments and the errors are those of :class:`LDARNetModel`.
        """
        out = self.model(
            *(input_ids, attention_mask, inputs_embeds),
            *(output_attentions, output_hidden_states, True, boundaries, output_boundaries),
        )
        logits = self.lm_head(out.last_hidden_state)
        ratio_loss, _ = batch_ratio_loss(out.boundaries, self.config.target_ratio, form=self.config.ratio_loss)
        token_loss = loss = None
        if labels is not None:
            targets = self._targets(labels, self.model.real_positions(input_ids, attention_mask, inputs_embeds))
            scored = (targets != IGNORE_INDEX).sum().clamp(min=1)
            token_loss = cross_entropy_by_window(logits, targets).sum() / scored
            loss = token_loss + self.config.ratio_weight * ratio_loss
        output = LDARNetHeadOutput(loss, logits, **out)
        output.ratio_loss, output.boundaries = ratio_loss, out.boundaries
        setattr(output, self.loss_name, token_loss)
        return as_requested(output, self.config.return_dict if return_dict is None else return_dict)

    def _targets(self, labels: Tensor, real_BL: Tensor) -> Tensor:
        """Target of each position, (B, L), from the labels and the positions that are not padding."""
        del real_BL
        return labels


class LDARNetForMaskedLM(LDARNetLanguageModel):
    """LDARNet for masked language modeling: ``labels`` hold the true token at each target position."""

    causal = False
    loss_name = "mlm_loss"


class LDARNetForCausalLM(LDARNetLanguageModel):
    """Causal LDARNet, which predicts the next token from those before it.

    ``labels`` are usually the ``input_ids``: the model shifts them. The first token of each sequence is not predicted,
    and N, [MASK] and [PAD] are not targets.
    """

    causal = True
    loss_name = "next_base_loss"

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Not supported.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "generate: LDARNet keeps no state between calls, so generation is not supported; call the model on the "
            "whole sequence and use its logits"
        )

    def _targets(self, labels: Tensor, real_BL: Tensor) -> Tensor:
        unscored = (N, self.config.mask_token_id, self.config.pad_token_id)
        return next_labels(labels, to_device(real_BL, labels.device), unscored)


def language_model(config: LDARNetConfig) -> LDARNetLanguageModel:
    """Build the language model of a configuration with random weights."""
    return LDARNetForCausalLM(config) if config.causal else LDARNetForMaskedLM(config)
