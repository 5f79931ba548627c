"""The Hugging Face classes: the model alone, with a masked-language-modelling head, and with a classifier.

Shapes: B sequences, L positions with padding, T packed positions, V letters, D width of the outermost stage.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

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
from ldarnet.model.linear import INITIAL_STD, Fp32Linear, initialize_linear
from ldarnet.model.losses import batch_ratio_loss, cross_entropy_by_window
from ldarnet.model.network import Routing, Stage
from ldarnet.model.router import Boundaries
from ldarnet.ops import Packing

PROBLEM = "single_label_classification"
"""The one `problem_type` of transformers that the classifier is for."""


class BatchOutputs:
    """Attributes of an output that are no entries of it.

    Pipelines of transformers cut every entry into the sequences of its batch, and its trainer gathers it by sequence;
    these cannot be treated so.

    Attributes:
        mlm_loss: mean cross-entropy over scored positions, in nats; of a masked language model with labels.
        ratio_loss: sum of the ratio loss over all stages; with a head.
        boundaries: one entry for each router, the outermost first.
    """

    mlm_loss: Tensor | None = None
    ratio_loss: Tensor | None = None
    boundaries: tuple[Boundaries, ...] | None = None


@dataclass
class LDARNetOutput(ModelOutput, BatchOutputs):
    """What the model alone returns.

    Attributes:
        last_hidden_state: (B, L, D), zero on padding.
    """

    last_hidden_state: Tensor | None = None


@dataclass
class LDARNetHeadOutput(ModelOutput, BatchOutputs):
    """What the masked language model returns.

    Attributes:
        loss: mlm_loss + ratio_weight * ratio_loss; only with labels.
        logits: (B, L, V).
        last_hidden_state: (B, L, D), zero on padding.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None


@dataclass
class LDARNetClassifierOutput(ModelOutput, BatchOutputs):
    """What the classifier returns.

    Attributes:
        loss: cross-entropy + ratio_weight * ratio_loss; only with labels.
        logits: (B, classes).
        last_hidden_state: (B, L, D), zero on padding.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None


class LDARNetPreTrainedModel(PreTrainedModel):
    """Initialisation, and what a trainer asks about parameters."""

    config_class = LDARNetConfig
    base_model_prefix = "model"
    _input_embed_layer = "embeddings"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True

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
        """Let the layers of these stages, and of no others, be computed again in the backward pass.

        Between the passes such a layer keeps its inputs only: less memory for about a third more work.

        Args:
            stages: depths, 0 the outermost.
        """
        for module in self.modules():
            if isinstance(module, Stack):
                module.gradient_checkpointing = module.stage in stages

    def parameter_stage(self) -> dict[str, int]:
        """Stage of each parameter: 0 for the outermost stage, embedding and head; largest in the main network."""
        stages = dict.fromkeys(self._names(), 0)
        for prefix, module in self.named_modules():  # inner stages come after the stages that contain them
            if isinstance(module, Stage):
                stages |= {name: module.depth for name, _ in module.named_parameters(prefix)}
        return stages

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
            attention_mask: (B, L), 0 on padding; by default everything but [PAD] is read. A mask that is kept on the
                host spares a wait for the device.

        Raises:
            ValueError: a batch without a single base, or a mask of another shape.
        """
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask of shape {tuple(attention_mask.shape)}: input_ids have {tuple(input_ids.shape)}"
            )
        real_BL = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        place_T = real_BL.flatten().nonzero().squeeze(1)
        if not len(place_T):
            raise ValueError("input_ids: the batch holds nothing but padding; give at least one base")
        device = input_ids.device
        lengths = real_BL.sum(1).to(device, non_blocking=True)
        packing = Packing.of_lengths(lengths, len(place_T), real_BL.shape[1])
        rows = Rows(real_BL.shape, None if len(place_T) == real_BL.numel() else place_T.to(device, non_blocking=True))
        hidden_TD, routings = self.backbone(self.embeddings(rows.pack(input_ids)), packing)
        boundaries = tuple(
            _boundaries(routing, rows if stage == 0 else Rows.of_packing(routing[2]))
            for stage, routing in enumerate(routings)
        )
        output = LDARNetOutput(last_hidden_state=rows.unpack(hidden_TD))
        output.boundaries = boundaries
        return output


def _boundaries(routing: Routing, rows: Rows) -> Boundaries:
    probability_T, mask_T, packing = routing
    return Boundaries(rows.unpack(probability_T), rows.unpack(mask_T), packing.lengths)


@dataclass(frozen=True)
class Rows:
    """The way from a padded batch to a packed row and back.

    Attributes:
        shape: (B, L).
        place: (T,), where each packed position stands in the flattened batch; None when nothing is padding.
    """

    shape: torch.Size
    place: Tensor | None

    @classmethod
    def of_packing(cls, packing: Packing) -> Rows:
        """Every sequence of a packed row in a row of its own, as long as the max_length may be."""
        shape = torch.Size([len(packing.starts) - 1, packing.max_length])
        return cls(shape, packing.sequence * packing.max_length + packing.position)

    def pack(self, x_BL: Tensor) -> Tensor:
        """(B, L) to (T,)."""
        return x_BL.flatten() if self.place is None else x_BL.flatten()[self.place]

    def unpack(self, x_T: Tensor) -> Tensor:
        """(T, ...) to (B, L, ...), 0 on padding."""
        if self.place is not None:
            x_T = x_T.new_zeros(self.shape.numel(), *x_T.shape[1:]).index_copy(0, self.place, x_T)
        return x_T.unflatten(0, self.shape)


class LDARNetForMaskedLM(LDARNetPreTrainedModel):
    """LDARNet with a linear head over letters."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: LDARNetConfig) -> None:
        """Build with fresh weights; head and embedding are one matrix if ``config.tie_word_embeddings``."""
        super().__init__(config)
        self.model = LDARNetModel(config)
        self.lm_head = Fp32Linear(config.d_model[0], config.vocab_size, bias=False)
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
    """LDARNet with a linear classifier on the mean over real bases."""

    def __init__(self, config: LDARNetConfig) -> None:
        """Build with fresh weights for ``config.num_labels`` classes.

        Raises:
            ValueError: less than two classes, or a ``problem_type`` other than one class of several.
        """
        if (config.num_labels or 0) < 2 or config.problem_type not in (None, PROBLEM):
            raise ValueError(
                f"num_labels={config.num_labels}, problem_type={config.problem_type!r}: this classifier chooses one of "
                f"two classes or more ({PROBLEM})"
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
            attention_mask: (B, L), 0 on padding; by default everything but [PAD] is read.
            labels: (B,) int64.

        Raises:
            ValueError: labels that are no classes.
        """
        out = self.model(input_ids, attention_mask)
        real = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        lengths = real.sum(1, keepdim=True).clamp(min=1).to(input_ids.device)
        logits = self.classifier(out.last_hidden_state.sum(1) / lengths)
        ratio_loss, _ = batch_ratio_loss(out.boundaries, self.config.target_ratio)
        loss = None
        if labels is not None:
            if labels.is_floating_point():
                raise ValueError(f"labels of {labels.dtype}: give the number of a class for each sequence, int64")
            loss = F.cross_entropy(logits, labels) + self.config.ratio_weight * ratio_loss
        output = LDARNetClassifierOutput(loss=loss, logits=logits, last_hidden_state=out.last_hidden_state)
        output.ratio_loss, output.boundaries = ratio_loss, out.boundaries
        return output
