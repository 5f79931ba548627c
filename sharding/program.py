"""What all programs of this package share: how they end."""

import sys
from collections.abc import Callable
from typing import NoReturn

from ldarnet.errors import UserError


def run(main: Callable[[], int]) -> NoReturn:
    """Run a program and exit: with the status it returns, or with one line on standard error and status 1."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted")
