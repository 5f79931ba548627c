"""Convert errors of binary decoders into errors that name the file."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.io.files import read_errors


@contextmanager
def damage_errors(path: Path, otherwise: str, *faults: type[Exception]) -> Iterator[None]:
    """Convert decoder errors inside the block into a `UserError` about `path`.

    Args:
        path: the file being decoded.
        otherwise: words after `damaged or` in the message, such as `truncated`.
        faults: decoder exceptions to convert, besides ValueError and the types of OSError that damaged files cause.

    Raises:
        TransientError: the operating system failed to read the file.
        UserError: the decoder failed, or the file cannot be read.
    """
    with read_errors(path):
        try:
            yield
        except UserError:
            raise
        except (ValueError, OSError, *faults) as error:
            # Decoders raise OSError without an errno; seeking to a damaged offset fails with EINVAL.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{path}: damaged or {otherwise} ({reason}); download it again") from None
