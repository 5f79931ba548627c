"""Hugging Face classes: backbone, masked language model, sequence classifier.

Shapes: B sequences, L positions including padding, T packed positions, V vocabulary size, D width of the outermost
stage.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.model.bimamba2 import BiMamba2
from ldarnet.model.blocks import AddNorm, Stack
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.integrity import check_hashes, check_weights, update_manifest
from ldarnet.model.linear import INITIAL_STD, Fp32Linear, initialize_linear
from ldarnet.model.losses import batch_ratio_loss, cross_entropy_by_window
from ldarnet.model.network import Routing, Stage
from ldarnet.model.router import Boundaries
from ldarnet.ops import Packing

PROBLEM = "single_label_classification"
"""The only ``problem_type`` of transformers that the classifier supports."""


class BatchOutputs:
    """Per-batch outputs, stored as attributes rather than as ``ModelOutput`` entries.

    The pipelines and ``Trainer`` of transformers split or gather every ``ModelOutput`` entry along the batch dimension,
    which per-batch outputs do not have.

    Attributes:
        mlm_loss: mean cross-entropy over target positions, in nats; None without labels or an MLM head.
        ratio_loss: ratio loss summed over stages; None from the backbone.
        boundaries: one entry per router, outermost first.
    """

    mlm_loss: Tensor | None = None
    ratio_loss: Tensor | None = None
    boundaries: tuple[Boundaries, ...] | None = None


@dataclass
class LDARNetOutput(ModelOutput, BatchOutputs):
    """Output of :class:`LDARNetModel`.

    Attributes:
        last_hidden_state: (B, L, D), zero on padding.
    """

    last_hidden_state: Tensor | None = None


@dataclass
class LDARNetHeadOutput(ModelOutput, BatchOutputs):
    """Output of :class:`LDARNetForMaskedLM`.

    Attributes:
        loss: mlm_loss + ratio_weight * ratio_loss; None without labels.
        logits: (B, L, V).
        last_hidden_state: (B, L, D), zero on padding.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None


@dataclass
class LDARNetClassifierOutput(ModelOutput, BatchOutputs):
    """Output of :class:`LDARNetForSequenceClassification`.

    Attributes:
        loss: cross-entropy + ratio_weight * ratio_loss; None without labels.
        logits: (B, num_labels).
        last_hidden_state: (B, L, D), zero on padding.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None


class LDARNetPreTrainedModel(PreTrainedModel):
    """Base class: weight initialization, activation checkpointing, parameter groups."""

    config_class = LDARNetConfig
    base_model_prefix = "model"
    _input_embed_layer = "embeddings"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, verify: bool | None = None, **kwargs: Any
    ) -> Any:
        """Load a model as `PreTrainedModel.from_pretrained` does, and check it.

        Args:
            pretrained_model_name_or_path: folder, or name on the Hugging Face Hub.
            args: passed to `PreTrainedModel.from_pretrained`.
            verify: whether to compare the files with the manifest of the folder, if there is one; None compares unless
                the environment variable `LDARNET_VERIFY` is 0.
            kwargs: passed to `PreTrainedModel.from_pretrained`.

        Raises:
            UserError: a file does not match the manifest, or a weight is not finite.
        """
        folder = Path(pretrained_model_name_or_path or "", kwargs.get("subfolder") or "")
        if pretrained_model_name_or_path is not None and folder.is_dir():
            check_hashes(folder, verify)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        check_weights(dict(model.named_parameters()), str(pretrained_model_name_or_path))
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as `PreTrainedModel.save_pretrained` does; if the folder has a manifest, rewrite it."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", args[0] if args else True):
            update_manifest(Path(save_directory))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        match module:
            case BiMamba2():
                module.initialize()
            case AddNorm():
                init.ones_(module.weight)
            case Stage() if module.pad_dimension is not None:
                init.zeros_(module.pad_dimension)
            case nn.Linear():
                initialize_linear(module)
            case nn.Embedding():
                init.normal_(module.weight, std=INITIAL_STD)

    def set_activation_checkpointing(self, stages: Collection[int]) -> None:
        """Enable activation checkpointing in these stages and disable it in all others.

        A checkpointed layer saves only its inputs and is recomputed in the backward pass. This reduces activation
        memory at the cost of up to a third more compute. ``gradient_checkpointing_enable()`` checkpoints all stages.

        Args:
            stages: stage numbers; 0 is the outermost stage.
        """
        for module in self.modules():
            if isinstance(module, Stack):
                module.gradient_checkpointing = module.stage in stages

    def parameter_stage(self) -> dict[str, int]:
        """Stage number by parameter name: 0 in the outermost stage, embedding and head; largest in the main network."""
        stages = dict.fromkeys(self._names(), 0)
        for prefix, module in self.named_modules():  # an inner stage comes after the stages that enclose it
            if isinstance(module, Stage):
                stages |= {name: module.depth for name, _ in module.named_parameters(prefix)}
        return stages

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: biases, norms, A_log, D and dt_bias."""
        suffixes = ("bias", "norm.weight", "norm1.weight", "norm2.weight", "norm_weight", "A_log", ".D")
        return {name for name in self._names() if name.endswith(suffixes)}

    def _names(self) -> list[str]:
        return [name for name, _ in self.named_parameters()]


