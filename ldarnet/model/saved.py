"""Validation of the JSON files of saved models, before anything is built or allocated from their content.

Import this module only where such files are read, because it needs pydantic. Models can be used without pydantic.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Required

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.names import FileName
from ldarnet.io.records import describe, read_record
from ldarnet.tokenization import Tokenization, tokenization, tokenization_of
from ldarnet.tokenization.base import MAX_VOCAB

_Setting = Annotated[int, Field(le=2**16)]
_TokenId = Annotated[int, Field(ge=0, le=2**20)]
_Bases = Annotated[int, Field(ge=1, le=2**53)]
_DType = Literal["float64", "float32", "float16", "bfloat16"] | torch.dtype
_Merges = Annotated[list[str], Field(max_length=MAX_VOCAB)]
_Number = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]


def _check_labels(id2label: dict[Any, Any]) -> dict[Any, Any]:
    if {int(key) for key in id2label} != set(range(len(id2label))):
        raise ValueError("keys must be the integers from 0 to n - 1 for n labels")
    return id2label


@with_config(ConfigDict(strict=True, extra="forbid"))
class _TokenizerOptions(TypedDict, total=False):
    """Types and limits of the ``tokenizer`` of a ``config.json``."""

    method: Required[str]
    k: int
    merges: _Merges


@with_config(ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True))
class _Config(TypedDict, total=False):
    """Types and limits of the keys of ``config.json``."""

    d_model: list[_Setting]
    d_intermediate: list[Annotated[int, Field(le=2**20)]]
    ssm_cfg: dict[str, _Setting]
    attn_cfg: dict[str, list[Annotated[int, Field(le=2**31)]]]
    chunking: Annotated[dict[str, str | int | _Merges], Field(max_length=100)]
    causal: bool
    vocab_size: Annotated[int, Field(le=2**20)]
    tokenizer: _TokenizerOptions | None
    target_ratio: Annotated[float, Field(le=1e6)]
    ratio_weight: Annotated[float, Field(ge=0, le=1e6)]
    ops: dict[str, str]
    pad_token_id: _TokenId | None
    mask_token_id: _TokenId
    tie_word_embeddings: bool
    architectures: list[str] | None
    transformers_version: str | None
    output_hidden_states: bool | None
    output_attentions: bool | None
    output_boundaries: bool
    return_dict: bool | None
    dtype: _DType | None
    torch_dtype: _DType | None
    problem_type: str | None
    num_labels: Annotated[int, Field(ge=1, le=10**6)]
    id2label: Annotated[dict[int | _Number, str | int], Field(max_length=10**6), AfterValidator(_check_labels)] | None
    label2id: Annotated[dict[str | int, int], Field(max_length=10**6)] | None
    cropped_to: _Bases | None
    longest_trained: _Bases | None
    strands: Literal[1, 2] | None


_CONFIG = TypeAdapter(_Config)


def check_config(content: Mapping[str, Any]) -> None:
    """Check the types and ranges of the keys of a ``config.json``; missing and unknown keys are not checked.

    Raises:
        ValueError: a value has the wrong type or is out of range; the message starts with the key.
    """
    try:
        _CONFIG.validate_python(content)
    except ValidationError as error:
        raise ValueError(describe(error)) from None


class _TokenizerSettings(BaseModel):
    """Content of ``tokenizer_config.json``."""

    model_max_length: int | float | None = None
    padding_side: Literal["left", "right"] = "right"
    truncation_side: Literal["left", "right"] = "right"
    model_input_names: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, content: Any) -> Any:
        """Reject keys that make transformers open other files."""
        keys = {"auto_map", "gguf_file", "merges", "tokenizer_file", "tokenizer_object", "vocab", "vocab_file"}
        if isinstance(content, dict) and (found := sorted(keys & content.keys())):
            raise ValueError(f"key {found[0]!r} is not supported")
        return content


class _TokenizerModel(BaseModel):
    vocab: Annotated[dict[str, int], Field(min_length=1, max_length=MAX_VOCAB)]
    merges: Annotated[list[Any], Field(max_length=MAX_VOCAB)] | None = None


class _TokenizerFile(BaseModel):
    """Content of ``tokenizer.json``."""

    model: _TokenizerModel


_TOKENIZER_FILES: dict[str, type[BaseModel]] = {
    "tokenizer_config.json": _TokenizerSettings,
    "tokenizer.json": _TokenizerFile,
}


def check_tokenizer(folder: Path, vocabulary: Mapping[str, int], *, hint: str) -> None:
    """Check the tokenizer files of a folder; missing files are not checked.

    Args:
        folder: model folder, or folder with only a tokenizer.
        vocabulary: vocabulary of models that read bases.
        hint: what to do about a malformed file.

    Raises:
        UserError: a file is malformed, or the vocabulary is not that of the model in the folder. Without a model, any
            tokens of several bases may follow ``vocabulary``.
    """
    known = _saved_tokenization(folder, hint)
    for name, kind in _TOKENIZER_FILES.items():
        if (file := folder / name).is_file():
            content = read_record(file, kind, hint=hint)
            if isinstance(content, _TokenizerFile) and not _is_known(content.model, vocabulary, known):
                raise UserError(f"{file}: not the LDARNet vocabulary; {hint}")


def _saved_tokenization(folder: Path, hint: str) -> Tokenization | bool:
    """Tokenization of the model in a folder; True without a model, False for a model that reads bases."""
    if not (file := folder / run_files.MODEL_CONFIG).is_file():
        return True
    content = read_config_file(file, hint=hint)
    if content.get("model_type") != "ldarnet" or content.get("tokenizer") is None:
        return False
    try:
        check_config(content)
        return tokenization(content["tokenizer"])
    except ValueError as error:
        raise UserError(f"{file}: {error}; {hint}") from None


def _is_known(found: _TokenizerModel, bases: Mapping[str, int], known: Tokenization | bool) -> bool:
    if isinstance(known, Tokenization):
        return found.vocab == known.vocabulary
    if found.vocab == bases or not known:
        return found.vocab == bases
    try:
        return bool(tokenization_of(found.vocab, found.merges))
    except ValueError:
        return False


def read_merges(file: Path, *, hint: str) -> list[Any] | None:
    """Merges of the byte-pair encoding in a ``tokenizer.json``; None if it contains another tokenizer.

    Raises:
        UserError: the file is malformed.
    """
    return read_record(file, _TokenizerFile, hint=hint).model.merges


class _Pointers(BaseModel):
    best: FileName


def read_best(pointers: Path) -> str:
    """Name of the best checkpoint in the ``pointers.json`` of a run.

    Raises:
        UserError: the file is malformed.
    """
    return read_record(pointers, _Pointers, hint="choose one of its checkpoints").best


def read_config_file(file: Path, *, hint: str) -> dict[str, Any]:
    """Read a ``config.json`` without checking its keys.

    Raises:
        UserError: the file is malformed.
    """
    return read_record(file, dict[str, Any], hint=hint)
