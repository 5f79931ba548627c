"""`ldarnet` commands in this process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from ldarnet.cli import main


class CommandResult(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., CommandResult]


@pytest.fixture
def ldarnet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Function that runs a command and returns its exit status, stdout and stderr."""

    def run(*arguments: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["ldarnet", *map(str, arguments)])
        capsys.readouterr()  # discard earlier output
        with pytest.raises(SystemExit) as ended:
            main()
        return CommandResult(int(ended.value.code or 0), *capsys.readouterr())

    return run
