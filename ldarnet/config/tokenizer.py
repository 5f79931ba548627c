"""Configuration section of the tokens that a model reads."""

from typing import Any

from pydantic import Field, field_validator

from ldarnet.config.sections import Section
from ldarnet.tokenization import METHODS, Tokenization, tokenization


class TokenizerSection(Section):
    """Tokens of several bases that the model reads instead of bases. Requires `arch_layout` to be a single stack."""

    method: str = Field(description="kmers: non-overlapping k-mers.")
    k: int | None = Field(None, ge=2, le=8, description="Bases per token (kmers only).")

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        return method

    def settings(self) -> dict[str, Any]:
        """Settings to store with the model; see :func:`ldarnet.tokenization.tokenization`.

        Raises:
            ValueError: a setting of the method is missing, or a setting does not belong to it.
        """
        return self.build().settings

    def build(self) -> Tokenization:
        """Build the tokenization.

        Raises:
            ValueError: see `settings`.
        """
        return tokenization(self.model_dump(exclude_none=True))
