# Copyright the LDARNet authors.
# SPDX-License-Identifier: Apache-2.0
"""LDARNet (arXiv 2606.04552) in plain PyTorch: loads exported models by `trust_remote_code=True`.

A reference for inference and fine-tuning, without kernels, packing or activation checkpointing. The package `ldarnet`
computes the same function, faster and in less memory, and trains models from scratch.

Shapes: B sequences, L positions including padding, V tokens, D width, R routers.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .layers_ldarnet import Stage, WideLinear, compact, take

IGNORED = -100
N_TOKEN = 4


class LDARNetConfig(PretrainedConfig):
    """Configuration, as written by the package `ldarnet`, which documents it."""

    model_type = "ldarnet"
    keys_to_ignore_at_inference = ["last_hidden_state", "hidden_states", "boundary_probability", "boundary_mask"]

    def __init__(
        self,
        arch_layout=("m1",),
        d_model=(16,),
        d_intermediate=(0,),
        ssm_cfg=None,
        attn_cfg=None,
        vocab_size=7,
        chunking=None,
        causal=False,
        target_ratio=4.0,
        ratio_weight=0.03,
        tokenizer=None,
        mask_token_id=5,
        output_boundaries=False,
        pad_token_id=6,
        tie_word_embeddings=False,
        **kwargs,
    ):
        """Build from the content of `config.json`."""
        self.arch_layout, self.d_model, self.d_intermediate = list(arch_layout), list(d_model), list(d_intermediate)
        self.ssm_cfg = {"d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64, "chunk_size": 256} | (ssm_cfg or {})
        self.attn_cfg = attn_cfg or {}
        self.vocab_size, self.tokenizer, self.mask_token_id = vocab_size, tokenizer, mask_token_id
        self.chunking, self.causal = chunking or {}, causal
        self.target_ratio, self.ratio_weight = target_ratio, ratio_weight
        self.output_boundaries = output_boundaries
        super().__init__(pad_token_id=pad_token_id, tie_word_embeddings=tie_word_embeddings, **kwargs)


@dataclass
class LDARNetOutput(ModelOutput):
    """Outputs of all classes.

    Attributes:
        loss: loss of the predictions + ratio_weight * ratio loss; None without labels.
        logits: (B, L, V) of language models and token classifiers, (B, num_labels) of sequence classifiers.
        last_hidden_state: (B, L, D), zero on padding.
        hidden_states: embeddings and the output of each stack, in the order in which the stacks run, zero on padding.
            In inner stages, positions are chunks.
        boundary_probability: (B, L, R), the probability that a chunk begins at a position; 0 where no chunk of the
            enclosing stage begins.
        boundary_mask: (B, L, R) bool, where chunks begin.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    boundary_probability: torch.Tensor | None = None
    boundary_mask: torch.Tensor | None = None


class LDARNetPreTrainedModel(PreTrainedModel):
    """Base class of the models."""

    config_class = LDARNetConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def finish(self, out, routed, return_dict, task_loss=None):
        """Add the ratio loss to the loss of the predictions, and convert the output to a tuple if requested."""
        if task_loss is not None:
            out.loss = task_loss + self.config.ratio_weight * ratio_loss(routed, self.config)
        return out.to_tuple() if (self.config.return_dict if return_dict is None else return_dict) is False else out


def ratio_loss(routed, config):
    """Ratio loss of a batch, summed over stages."""
    total, N = 0.0, config.target_ratio
    for p, mask, counted in routed:
        rate, mean = (mask & counted).sum() / counted.sum(), (p * counted).sum() / counted.sum()
        if config.chunking["ratio_loss"] == "hinge":
            total = total + F.relu(N * (rate + mean - mean.detach()) - 1)
        else:
            total = total + N / (N - 1) * ((N - 1) * rate * mean + (1 - rate) * (1 - mean))
    return total


