"""Run commands: parse the command line, report errors on stderr, return an exit status."""

from __future__ import annotations

import errno
import inspect
import os
import re
import select
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ldarnet.errors import TransientError, UserError, refuse_credentials
from ldarnet.extras import missing_extra
from ldarnet.printable import printable_lines
from ldarnet.redaction import redact

if TYPE_CHECKING:
    from typer.core import TyperCommand

OK = 0
USER_ERROR = 1
"""Wrong input, configuration or command line: the user must fix the cause; do not restart."""
FAILED = 70
"""A rank died, failed or hung, or a transient error occurred: restart from the last checkpoint."""
STOPPED = 75
"""Stopped by a signal after saving a checkpoint: restart to resume."""
INTERRUPTED = 130
"""Interrupted from the keyboard (SIGINT): 128 + 2, as in shells."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

REPORT_SECONDS = 1.0
"""Seconds that a rank waits for rank 0 to report a shared error: launchers kill all ranks as soon as one exits."""


def run(function: Callable[..., Any], arguments: Sequence[str] | None = None, *, name: str) -> int:
    """Run a command line and return its exit status; any error is reported on stderr.

    Args:
        function: function with typer annotations; returns an exit status, or None for success.
        arguments: command-line arguments; `sys.argv[1:]` by default.
        name: program name in usage and error messages.
    """
    return exit_status(lambda: call(function, arguments, name=name), name=name)


def call(function: Callable[..., Any], arguments: Sequence[str] | None = None, *, name: str = "ldarnet") -> int:
    """Parse a command line, call the command and return its exit status.

    Raises:
        UserError: the command raises it, or the command line is wrong. If the command line is wrong, rank 0 also prints
            a usage line on stderr.
    """
    return invoke(build_command(function), sys.argv[1:] if arguments is None else arguments, name=name)


def build_command(function: Callable[..., Any]) -> TyperCommand:
    """Build a typer command from a function with typer annotations.

    The docstring of the function becomes the help text; indented lists keep their line breaks. If the metavar of an
    option is in brackets, as in ``--ray [ADDRESS]``, users may omit the value, which is then "".
    """
    import typer
    from typer.core import TyperCommand

    usage_error = _usage_error()

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            bare = {name for option in self.params if (option.metavar or "").startswith("[") for name in option.opts}
            filled: list[str] = []
            for argument, following in zip(args, [*args, "-"][1:], strict=True):
                filled += [argument, ""] if argument in bare and following.startswith("-") else [argument]
            try:
                return super().parse_args(ctx, filled)
            except usage_error as error:
                error.ctx = error.ctx or ctx
                raise

        def collect_usage_pieces(self, ctx: Any) -> list[str]:
            return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 100})
    text = re.sub(r"\n\n(?=[^\n]*:\n  )", "\n\n\b\n", inspect.getdoc(function) or "")
    app.command(cls=Command, help=text)(function)
    command: Any = typer.main.get_command(app)
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None  # "PATH", not "PATH <list[Path]>"
    return command


def invoke(command: Any, arguments: Sequence[str], *, name: str) -> int:
    """Parse arguments and run a typer command; raises the same errors as `call`."""
    import typer

    for number, argument in enumerate(arguments, start=1):
        key = re.match(r"-*[A-Za-z][\w.-]*(?==)", argument)
        refuse_credentials(argument, key[0] if key else f"argument {number}")
    usage_error = _usage_error()
    try:
        with command.make_context(name, list(arguments)) as context:
            return command.invoke(context) or OK
    except typer.Exit as end:
        return end.exit_code
    except usage_error as error:
        hint = ""
        if error.ctx is not None:
            hint = f"; see {error.ctx.command_path} --help"
            if is_rank_0():
                print(error.ctx.get_usage(), file=sys.stderr)
        message = " ".join(error.format_message().split())  # choices are on lines of their own
        raise UserError(message.replace("Value error, ", "").rstrip(".") + hint) from None


def _usage_error() -> Any:
    """Get the base class of command-line errors, whose module depends on the version of typer."""
    import typer

    return typer.BadParameter.__base__


def exit_status(work: Callable[[], int], *, name: str) -> int:
    """Call `work` and return its exit status. If it raises an error, print the error on stderr.

    The status then depends on the type of the error. A `UserError` is printed only by rank 0, unless its attribute
    `local` is set.
    """
    _set_allocator()
    _set_wait_policy()
    status = OK
    try:
        status = work()
        print(end="", flush=True)
        return status
    except UserError as error:
        _report(str(error), local=error.local)
        return FAILED if isinstance(error, TransientError) else USER_ERROR
    except ModuleNotFoundError as error:
        if (message := missing_extra(error, name)) is None:
            print(redact(traceback.format_exc()), end="", file=sys.stderr, flush=True)
            return FAILED
        _report(message, local=False)
        return USER_ERROR
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return status
        if isinstance(error, OSError) and error.errno in _NO_SPACE and _stdout_is_full():
            _report(f"cannot write to standard output ({error.strerror}); redirect it to another disk", local=True)
            return status or USER_ERROR
        print(redact(traceback.format_exc()), end="", file=sys.stderr, flush=True)
        return FAILED


def _set_allocator() -> None:
    """Make torch's GPU memory allocator use expandable segments, unless the user has configured the allocator.

    The number of chunks and the sizes of large tensors change in every step; without expandable segments, this would
    fragment the memory. Call before torch is imported, because torch reads the environment variable at import.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def _set_wait_policy() -> None:
    """Make idle OpenMP threads sleep instead of spin, unless the user has chosen a policy.

    If another program uses the core of one thread, the others spin at the end of every parallel loop until this thread
    gets its turn, which makes training many times slower. Call before torch is imported, because OpenMP reads the
    environment variable when it is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _report(message: str, *, local: bool) -> None:
    if local or is_rank_0():
        print(f"error: {printable_lines(message)}", file=sys.stderr, flush=True)
    else:
        time.sleep(REPORT_SECONDS)


def is_rank_0() -> bool:
    """Whether this process is rank 0, or was started without a launcher."""
    return os.environ.get("RANK", "0") == "0"


def _stdout_is_closed() -> bool:
    """Check whether the reader of stdout, such as `head`, has closed the pipe. If so, discard the buffered output."""
    with suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            _discard_stdout()
            return True
    return False


def _stdout_is_full() -> bool:
    """Whether stdout is a file that cannot grow; if so, discard the buffered output."""
    try:
        print(flush=True)
    except OSError:
        _discard_stdout()
        return True
    return False


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
