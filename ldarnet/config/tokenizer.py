"""Configuration section of the tokens that a model reads."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from ldarnet.config.sections import MAY_CHANGE, Section
from ldarnet.errors import UserError
from ldarnet.io.records import read_record
from ldarnet.tokenization import METHODS, Tokenization, tokenization_of
from ldarnet.tokenization.base import MAX_VOCAB


class _BpeModel(BaseModel):
    vocab: Annotated[dict[str, int], Field(min_length=1, max_length=MAX_VOCAB)]
    merges: Annotated[list[str | tuple[str, str]], Field(max_length=MAX_VOCAB)]


class _TokenizerJson(BaseModel):
    """Content of a tokenizer.json of the library `tokenizers`."""

    model: _BpeModel


class TokenizerSection(Section):
    """Tokens of several bases that the model reads instead of bases. Requires `arch_layout` to be a single stack."""

    method: str = Field(description="kmers: non-overlapping k-mers. bpe: byte-pair encoding.")
    k: int | None = Field(None, ge=2, le=8, description="Bases per token (kmers only).")
    file: Path | None = Field(
        None,
        description="tokenizer.json written by `ldarnet train-tokenizer` (bpe only).",
        json_schema_extra=MAY_CHANGE,
    )

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        return method

    @model_validator(mode="after")
    def _only_keys_of_the_method(self) -> Self:
        key = "file" if self.method == "bpe" else "k"
        if getattr(self, key) is None or self.model_dump(exclude_none=True).keys() != {"method", key}:
            raise ValueError(f"method={self.method} takes the key {key!r} and no other key; set {key}=...")
        return self

    @property
    def span(self) -> int:
        """Masked spans must be this number of bases, or a multiple of it."""
        return self.k or 1

    def settings(self) -> dict[str, Any]:
        """Settings to store with the model; see :func:`ldarnet.tokenization.tokenization`.

        Raises:
            UserError: the file cannot be read, or contains another tokenizer.
        """
        if self.file is None:
            return self.model_dump(exclude_none=True)
        return read_tokenizer(self.file, self.method).settings

    def shape_settings(self) -> dict[str, Any]:
        """Settings without the content of a file, which may not exist where a configuration is only read."""
        return {"method": self.method, "merges": []} if self.file is not None else self.settings()


def read_tokenizer(file: Path, method: str) -> Tokenization:
    """Read a tokenizer.json.

    Args:
        file: the file.
        method: expected method; a key of `METHODS`.

    Raises:
        UserError: the file cannot be read, or contains another tokenizer.
    """
    hint = "write it with `ldarnet train-tokenizer`"
    content = read_record(file, _TokenizerJson, hint=hint).model
    try:
        found = tokenization_of(content.vocab, content.merges)
    except ValueError as error:
        raise UserError(f"{file}: {error}; {hint}") from None
    if found.method != method:
        raise UserError(f"{file}: contains a tokenizer of method {found.method}, not {method}; {hint}")
    return found