class LDARNetModel(LDARNetPreTrainedModel):
    """LDARNet backbone, without a head."""

    def __init__(self, config):
        """Build the backbone."""
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model[0])
        self.backbone = Stage(config, config.arch_layout)
        self.post_init()

    def get_input_embeddings(self):
        """Return the embedding."""
        return self.embeddings

    def set_input_embeddings(self, value):
        """Replace the embedding."""
        self.embeddings = value

    def real_positions(self, input_ids, attention_mask, inputs_embeds):
        """Mask, (B, L), that is False on padding."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids: give exactly one of input_ids and inputs_embeds")
        if input_ids is None:
            real = torch.ones(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
        else:
            real = input_ids != self.config.pad_token_id
        return real if attention_mask is None else real & attention_mask.bool()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        inputs_embeds=None,
        output_hidden_states=None,
        return_dict=None,
        boundaries=None,
        output_boundaries=None,
        **_,
    ):
        """Encode a batch; `boundaries` (B, L) bool are only for the chunking method `file`."""
        out, _ = self.encode(
            input_ids, attention_mask, inputs_embeds, output_hidden_states, boundaries, output_boundaries
        )
        return self.finish(out, (), return_dict)

    def encode(self, input_ids, attention_mask, inputs_embeds, hidden_states, boundaries, output_boundaries):
        """Return the output, and the boundaries of each stage."""
        given_real = self.real_positions(input_ids, attention_mask, inputs_embeds)
        if not given_real.any():
            raise ValueError("input_ids: the batch contains only padding; pass at least one base")
        index, real = compact(given_real)  # sequences start on the left
        place = (given_real.cumsum(1) - 1).clamp(min=0)

        def restore(x):
            return take(x, place).masked_fill(~given_real.view(*place.shape, *[1] * (x.dim() - 2)), 0)

        tokens = None if input_ids is None else take(input_ids, index)
        x = take(inputs_embeds, index) if tokens is None else self.embeddings(tokens)
        y, routed, states = self.backbone(x, real, tokens, None if boundaries is None else take(boundaries, index))
        out = LDARNetOutput(last_hidden_state=restore(y))
        if self.config.output_hidden_states if hidden_states is None else hidden_states:
            last = len(states) - 1
            out.hidden_states = restore(x), *(restore(s) if i in (0, last) else s for i, s in enumerate(states))
        if self.config.output_boundaries if output_boundaries is None else output_boundaries:
            probabilities, masks = [], []
            for p, mask, _ in routed:
                if masks:  # the positions of this stage are the chunks of the enclosing one
                    chunk = (masks[-1].cumsum(1) - 1).clamp(min=0)
                    p, mask = (take(v, chunk).masked_fill(~masks[-1], 0) for v in (p, mask))
                else:
                    p, mask = restore(p), restore(mask)
                probabilities.append(p)
                masks.append(mask)
            empty = y.new_zeros(*given_real.shape, 0)
            out.boundary_probability = torch.stack(probabilities, -1) if routed else empty
            out.boundary_mask = torch.stack(masks, -1) if routed else empty.bool()
        return out, routed


class LDARNetHead(LDARNetPreTrainedModel):
    """Backbone with a head; base class of the models below."""

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        labels=None,
        inputs_embeds=None,
        output_hidden_states=None,
        return_dict=None,
        boundaries=None,
        output_boundaries=None,
        **_,
    ):
        """Predict; the shape of `labels` depends on the class."""
        out, routed = self.model.encode(
            input_ids, attention_mask, inputs_embeds, output_hidden_states, boundaries, output_boundaries
        )
        real = self.model.real_positions(input_ids, attention_mask, inputs_embeds)
        out.logits = self.predict(out.last_hidden_state, real)
        return self.finish(
            out, routed, return_dict, None if labels is None else self.task_loss(out.logits, labels, real)
        )


class LDARNetForMaskedLM(LDARNetHead):
    """Masked language model; `labels` are (B, L), -100 where there is no target."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config):
        """Build the model."""
        super().__init__(config)
        self.model = LDARNetModel(config)
        self.lm_head = WideLinear(config.d_model[0], config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        """Return the head."""
        return self.lm_head

    def set_output_embeddings(self, value):
        """Replace the head."""
        self.lm_head = value

    def predict(self, hidden, real):
        """Logits, (B, L, V)."""
        return self.lm_head(hidden)

    def task_loss(self, logits, labels, real):
        """Mean cross-entropy over targets."""
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1)


class LDARNetForCausalLM(LDARNetForMaskedLM):
    """Causal language model; `labels` are usually the `input_ids`, and are shifted by the model."""

    def task_loss(self, logits, labels, real):
        """Mean cross-entropy over the next tokens, except N, [MASK] and [PAD]."""
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        scored = real & F.pad(real[:, 1:], (0, 1), value=False)
        for token in (N_TOKEN, self.config.mask_token_id, self.config.pad_token_id):
            scored = scored & (targets != token)
        return super().task_loss(logits, targets.masked_fill(~scored, IGNORED), real)


class LDARNetForTokenClassification(LDARNetHead):
    """Linear head at each position. Labels are class indices, or floats with a NaN where there is no target."""

    def __init__(self, config):
        """Build the model."""
        super().__init__(config)
        self.model = LDARNetModel(config)
        self.classifier = WideLinear(config.d_model[0], config.num_labels)
        self.post_init()

    def predict(self, hidden, real):
        """Logits, (B, L, num_labels)."""
        return self.classifier(hidden)

    def task_loss(self, logits, labels, real):
        """Loss that `problem_type` selects."""
        default = "regression" if self.config.num_labels == 1 else "single_label_classification"
        problem = self.config.problem_type or default
        if problem == "single_label_classification" and labels.is_floating_point():
            raise ValueError("labels: give int64 class indices, or set problem_type")
        if problem == "single_label_classification":
            labels = labels.masked_fill(~real, IGNORED) if logits.dim() == 3 else labels
            total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
            return total / (labels != IGNORED).sum().clamp(min=1)
        labels = labels.view(logits.shape).to(logits.dtype)
        known = ~labels.isnan() if logits.dim() == 2 else ~labels.isnan() & real[..., None]
        labels = torch.where(known, labels, 0)
        if problem == "regression":
            losses = (logits - labels).square()
        else:
            losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)


class LDARNetForSequenceClassification(LDARNetForTokenClassification):
    """Linear head on the mean hidden state over all positions except padding."""

    def predict(self, hidden, real):
        """Logits, (B, num_labels)."""
        return self.classifier(hidden.sum(1) / real.sum(1, keepdim=True).clamp(min=1))
