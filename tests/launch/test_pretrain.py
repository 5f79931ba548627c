"""Exit statuses of training programs, and which rank reports an error."""

from pathlib import Path

import pytest

from ldarnet import pretraining, program
from ldarnet.cli import training
from ldarnet.cli.pretrain import pretrain
from ldarnet.errors import TransientError, UserError
from ldarnet.program import FAILED, OK, USER_ERROR, run

QUICKSTART = Path(__file__).parents[2] / "configs/pretrain/quickstart.yaml"


def main(*arguments: object) -> int:
    return run(pretrain, [str(argument) for argument in arguments], name="launch/pretrain.py")


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (UserError("data.shards: a mistake"), USER_ERROR, "error: data.shards: a mistake\n"),
        (TransientError("no answer"), FAILED, "error: no answer\n"),
        (RuntimeError("no rendezvous"), FAILED, "Traceback (most recent call last)"),
        (BrokenPipeError(), FAILED, "error: stdout was closed before training ended"),
    ],
)
def test_only_a_user_error_has_status_1(monkeypatch, capsys, error, status, printed):
    def fail(_):
        raise error

    monkeypatch.setattr(pretraining, "train", fail)
    assert main("--config", QUICKSTART) == status
    assert capsys.readouterr().err.startswith(printed)


@pytest.mark.parametrize("arguments", [[], ["--config"], ["--config", "x", "--unheard-of"]])
def test_an_invalid_command_line_is_a_user_error(capsys, arguments):
    assert main(*arguments) == USER_ERROR
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("Usage: launch/pretrain.py ")
    assert error.startswith("error: ") and error.endswith("; see launch/pretrain.py --help")


def test_overrides_may_be_anywhere(monkeypatch):
    read = []
    monkeypatch.setattr(training, "load", lambda _, config, overrides: read.append((config, overrides)))
    monkeypatch.setattr("ldarnet.cli.pretrain._train", lambda _: OK)
    assert main("--local_rank=0", "a.b=1", "--config", "x", "c.d=2") == OK
    assert read == [("x", ["a.b=1", "c.d=2"])]


@pytest.mark.parametrize(("rank", "local_rank", "printed"), [(0, 0, True), (1, 1, False), (8, 0, True), (9, 1, False)])
def test_a_missing_configuration_is_reported_once_per_node(monkeypatch, capsys, rank, local_rank, printed):
    monkeypatch.setattr(program, "REPORT_SECONDS", 0)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert main("--config", "not-there.yaml") == USER_ERROR
    assert ("cannot read the configuration not-there.yaml" in capsys.readouterr().err) == printed


@pytest.mark.parametrize("local", [True, False])
def test_rank_0_reports_shared_errors_and_other_ranks_their_local_ones(monkeypatch, capsys, local):
    def fail(_):
        error = UserError("a mistake")
        error.local = local
        raise error

    monkeypatch.setattr(program, "REPORT_SECONDS", 0)
    monkeypatch.setattr(pretraining, "train", fail)
    monkeypatch.setenv("RANK", "3")
    assert main("--config", QUICKSTART) == USER_ERROR
    assert capsys.readouterr().err == ("error: a mistake\n" if local else "")