class LDARNetModel(LDARNetPreTrainedModel):
    """LDARNet backbone: embedding and hierarchy, without a head (arXiv 2606.04552)."""

    def __init__(self, config: LDARNetConfig) -> None:
        """Build the backbone with random weights."""
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model[0])
        self.backbone = Stage(config, config.arch_layout)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> LDARNetOutput:
        """Encode a batch. The output for a sequence does not depend on the other sequences in the batch.

        Args:
            input_ids: (B, L) int64; [PAD] is allowed anywhere.
            attention_mask: (B, L), 0 on padding; by default, 0 at [PAD] tokens. A mask on the CPU avoids a device
                synchronization.

        Raises:
            ValueError: the batch contains only padding, or ``attention_mask`` has a different shape than ``input_ids``.
        """
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask: shape {tuple(attention_mask.shape)} does not match the shape of input_ids, "
                f"{tuple(input_ids.shape)}"
            )
        real_BL = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        index_T = real_BL.flatten().nonzero().squeeze(1)
        if not len(index_T):
            raise ValueError("input_ids: the batch contains only padding; pass at least one base")
        device = input_ids.device
        lengths = real_BL.sum(1).to(device, non_blocking=True)
        packing = Packing.of_lengths(lengths, len(index_T), real_BL.shape[1])
        unpadded = len(index_T) == real_BL.numel()
        padding = BatchPadding(real_BL.shape, None if unpadded else index_T.to(device, non_blocking=True))
        hidden_TD, routings = self.backbone(self.embeddings(padding.pack(input_ids)), packing)
        boundaries = tuple(
            _boundaries(routing, padding if stage == 0 else BatchPadding.of_packing(routing[2]))
            for stage, routing in enumerate(routings)
        )
        output = LDARNetOutput(last_hidden_state=padding.unpack(hidden_TD))
        output.boundaries = boundaries
        return output


def _boundaries(routing: Routing, padding: BatchPadding) -> Boundaries:
    probability_T, mask_T, packing = routing
    return Boundaries(padding.unpack(probability_T), padding.unpack(mask_T), packing.lengths)


