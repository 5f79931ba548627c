"""The Hugging Face classes: the model alone, with a masked-language-modelling head, and with a classifier.

Shapes: B sequences, L positions with padding, T packed positions, V letters, D width of the outermost stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ldarnet.model.bimamba2 import BiMamba2
from ldarnet.model.blocks import RMSNorm
from ldarnet.model.chunking import Boundaries, batch_ratio_loss
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.linear import INITIAL_STD, initialize_linear
from ldarnet.model.network import Routing, Stage
from ldarnet.ops import Packing, at_least_fp32

NOT_SCORED = -100


@dataclass
class LDARNetOutput(ModelOutput):
    """What the model alone returns.

    Attributes:
        last_hidden_state: (B, L, D), zero on padding.
        boundaries: one entry for each router, the outermost first.
    """

    last_hidden_state: Tensor | None = None
    boundaries: tuple[Boundaries, ...] | None = None


@dataclass
class LDARNetHeadOutput(ModelOutput):
    """What a model with a head returns.

    Attributes:
        loss: the head's loss + ratio_weight * ratio_loss; only with labels.
        mlm_loss: mean cross-entropy over scored positions, in nats; only from the masked language model with labels.
        ratio_loss: sum of the ratio loss over all stages.
        logits: (B, L, V) from the masked language model, (B, classes) from the classifier.
        last_hidden_state: (B, L, D), zero on padding.
        boundaries: one entry for each router, the outermost first.
    """

    loss: Tensor | None = None
    mlm_loss: Tensor | None = None
    ratio_loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    boundaries: tuple[Boundaries, ...] | None = None


class LDARNetPreTrainedModel(PreTrainedModel):
    """Initialisation, and what a trainer asks about parameters."""

    config_class = LDARNetConfig
    base_model_prefix = "model"
    _input_embed_layer = "embeddings"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        match module:
            case BiMamba2():
                module.initialize()
            case RMSNorm():
                init.ones_(module.weight)
            case Stage() if module.pad_dimension is not None:
                init.zeros_(module.pad_dimension)
            case nn.Linear():
                initialize_linear(module)
            case nn.Embedding():
                init.normal_(module.weight, std=INITIAL_STD)

    def parameter_stage(self) -> dict[str, int]:
        """Depth of the stage that each parameter belongs to, 0 the outermost; the main network is the deepest."""
        return {name: name.count("main.") - ("main.layers" in name or "main.norm" in name) for name in self._names()}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are never decayed: biases, norms, A_log, D and dt_bias."""
        undecayed = ("bias", "norm.weight", "norm1.weight", "norm2.weight", "norm_weight", "A_log", ".D")
        return {name for name in self._names() if name.endswith(undecayed)}

    def _names(self) -> list[str]:
        return [name for name, _ in self.named_parameters()]


class LDARNetModel(LDARNetPreTrainedModel):
    """Embedding and hierarchy, without a head."""

    def __init__(self, config: LDARNetConfig) -> None:
        """Build with fresh weights."""
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model[0])
        self.backbone = Stage(config, config.arch_layout)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> LDARNetOutput:
        """Encode a batch; each sequence gets what it would get alone.

        Args:
            input_ids: (B, L) int64; [PAD] may stand anywhere.
            attention_mask: (B, L), 0 on padding; by default everything but [PAD] is read.

        Raises:
            ValueError: a batch without a single base.
        """
        real_BL = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        place_T = real_BL.flatten().nonzero().squeeze(1)
        if not len(place_T):
            raise ValueError("input_ids: the batch holds nothing but padding; give at least one base")
        packing = Packing.of_lengths(real_BL.sum(1), len(place_T))
        hidden_TD, routings = self.backbone(self.embeddings(input_ids.flatten()[place_T]), packing)
        hidden = hidden_TD.new_zeros(real_BL.numel(), hidden_TD.shape[-1]).index_copy(0, place_T, hidden_TD)
        boundaries = tuple(
            _in_rows(routing, place_T, real_BL) if i == 0 else _in_padded_rows(routing)
            for i, routing in enumerate(routings)
        )
        return LDARNetOutput(last_hidden_state=hidden.view(*real_BL.shape, -1), boundaries=boundaries)


def _in_rows(routing: Routing, place_T: Tensor, real_BL: Tensor) -> Boundaries:
    probability_T, mask_T, packing = routing
    probability = probability_T.new_zeros(real_BL.numel()).index_copy(0, place_T, probability_T)
    mask = mask_T.new_zeros(real_BL.numel()).index_copy(0, place_T, mask_T)
    return Boundaries(probability.view_as(real_BL), mask.view_as(real_BL), packing.lengths)


def _in_padded_rows(routing: Routing) -> Boundaries:
    probability_T, mask_T, packing = routing
    probability, mask = (
        pad_sequence(list(x.split(packing.host_lengths)), batch_first=True) for x in (probability_T, mask_T)
    )
    return Boundaries(probability, mask, packing.lengths)


class LDARNetForMaskedLM(LDARNetPreTrainedModel):
    """LDARNet with a linear head over letters."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: LDARNetConfig) -> None:
        """Build with fresh weights; head and embedding are one matrix if ``config.tie_word_embeddings``."""
        super().__init__(config)
        self.model = LDARNetModel(config)
        self.lm_head = nn.Linear(config.d_model[0], config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> LDARNetHeadOutput:
        """Predict letters; see :class:`LDARNetHeadOutput`.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 0 on padding; by default everything but [PAD] is read.
            labels: (B, L) int64, -100 where nothing is scored.
        """
        out = self.model(input_ids, attention_mask)
        logits = self.lm_head(out.last_hidden_state)
        ratio_loss = batch_ratio_loss(out.boundaries, self.config.target_ratio)
        mlm_loss = loss = None
        if labels is not None:
            scored = (labels != NOT_SCORED).sum().clamp(min=1)
            total = F.cross_entropy(
                at_least_fp32(logits).flatten(0, 1), labels.flatten(), ignore_index=NOT_SCORED, reduction="sum"
            )
            mlm_loss = total / scored
            loss = mlm_loss + self.config.ratio_weight * ratio_loss
        return LDARNetHeadOutput(
            loss=loss,
            mlm_loss=mlm_loss,
            ratio_loss=ratio_loss,
            logits=logits,
            last_hidden_state=out.last_hidden_state,
            boundaries=out.boundaries,
        )


class LDARNetForSequenceClassification(LDARNetPreTrainedModel):
    """LDARNet with a linear classifier on the mean over real bases."""

    def __init__(self, config: LDARNetConfig) -> None:
        """Build with fresh weights for ``config.num_labels`` classes."""
        super().__init__(config)
        self.model = LDARNetModel(config)
        assert config.num_labels is not None
        self.classifier = nn.Linear(config.d_model[0], config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> LDARNetHeadOutput:
        """Classify sequences; see :class:`LDARNetHeadOutput`.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 0 on padding; by default everything but [PAD] is read.
            labels: (B,) int64.
        """
        out = self.model(input_ids, attention_mask)
        real = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        lengths = real.sum(1, keepdim=True).clamp(min=1)
        logits = self.classifier(out.last_hidden_state.sum(1) / lengths)
        ratio_loss = batch_ratio_loss(out.boundaries, self.config.target_ratio)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(at_least_fp32(logits), labels) + self.config.ratio_weight * ratio_loss
        return LDARNetHeadOutput(
            loss=loss,
            ratio_loss=ratio_loss,
            logits=logits,
            last_hidden_state=out.last_hidden_state,
            boundaries=out.boundaries,
        )
