"""Hugging Face base class and backbone.

Shapes: B sequences, L positions including padding, T packed positions, V vocabulary size, D width of the outermost
stage.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ldarnet.model.bimamba2 import BiMamba2
from ldarnet.model.blocks import AddNorm, LocalAttention, Stack, SwiGLU
from ldarnet.model.chunking import Tokens
from ldarnet.model.chunking.given import GivenBoundaries, count_chunks
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.integrity import check_saved, check_weights, update_manifest
from ldarnet.model.linear import INITIAL_STD, initialize_linear
from ldarnet.model.network import Stage
from ldarnet.model.outputs import BatchPadding, LDARNetOutput, as_requested, at_positions, padded_boundaries
from ldarnet.ops import Packing, to_device


class LDARNetPreTrainedModel(PreTrainedModel):
    """Base class of the models. It initializes weights, sets activation checkpointing and groups parameters."""

    config_class = LDARNetConfig
    base_model_prefix = "model"
    _input_embed_layer = "embeddings"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Stage"]  # device_map="auto" keeps the hierarchy on one device

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, verify: bool | None = None, **kwargs: Any
    ) -> Any:
        """Load a model as `PreTrainedModel.from_pretrained` does, and check its files and weights.

        Args:
            pretrained_model_name_or_path: folder, or name on the Hugging Face Hub.
            args: passed to `PreTrainedModel.from_pretrained`.
            verify: whether to compare the files with the manifest of the folder, if there is one. The default is False
                if the environment variable `LDARNET_VERIFY` is 0, and True otherwise.
            kwargs: passed to `PreTrainedModel.from_pretrained`.

        Raises:
            UserError: a file does not match the manifest, or a weight is not finite.
        """
        check_saved(pretrained_model_name_or_path, kwargs.get("subfolder"), verify)
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

    def set_chunk_capacity(self, factor: float | None) -> None:
        """Make the number of chunks static in training mode, so that the host does not wait for the device to count.

        Each stage computes ``factor`` times the target number of chunks; those that a batch does not use are padding,
        which changes neither losses nor gradients. If a batch has more chunks, its output is NaN. In evaluation mode,
        chunks are always counted. No effect where the host knows the number of chunks, or if it has no target.

        Args:
            factor: capacity relative to the target; None to count chunks.
        """
        for module in self.modules():
            if isinstance(module, Stage) and not module.innermost:
                share = factor if module.depth == 0 else 1.0  # the positions of inner stages include the reserve
                ratio = self.config.expected_ratio
                module.slots_per_position = None if factor is None or ratio is None else share / ratio

    def parameter_stage(self) -> dict[str, int]:
        """Stage number of each parameter, by parameter name.

        The number is 0 for the outermost stage, the embedding and the head. It is largest for the main network.
        """
        stages = dict.fromkeys(self._names(), 0)
        for prefix, module in self.named_modules():  # an inner stage comes after the stages that enclose it
            if isinstance(module, Stage):
                stages |= {name: module.depth for name, _ in module.named_parameters(prefix)}
        return stages

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: biases, norms, A_log, D and dt_bias."""
        suffixes = ("bias", "norm.weight", "norm1.weight", "norm2.weight", "norm_weight", "A_log", ".D")
        return {name for name in self._names() if name.endswith(suffixes)}

    def matrix_rows(self) -> dict[str, tuple[int, ...]]:
        """Rows of the matrices that are stacked in each weight of a hidden layer, by parameter name.

        A fused projection consists of several matrices. Embedding, head and router are not hidden layers.
        """
        rows: dict[str, tuple[int, ...]] = {}
        for prefix, module in self.named_modules():
            if isinstance(module, BiMamba2 | LocalAttention | Stage | SwiGLU):
                rows |= {f"{prefix}.{name}": stacked for name, stacked in module.matrix_rows().items()}
        return rows

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

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        boundaries: Tensor | None = None,
        output_boundaries: bool | None = None,
    ) -> LDARNetOutput | tuple[Any, ...]:
        """Encode a batch. The output for a sequence does not depend on the other sequences in the batch.

        Args:
            input_ids: (B, L) int64; [PAD] is allowed anywhere.
            attention_mask: (B, L), 0 on padding. [PAD] tokens are padding even without a mask or where the mask is 1.
                This does not apply if the mask and the ids are on different devices: the mask must then be 0 at [PAD]
                tokens. For ids on a GPU, a mask on the CPU avoids a device synchronization.
            inputs_embeds: (B, L, D), embeddings to use instead of ``input_ids``.
            output_attentions: not supported.
            output_hidden_states: whether to return ``hidden_states``; by default, as in the configuration.
            return_dict: whether to return an output object instead of a tuple; by default, as in the configuration.
            boundaries: (B, L) bool, True where chunks begin; only for chunking methods whose boundaries are computed
                outside of the network. By default, the method finds them in ``input_ids``. For ids on a GPU, boundaries
                and mask on the CPU avoid a device synchronization.
            output_boundaries: whether to return ``boundary_probability`` and ``boundary_mask``; by default, as in the
                configuration. The attribute ``boundaries`` of the output is always set.

        Raises:
            UserError: the chunking method requires ``boundaries``.
            ValueError: the batch contains only padding, ``attention_mask`` and the input differ in shape, both or
                neither of ``input_ids`` and ``inputs_embeds`` are given, or attention weights are requested.
        """
        _check_not_exported()
        if self.config.output_attentions if output_attentions is None else output_attentions:
            raise ValueError("output_attentions: LDARNet does not return attention weights; use output_hidden_states")
        real_BL = self.real_positions(input_ids, attention_mask, inputs_embeds)
        index_T = real_BL.flatten().nonzero().squeeze(1)
        if not len(index_T):
            raise ValueError("input_ids: the batch contains only padding; pass at least one base")
        given = _given(input_ids, inputs_embeds)
        lengths = real_BL.sum(1)
        known = tuple(lengths.tolist()) if lengths.device.type == "cpu" else None
        packing = Packing.of_lengths(to_device(lengths, given.device), len(index_T), real_BL.shape[1], known)
        unpadded = len(index_T) == real_BL.numel()
        padding = BatchPadding(real_BL.shape, None if unpadded else to_device(index_T, given.device))
        ids_T = None if input_ids is None else padding.pack(input_ids)
        x_TD = padding.pack(given) if ids_T is None else self.embeddings(ids_T)
        tokens = Tokens(ids_T, self.config.mask_token_id)
        if boundaries is not None or issubclass(self.config.chunking_method, GivenBoundaries):
            boundary_BL, chunks = self._given_boundaries(boundaries, input_ids, real_BL)
            tokens = replace(tokens, boundary=padding.pack(to_device(boundary_BL, given.device)), chunks=chunks)
        hidden_TD, routings, states = self.backbone(x_TD, packing, tokens)
        found = tuple(
            padded_boundaries(routing, padding if stage == 0 else BatchPadding.of_packing(routing.packing))
            for stage, routing in enumerate(routings)
        )
        last = padding.unpack(hidden_TD)
        output = LDARNetOutput(last_hidden_state=last)
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            inner = (
                (padding if of is packing else BatchPadding.of_packing(of)).unpack(state_TD)
                for state_TD, of in states[:-1]
            )
            output.hidden_states = (padding.unpack(x_TD), *inner, last)
        if self.config.output_boundaries if output_boundaries is None else output_boundaries:
            output.boundary_probability, output.boundary_mask = at_positions(found, real_BL.shape, last.device)
        output.boundaries = found
        return as_requested(output, self.config.return_dict if return_dict is None else return_dict)

    def _given_boundaries(
        self, boundary_BL: Tensor | None, input_ids: Tensor | None, real_BL: Tensor
    ) -> tuple[Tensor, tuple[int, ...] | None]:
        """Boundaries that are computed outside of the network, and the number of chunks of each sequence if known."""
        method = getattr(self.backbone, "router", None)
        if not isinstance(method, GivenBoundaries):
            raise ValueError("boundaries: the network of this model computes its own; leave the argument out")
        if boundary_BL is None:
            if input_ids is None:
                raise ValueError("inputs_embeds: this chunking method needs token ids; pass input_ids or boundaries")
            boundary_BL, real_BL = method.find(input_ids, real_BL), real_BL.cpu()
        if boundary_BL.shape != real_BL.shape or boundary_BL.dtype != torch.bool:
            raise ValueError(f"boundaries: must be bool with the shape of the input, {tuple(real_BL.shape)}")
        on_host = boundary_BL.device.type == real_BL.device.type == "cpu"
        return boundary_BL, count_chunks(boundary_BL, real_BL) if on_host else None

    def real_positions(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        """Boolean mask, (B, L), that is False on padding; for the arguments, see `forward`.

        The result is on the device of ``attention_mask`` if that is given, and on the device of the input otherwise.

        Raises:
            ValueError: both or neither of ``input_ids`` and ``inputs_embeds`` are given, or the mask and the input
                differ in shape.
        """
        given = _given(input_ids, inputs_embeds)
        shape = given.shape[:2] if inputs_embeds is not None else given.shape
        if attention_mask is not None and attention_mask.shape != shape:
            raise ValueError(
                f"attention_mask: shape {tuple(attention_mask.shape)} does not match the shape of input_ids, "
                f"{tuple(shape)}"
            )
        if inputs_embeds is not None:
            ones = torch.ones(shape, dtype=torch.bool, device=given.device)
            return ones if attention_mask is None else attention_mask.bool()
        if attention_mask is not None and attention_mask.device != given.device:
            return attention_mask.bool()
        real_BL = given != self.config.pad_token_id
        return real_BL if attention_mask is None else real_BL & attention_mask.bool()


def _given(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    match input_ids, inputs_embeds:
        case (Tensor() as given, None) | (None, Tensor() as given):
            return given
    raise ValueError("input_ids: give exactly one of input_ids and inputs_embeds")


def _check_not_exported() -> None:
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        raise NotImplementedError(
            "torch.export, ONNX and torch.jit.trace do not support LDARNet: its number of chunks depends on the data, "
            "so a recorded graph is wrong for other sequences; run the model in PyTorch"
        )
