"""What the programs here share: their arguments, who tells an error, and their exit statuses."""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ldarnet.errors import TransientError, UserError

if TYPE_CHECKING:
    from ldarnet.config import Config

C = TypeVar("C", bound="Config")

TELLING_SECONDS = 1.0
"""How long a rank waits for rank 0 to tell their error; a launcher ends all ranks as soon as one of them ends."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong command line is a mistake as any other: status 1, which nothing starts again."""
        self.print_usage(sys.stderr)
        self.exit(1, f"error: {message}\n")


def read_arguments(text: str | None, example: str, *, ranks: bool, program: str = "pretrain") -> argparse.Namespace:
    """The command line: `config`, the path of a file, and `overrides`, changes to it.

    Args:
        text: of the program; its first line is shown as help.
        example: a configuration.
        ranks: whether a launcher may start the program, and tell it its local rank.
        program: its name to `ldarnet settings`.
    """
    parser = _Parser(description=(text or "").split("\n")[0])
    parser.add_argument("--config", required=True, help=f"YAML file, such as {example}")
    if ranks:
        parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help=f"changes to its keys; `ldarnet settings {program}` lists them",
    )
    return parser.parse_intermixed_args()


def read_config(arguments: argparse.Namespace, schema: type[C]) -> C:
    """The configuration that the command line asks for.

    Raises:
        UserError: as `load_config`; the first rank of each node tells it, for the nodes' files may differ.
    """
    from ldarnet.config import load_config

    try:
        return load_config(arguments.config, arguments.overrides, schema=schema)
    except UserError as error:
        error.own = os.environ.get("LOCAL_RANK", "0") == "0"
        raise


def exit_status(work: Callable[[], int]) -> int:
    """What `work` returns, or the status that its error means; rank 0 prints a mistake, or the rank whose own it is."""
    from ldarnet.runtime import FAILED_STATUS

    try:
        return work()
    except UserError as error:
        if is_main() or error.own:
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(TELLING_SECONDS)
        return FAILED_STATUS if isinstance(error, TransientError) else 1
    except Exception:
        traceback.print_exc()
        return FAILED_STATUS


def is_main() -> bool:
    """Whether this process is rank 0, or has no launcher."""
    return os.environ.get("RANK", "0") == "0"