@dataclass(frozen=True)
class BatchPadding:
    """Conversion between a padded batch and a packed row.

    Attributes:
        shape: shape of the padded batch, (B, L).
        index: (T,), index of each packed position in the flattened batch; None if the batch has no padding.
    """

    shape: torch.Size
    index: Tensor | None

    @classmethod
    def of_packing(cls, packing: Packing) -> BatchPadding:
        """Build the conversion that pads each sequence of a packed row to ``packing.max_length``."""
        shape = torch.Size([len(packing.starts) - 1, packing.max_length])
        return cls(shape, packing.sequence * packing.max_length + packing.position)

    def pack(self, x_BL: Tensor) -> Tensor:
        """Remove padding: (B, L) to (T,)."""
        return x_BL.flatten() if self.index is None else x_BL.flatten()[self.index]

    def unpack(self, x_T: Tensor) -> Tensor:
        """Restore padding with zeros: (T, ...) to (B, L, ...)."""
        if self.index is not None:
            x_T = x_T.new_zeros(self.shape.numel(), *x_T.shape[1:]).index_copy(0, self.index, x_T)
        return x_T.unflatten(0, self.shape)


class LDARNetForMaskedLM(LDARNetPreTrainedModel):
    """LDARNet with a linear head over the vocabulary, for masked language modeling."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: LDARNetConfig) -> None:
        """Build the model with random weights; head and embedding share a matrix if ``config.tie_word_embeddings``."""
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
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> LDARNetHeadOutput:
        """Predict tokens; see :class:`LDARNetHeadOutput`.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 0 on padding; by default, 0 at [PAD] tokens.
            labels: (B, L) int64, -100 at positions without a target.
        """
        out = self.model(input_ids, attention_mask)
        logits = self.lm_head(out.last_hidden_state)
        ratio_loss, _ = batch_ratio_loss(out.boundaries, self.config.target_ratio)
        mlm_loss = loss = None
        if labels is not None:
            scored = (labels != IGNORE_INDEX).sum().clamp(min=1)
            mlm_loss = cross_entropy_by_window(logits, labels).sum() / scored
            loss = mlm_loss + self.config.ratio_weight * ratio_loss
        output = LDARNetHeadOutput(loss=loss, logits=logits, last_hidden_state=out.last_hidden_state)
        output.mlm_loss, output.ratio_loss, output.boundaries = mlm_loss, ratio_loss, out.boundaries
        return output


class LDARNetForSequenceClassification(LDARNetPreTrainedModel):
    """LDARNet with a linear classifier on the mean hidden state over all positions except padding."""

    def __init__(self, config: LDARNetConfig) -> None:
        """Build the model with random weights for ``config.num_labels`` classes.

        Raises:
            ValueError: fewer than two classes, or an unsupported ``problem_type``.
        """
        if (config.num_labels or 0) < 2 or config.problem_type not in (None, PROBLEM):
            raise ValueError(
                f"num_labels={config.num_labels}, problem_type={config.problem_type!r}: this classifier supports "
                f"{PROBLEM} with two or more classes"
            )
        super().__init__(config)
        self.model = LDARNetModel(config)
        assert config.num_labels is not None
        self.classifier = Fp32Linear(config.d_model[0], config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> LDARNetClassifierOutput:
        """Classify sequences; see :class:`LDARNetClassifierOutput`.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 0 on padding; by default, 0 at [PAD] tokens.
            labels: (B,) int64 class indices.

        Raises:
            ValueError: the labels are floating-point numbers.
        """
        out = self.model(input_ids, attention_mask)
        real = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        lengths = real.sum(1, keepdim=True).clamp(min=1).to(input_ids.device)
        logits = self.classifier(out.last_hidden_state.sum(1) / lengths)
        ratio_loss, _ = batch_ratio_loss(out.boundaries, self.config.target_ratio)
        loss = None
        if labels is not None:
            if labels.is_floating_point():
                raise ValueError(f"labels: dtype {labels.dtype} is not supported; give int64 class indices")
            loss = F.cross_entropy(logits, labels) + self.config.ratio_weight * ratio_loss
        output = LDARNetClassifierOutput(loss=loss, logits=logits, last_hidden_state=out.last_hidden_state)
        output.ratio_loss, output.boundaries = ratio_loss, out.boundaries
        return output
