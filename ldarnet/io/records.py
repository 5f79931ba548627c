"""Read JSON, JSON Lines and YAML files as typed records; a malformed file raises a one-line `UserError`.

The type of a record is a pydantic model, a dataclass, or any type that pydantic understands. Types are checked
strictly: a number in quotes is not a number. Unknown keys of dataclasses are ignored, because later versions may add
keys.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import yaml
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from ldarnet.errors import UserError
from ldarnet.io.files import read_errors
from ldarnet.io.reasons import reason
from ldarnet.printable import printable

T = TypeVar("T")

MAX_BYTES = 256 * 2**20
"""Default maximum size of a JSON file."""
MAX_LINE_BYTES = 16 * 2**20
"""Maximum size of one line of a JSON Lines file."""
MAX_REASON_CHARS = 200
"""Maximum length of the reason in an error: some reasons quote a value of the file."""
MAX_YAML_BYTES = 2**20
MAX_YAML_NODES = 20_000
"""Maximum number of values in a YAML file, also after expanding its aliases."""

_DIGITS_ADVICE = "; use sys.set_int_max_str_digits() to increase the limit"
_UNUSABLE = re.compile("[\0\ud800-\udfff]")

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A non-negative integer that float64 represents exactly."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
"""Random ID of a run; part of file names."""


def parse_record(content: bytes | str, kind: type[T], *, where: str, hint: str) -> T:
    """Parse a JSON document.

    Args:
        content: the document.
        kind: type of the record.
        where: path or URL of the document, for error messages.
        hint: what to do if it is malformed.

    Raises:
        UserError: the document is not valid UTF-8 or JSON, a key is missing, or a value is of the wrong type or out of
            range.
    """
    try:
        return _adapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: damaged ({describe(error)}); {hint}") from None


def read_record(path: Path, kind: type[T], *, hint: str, max_bytes: int = MAX_BYTES) -> T:
    """Read a JSON file; see `parse_record`.

    Raises:
        UserError: the file cannot be read, is larger than ``max_bytes``, or is malformed.
    """
    return parse_record(read_bytes(path, hint=hint, max_bytes=max_bytes), kind, where=str(path), hint=hint)


def read_bytes(path: Path, *, hint: str, max_bytes: int) -> bytes:
    """Read a whole file of bounded size.

    Raises:
        UserError: the file cannot be read, or is larger than ``max_bytes``.
    """
    with read_errors(path), path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"{path}: larger than {max_bytes:,} bytes, so it is not the expected file; {hint}")
    return content


def read_records(
    path: Path, kind: type[T], *, hint: str, advance: Callable[[int], object] = lambda _: None
) -> Iterator[tuple[int, T]]:
    """Yield the line number (from 1) and the record of each line of a JSON Lines file.

    A last line without a newline is skipped, because a crash may have truncated it.

    Args:
        path: the file.
        kind: type of the record.
        hint: what to do about a malformed line.
        advance: called with the number of bytes of each line, for progress bars.

    Raises:
        UserError: the file cannot be read, or a complete line is malformed.
    """
    with read_errors(path), path.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                return
            where = f"{path}: line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise UserError(f"{where}: longer than {MAX_LINE_BYTES:,} bytes; {hint}")
            yield number, parse_record(line, kind, where=where, hint=hint)
            advance(len(line))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line


def read_yaml(path: Path) -> Any:
    """Read a YAML file of bounded size.

    Raises:
        UserError: the file cannot be read, is too large, is not valid UTF-8 or YAML, or is nested too deeply.
    """
    hint = "choose a configuration file"
    return parse_yaml(read_bytes(path, hint=hint, max_bytes=MAX_YAML_BYTES), where=str(path))


def parse_yaml(text: bytes | str, *, where: str, hint: str = "fix the file") -> Any:
    """Parse a YAML document.

    Raises:
        UserError: the document is not valid UTF-8 or YAML, is nested too deeply, has more than `MAX_YAML_NODES` values
            after its aliases are expanded, or has a string with NUL or a lone surrogate (not allowed in paths).
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(node, where, hint)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UserError:
        raise
    except _TooManyValuesError:
        raise UserError(f"{where}: more than {MAX_YAML_NODES:,} values; {hint}") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply; {hint}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"{where}: line {mark.line + 1}" if mark else where
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{at}: not valid YAML ({printable(reason)}); {hint}") from None
    except (ValueError, OverflowError) as error:  # invalid UTF-8; dates or numbers out of range
        reason = str(error).partition("\n")[0].removesuffix(_DIGITS_ADVICE)
        raise UserError(f"{where}: not valid YAML ({printable(reason)}); {hint}") from None


class _TooManyValuesError(Exception):
    """A YAML document has more than `MAX_YAML_NODES` values."""


class _Loader(yaml.SafeLoader):
    """Loader that stops after `MAX_YAML_NODES` values."""

    values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.values += 1
        if self.values > MAX_YAML_NODES:
            raise _TooManyValuesError
        return super().compose_node(parent, index)


def _check_nodes(root: yaml.Node, where: str, hint: str) -> None:
    """Raise if a string has NUL or a lone surrogate, or if there are too many values after the aliases are expanded."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        sizes[id(node)] = MAX_YAML_NODES  # until the size is known: an alias inside its own anchor expands without end
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        elif not node.value.isprintable() and _UNUSABLE.search(node.value):
            line = node.start_mark.line + 1
            raise UserError(f"{where}: line {line}: a string contains NUL or a lone surrogate; {hint}")
        total = 1 + sum(map(size, children))
        if total > MAX_YAML_NODES:
            raise UserError(f"{where}: more than {MAX_YAML_NODES:,} values after expanding aliases; {hint}")
        sizes[id(node)] = total
        return total

    size(root)


def describe(error: ValidationError) -> str:
    """Describe the first problem of a record in one line: the key and what is wrong. The value is not shown."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = printable(".".join(str(part)[:40] for part in first["loc"]))
    if first["type"] == "json_invalid":
        why = "not valid JSON: " + first["msg"].removeprefix("Invalid JSON: ")
    else:
        why = (f"{key}: " if key else "") + reason(first)
    return printable(why.partition("\n")[0][:MAX_REASON_CHARS])


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
