"""Configuration section of the model."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from ldarnet.config.sections import MAX_FACTOR, MAX_WIDTH, MAY_CHANGE, Section
from ldarnet.config.tokenizer import TokenizerSection, read_tokenizer
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.layout import MAX_STAGES, check_layout

StageWidths = Annotated[list[Annotated[int, Field(ge=0, le=MAX_WIDTH)]], Field(max_length=MAX_STAGES)]
StageNumbers = Annotated[list[Annotated[int, Field(ge=-1, le=2**31)]], Field(max_length=MAX_STAGES)]


class ModelSection(Section):
    """Model preset, and overrides of its fields."""

    preset: str = Field("ldarnet-2m", description="Preset: ldarnet-110m, ldarnet-2m, quickstart or tiny.")
    arch_layout: list[Any] | None = Field(
        None,
        description="Layers as [encoder, inner layout, decoder], such as ['m3t1', ['M10'], 'm4']: m for Mamba-2, t for "
        "attention, upper case for a layer with an MLP.",
    )
    d_model: StageWidths | None = Field(None, description="Width of each stage, outermost first.")
    d_intermediate: StageWidths | None = Field(
        None, description="SwiGLU hidden width of each stage; 0 for stages without MLPs."
    )
    ssm_cfg: dict[str, Annotated[int, Field(ge=1, le=MAX_WIDTH)]] | None = Field(
        None, description="Mamba-2 sizes: d_conv, expand, d_state, headdim, chunk_size."
    )
    attn_cfg: dict[str, StageNumbers] | None = Field(
        None, description="Attention: num_heads, rotary_emb_dim and window_size, each with one value per stage."
    )
    chunking: dict[str, str | Annotated[int, Field(ge=0, lt=2**31)]] | None = Field(
        None,
        description="Method that selects where chunks begin, and its options, such as {method: grid, phase: random}; "
        "see ldarnet/model/chunking/README.md.",
    )
    chunking_tokenizer: Path | None = Field(
        None,
        description="tokenizer.json written by `ldarnet train-tokenizer`, for model.chunking.method=bpe: chunks begin "
        "where its tokens begin.",
        json_schema_extra=MAY_CHANGE,
    )
    causal: bool | None = Field(
        None,
        description="Train left to right: no position sees its future, and the model predicts the next base instead of "
        "masked bases. Mamba-2 runs in one direction, and chunking must not look ahead.",
    )
    tie_word_embeddings: bool | None = Field(
        None, description="Share weights between the embedding and the output layer."
    )
    target_ratio: float | None = Field(
        None, gt=1, le=MAX_FACTOR, description="Target compression ratio: positions per chunk at each router."
    )
    ratio_weight: float | None = Field(None, ge=0, le=MAX_FACTOR, description="Weight of the ratio loss.")
    tokenizer: TokenizerSection | None = Field(
        None, description="Tokens of several bases that the model reads, such as {method: kmers, k: 6}; null for bases."
    )

    @field_validator("arch_layout")
    @classmethod
    def _layout(cls, layout: list[Any] | None) -> list[Any] | None:
        if layout is not None:
            try:
                check_layout(layout)
            except ValueError as error:
                raise ValueError(str(error).removeprefix("arch_layout: ")) from None
        return layout

    def build(self, ops: dict[str, str], *, files: bool = True) -> LDARNetConfig:
        """Build the model configuration.

        Args:
            ops: kernel overrides (operation -> backend).
            files: whether to read `tokenizer.file` and `chunking_tokenizer`; otherwise, the vocabulary and the merges
                of the result are stand-ins.

        Raises:
            UserError: the file cannot be read.
            ValueError: unknown preset or inconsistent fields.
        """
        changes = self.model_dump(
            include=ModelSection.model_fields.keys() - {"preset", "chunking_tokenizer"}, exclude_none=True
        )
        if (words := self._merges(files=files)) is not None:
            changes["chunking"]["merges"] = words
        if self.tokenizer is not None:
            changes["tokenizer"] = self.tokenizer.settings() if files else self.tokenizer.shape_settings()
        for nested in ("ssm_cfg", "attn_cfg"):
            if nested in changes:
                changes[nested] = {**getattr(LDARNetConfig.preset(self.preset), nested), **changes[nested]}
        return LDARNetConfig.preset(self.preset, **changes, **({"ops": ops} if ops else {}))

    def _merges(self, *, files: bool) -> list[str] | None:
        """Merges for the chunking method bpe; None for other methods."""
        file, used = self.chunking_tokenizer, (self.chunking or {}).get("method") == "bpe"
        if used != (file is not None):
            raise ValueError(
                "chunking_tokenizer: required by method bpe; write the file with `ldarnet train-tokenizer`"
                if used
                else "chunking_tokenizer: only for model.chunking.method=bpe; set it to null"
            )
        if file is None:
            return None
        return read_tokenizer(file, "bpe").settings["merges"] if files else []

    def check(self, ops: dict[str, str]) -> None:
        """Check that the model can be built.

        Raises:
            ValueError: see `build`; the message starts with a key, such as `model.d_model`.
        """
        try:
            self.build(ops, files=False)
        except ValueError as error:
            raise ValueError(f"model.{error}") from None
