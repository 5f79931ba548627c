"""Model configuration, with presets for the published models and for smaller ones."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import field, fields
from typing import Any

from transformers import PretrainedConfig

from ldarnet import alphabet
from ldarnet.model.chunking import ChunkingMethod, Option, complete_options, method_of
from ldarnet.model.layout import check_layout, depth, layer_letters, stage_stacks
from ldarnet.tokenization import tokenization

SSM_DEFAULTS: dict[str, int] = {"d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64, "chunk_size": 256}
ATTENTION_KEYS = {"num_heads": 1, "rotary_emb_dim": 0, "window_size": -1}
"""Keys of ``attn_cfg``, each with the minimum of its values."""

SAVED_IF_CHANGED: dict[str, Any] = {"tokenizer": None, "causal": False, "output_boundaries": False}
"""Fields that `LDARNetConfig.to_dict` leaves out if they have these values."""

SAVED_BY_OTHERS = {
    *("model_type", "_name_or_path", "torch_dtype", "num_labels", "output_attentions"),
    *("use_cache", "bos_token_id", "eos_token_id", "cropped_to", "longest_trained", "strands"),
}
"""Keys of ``config.json`` besides the fields of the class: written by transformers, ``Trainer`` and our fine-tuning."""

REFERENCE_MODULE = "modeling_ldarnet"
"""Module in exports that runs the model without this package; see :mod:`ldarnet.model.hub`."""

MAX_PARAMETERS = 20 * 10**9
"""Maximum estimated number of parameters; every rank initializes all of them in fp32."""

PRESETS: dict[str, dict[str, Any]] = {
    "ldarnet-110m": {
        "arch_layout": ["m3t1", ["M10"], "m4"],
        "d_model": [512, 768],
        "d_intermediate": [0, 2560],
        "attn_cfg": {"num_heads": [16, 16], "rotary_emb_dim": [32, 48], "window_size": [1023, -1]},
    },
    "ldarnet-2m": {
        "arch_layout": ["m3t1", ["M6"], "m3"],
        "d_model": [64, 128],
        "d_intermediate": [0, 384],
        "attn_cfg": {"num_heads": [2, 4], "rotary_emb_dim": [32, 32], "window_size": [1023, -1]},
    },
    "quickstart": {
        "arch_layout": ["m1t1", ["M2"], "m1"],
        "d_model": [64, 96],
        "d_intermediate": [0, 256],
        "ssm_cfg": {"d_state": 16, "headdim": 32, "chunk_size": 64},
        "attn_cfg": {"num_heads": [2, 2], "rotary_emb_dim": [32, 32], "window_size": [63, -1]},
    },
    "tiny": {
        "arch_layout": ["m1t1", ["M1"], "m1"],
        "d_model": [16, 24],
        "d_intermediate": [0, 32],
        "ssm_cfg": {"d_state": 8, "headdim": 8, "chunk_size": 16},
        "attn_cfg": {"num_heads": [2, 2], "rotary_emb_dim": [8, 8], "window_size": [7, -1]},
    },
}


def _default(name: str) -> Any:
    return field(default_factory=lambda: deepcopy(PRESETS["ldarnet-2m"][name]))


def _names_reference_code(auto_map: object) -> bool:
    """Whether an ``auto_map`` names only classes of the code that we write into exports."""
    return isinstance(auto_map, dict) and all(
        str(name).startswith(f"{REFERENCE_MODULE}.") for name in auto_map.values()
    )


class LDARNetConfig(PretrainedConfig):
    """Configuration of an LDARNet model (arXiv 2606.04552).

    Lists have one entry per stage, outermost first. Defaults are those of the ``ldarnet-2m`` preset.

    Args:
        arch_layout: nested layout; see :mod:`ldarnet.model.layout`.
        d_model: width of each stage; must not decrease from one stage to the next inner stage.
        d_intermediate: hidden width of the SwiGLU MLPs of each stage, rounded up to a multiple of 128; unused
            in stages without uppercase layout letters.
        ssm_cfg: BiMamba-2 settings ``d_state``, ``d_conv``, ``expand``, ``headdim`` and ``chunk_size`` (block size of
            mamba-ssm's kernels).
        attn_cfg: lists ``num_heads``, ``rotary_emb_dim`` and ``window_size`` (visible positions on each side; -1 for no
            limit).
        chunking: ``method``, and options that depend on it; see :mod:`ldarnet.model.chunking`. Options that are not
            given have their defaults; the default method is the published one.
        causal: whether no position sees its future: layers, router and smoothing run from left to right, as in H-Net
            (arXiv 2507.07955), and the model predicts the next base. Restricts `chunking` to what does not look ahead,
            and changes its defaults accordingly.
        target_ratio: target compression ratio of each stage, in positions per chunk.
        ratio_weight: weight of the ratio loss relative to the loss of the predictions.
        tokenizer: tokens of several bases that the model reads, such as ``{"method": "kmers", "k": 6}``; None for
            bases. See :mod:`ldarnet.tokenization`. Requires a layout of a single stack. ``vocab_size`` is derived.
        output_boundaries: whether outputs have the entries ``boundary_probability`` and ``boundary_mask``.
        ops: backend by operation, e.g. ``{"ssd": "torch"}``; for operations that are not listed, the backend is
            selected automatically. Not saved with the model, because a backend may be unavailable where the model is
            loaded.

    Unknown keys of a ``config.json`` are ignored with a warning, so that a downloaded file cannot select other
    attention kernels, quantization or remote code. An ``auto_map`` that names `REFERENCE_MODULE`, as in our exports, is
    ignored without a warning.

    Raises:
        ValueError: a field is invalid, out of range or inconsistent with another field. The message starts with the
            name of the field.
    """

    model_type = "ldarnet"
    keys_to_ignore_at_inference = ["last_hidden_state", "hidden_states", "boundary_probability", "boundary_mask"]

    arch_layout: list[Any] = _default("arch_layout")
    d_model: list[int] = _default("d_model")
    d_intermediate: list[int] = _default("d_intermediate")
    ssm_cfg: dict[str, int] = field(default_factory=SSM_DEFAULTS.copy)
    attn_cfg: dict[str, list[int]] = _default("attn_cfg")
    vocab_size: int = alphabet.VOCAB_SIZE
    chunking: dict[str, Option] = field(default_factory=dict)
    causal: bool = False
    target_ratio: float = 4.0
    ratio_weight: float = 0.03
    tokenizer: dict[str, Any] | None = None
    ops: dict[str, str] = field(default_factory=dict)
    pad_token_id: int | None = alphabet.PAD
    mask_token_id: int = alphabet.MASK
    output_boundaries: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in missing keys of ``ssm_cfg`` and validate the configuration."""
        if isinstance(self.ssm_cfg, dict):
            self.ssm_cfg = SSM_DEFAULTS | self.ssm_cfg
        if self.tokenizer is not None and self.vocab_size == alphabet.VOCAB_SIZE:
            self.vocab_size = len(tokenization(self.tokenizer).tokens)
        self.chunking = complete_options(self.chunking, causal=self.causal)
        self._check()
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from the content of a ``config.json``; ``kwargs`` override its keys, as in transformers.

        Raises:
            ValueError: a field has the wrong type, or is invalid, out of range or inconsistent with another field.
        """
        from ldarnet.model.saved import check_config

        known = {one.name for one in fields(cls)} - {"ops"} | SAVED_BY_OTHERS
        unknown = config_dict.keys() - known
        if _names_reference_code(config_dict.get("auto_map")):
            unknown -= {"auto_map"}
        if unknown := sorted(map(str, unknown)):
            warnings.warn(f"config.json: ignored unknown keys {', '.join(unknown)[:200]!r}", stacklevel=2)
        content = {key: value for key, value in config_dict.items() if key in known}
        check_config(content | kwargs)
        return super().from_dict(content, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are saved with a model."""
        left_out = {"ops", *(name for name, value in SAVED_IF_CHANGED.items() if getattr(self, name) == value)}
        return {key: value for key, value in super().to_dict().items() if key not in left_out}

    @classmethod
    def preset(cls, name: str, **changes: Any) -> LDARNetConfig:
        """Build the configuration of a preset; ``changes`` override its fields.

        Raises:
            ValueError: unknown preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset: {name!r} is unknown; choose one of {', '.join(PRESETS)}")
        return cls(**(deepcopy(PRESETS[name]) | changes))

    @property
    def num_stages(self) -> int:
        """Number of stages, including the main network."""
        return depth(self.arch_layout)

    @property
    def directions(self) -> int:
        """Number of directions of each Mamba-2 mixer."""
        return 1 if self.causal else 2

    @property
    def ratio_loss(self) -> str:
        """Form of the ratio loss; see :mod:`ldarnet.model.losses`."""
        return str(self.chunking["ratio_loss"])

    @property
    def expected_ratio(self) -> float | None:
        """Expected number of positions per chunk in each stage; None if it must be measured on data."""
        return self.chunking_method.expected_ratio(self.target_ratio)

    @property
    def chunking_method(self) -> type[ChunkingMethod]:
        """Class of the chunking method."""
        return method_of(self.chunking)

    def _check(self) -> None:
        check_layout(self.arch_layout)
        stages = self.num_stages
        for name in ("d_model", "d_intermediate"):
            if len(getattr(self, name)) != stages:
                raise ValueError(f"{name}: {getattr(self, name)} must have one entry for each of the {stages} stages")
        if unknown := self.ssm_cfg.keys() - SSM_DEFAULTS.keys():
            raise ValueError(f"ssm_cfg: unknown keys {sorted(unknown)}; known keys are {', '.join(SSM_DEFAULTS)}")
        if unknown := self.attn_cfg.keys() - ATTENTION_KEYS.keys():
            raise ValueError(f"attn_cfg: unknown keys {sorted(unknown)}; known keys are {', '.join(ATTENTION_KEYS)}")
        self._check_numbers()
        if self.tokenizer is not None:
            self._check_tokenizer()
        self.chunking_method.check(self.target_ratio)
        if self.num_stages == 1 and self.chunking != complete_options({}, causal=self.causal):
            raise ValueError(f"chunking: a single stack, {self.arch_layout}, has no chunks; remove chunking")
        if self.num_stages > 2 and not self.chunking_method.nested:
            raise ValueError(
                f"chunking: method {self.chunking['method']} works at a single router; set arch_layout to two stages, "
                "such as ['m3t1', ['M10'], 'm4']"
            )
        if any(inner < outer for outer, inner in zip(self.d_model, self.d_model[1:], strict=False)):
            raise ValueError(f"d_model: {self.d_model} must not decrease from one stage to the next inner stage")
        for width in self.d_model:
            if width * self.ssm_cfg["expand"] % self.ssm_cfg["headdim"]:
                raise ValueError(
                    f"d_model: {width} * expand {self.ssm_cfg['expand']} must be a multiple of "
                    f"headdim {self.ssm_cfg['headdim']}"
                )
        if "t" in str(self.arch_layout).lower():
            self._check_attention(stages)
        if (parameters := self._estimate_parameters()) > MAX_PARAMETERS:
            raise ValueError(
                f"d_model: the model would have about {parameters / 1e9:,.0f} billion parameters, more than "
                f"{MAX_PARAMETERS // 10**9} billion; reduce d_model, d_intermediate, ssm_cfg or arch_layout"
            )

    def _estimate_parameters(self) -> int:
        """Estimate the number of parameters: the weights of all matrices, without norms, convolutions or biases."""
        expand, state, headdim = (self.ssm_cfg[key] for key in ("expand", "d_state", "headdim"))
        stages = zip(stage_stacks(self.arch_layout), self.d_model, self.d_intermediate, strict=True)
        total = 2 * self.vocab_size * self.d_model[0]
        for stage, (stacks, width, hidden) in enumerate(stages):
            mamba = width * (3 * expand * width + 2 * state + expand * width // headdim)
            letters = "".join(layer_letters(stack) for stack in stacks)
            mixers = sum(4 * width**2 if letter in "tT" else mamba for letter in letters)
            mlps = 3 * width * -(-hidden // 128) * 128 * sum(letter.isupper() for letter in letters)
            router = (1 + 2 * self.chunking_method.has_router) * width**2 if stage < self.num_stages - 1 else 0
            total += mixers + mlps + router
        return total

    def _check_tokenizer(self) -> None:
        assert self.tokenizer is not None
        if self.num_stages > 1:
            raise ValueError(
                f"tokenizer: a model that reads tokens has no router; set arch_layout to a single stack, such as "
                f"['M6'], not {self.arch_layout}"
            )
        if self.vocab_size != (size := len(tokenization(self.tokenizer).tokens)):
            raise ValueError(f"vocab_size: must be {size}, the size of the vocabulary of tokenizer")

    def _check_numbers(self) -> None:
        if self.pad_token_id is None:
            raise ValueError("pad_token_id: None is not a token id; set it to the id of [PAD]")
        if self.vocab_size <= max(self.pad_token_id, self.mask_token_id):
            raise ValueError(f"vocab_size: must be greater than the ids of [MASK] and [PAD], not {self.vocab_size}")
        if self.target_ratio <= 1:
            raise ValueError(f"target_ratio: must be more than 1 position per chunk, not {self.target_ratio}")
        positive = {"d_model": self.d_model} | {f"ssm_cfg.{key}": [value] for key, value in self.ssm_cfg.items()}
        for name, values in positive.items():
            if min(values) < 1:
                raise ValueError(f"{name}: must be at least 1, not {min(values)}")
        for stage, (stacks, hidden) in enumerate(zip(stage_stacks(self.arch_layout), self.d_intermediate, strict=True)):
            minimum = 1 if any(letter.isupper() for letter in "".join(stacks)) else 0
            if hidden < minimum:
                raise ValueError(
                    f"d_intermediate: must be at least {minimum} for layout {', '.join(stacks)} of stage {stage}, "
                    f"not {hidden}"
                )

    def _check_attention(self, stages: int) -> None:
        for name, minimum in ATTENTION_KEYS.items():
            values = self.attn_cfg.get(name, [])
            if len(values) != stages:
                raise ValueError(f"attn_cfg.{name}: must have one entry for each of the {stages} stages")
            if min(values) < minimum:
                raise ValueError(f"attn_cfg.{name}: must be at least {minimum}, not {min(values)}")
        for width, heads, rotary in zip(
            self.d_model, self.attn_cfg["num_heads"], self.attn_cfg["rotary_emb_dim"], strict=True
        ):
            if width % heads:
                raise ValueError(f"attn_cfg.num_heads: {heads} does not divide d_model {width}")
            if rotary % 2 or rotary > width // heads:
                raise ValueError(
                    f"attn_cfg.rotary_emb_dim: must be even and at most the head dimension {width // heads}, "
                    f"not {rotary}"
                )
