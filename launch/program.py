"""What the programs here share: their arguments and their exit statuses."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable

from ldarnet.errors import TransientError, UserError


def read_arguments(text: str | None, example: str, *, ranks: bool) -> argparse.Namespace:
    """The command line: `config`, the path of a file, and `overrides`, changes to it.

    Args:
        text: of the program; its first line is shown as help.
        example: a configuration.
        ranks: whether a launcher may start the program, and tell it its local rank.
    """
    parser = argparse.ArgumentParser(description=(text or "").split("\n")[0])
    parser.add_argument("--config", required=True, help=f"YAML file, such as {example}")
    if ranks:
        parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="changes to its keys, which ldarnet/config describes"
    )
    return parser.parse_args()


def exit_status(work: Callable[[], int], *, tells: bool = True) -> int:
    """What `work` returns, or the status that its error means; if it `tells`, a user's mistake is printed."""
    from ldarnet.training import FAILED_STATUS

    try:
        return work()
    except UserError as error:
        if tells:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return FAILED_STATUS if isinstance(error, TransientError) else 1
    except Exception:
        traceback.print_exc()
        return FAILED_STATUS


def is_main() -> bool:
    """Whether this process is rank 0, or has no launcher."""
    return os.environ.get("RANK", "0") == "0"
