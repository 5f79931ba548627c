"""What the program's exit status is, and which rank tells why."""

import sys
from pathlib import Path

import pytest

from launch import pretrain, program
from ldarnet import pretraining
from ldarnet.errors import TransientError, UserError
from ldarnet.runtime import FAILED_STATUS

QUICKSTART = Path(__file__).parents[2] / "configs/pretrain/quickstart.yaml"


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UserError("data.shards: a mistake"), 1, "error: data.shards: a mistake\n"),
        (TransientError("no answer"), FAILED_STATUS, "error: no answer\n"),
        (RuntimeError("no rendezvous"), FAILED_STATUS, "Traceback (most recent call last)"),
    ],
)
def test_only_a_mistake_is_final(monkeypatch, capsys, error, status, told):
    def fails(_):
        raise error

    monkeypatch.setattr(pretraining, "train", fails)
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--config", str(QUICKSTART)])
    assert pretrain.main() == status
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize("arguments", [[], ["--config"], ["--config", "x", "--unheard-of"]])
def test_a_wrong_command_line_is_a_mistake(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *arguments])
    with pytest.raises(SystemExit) as exit:
        pretrain.main()
    assert exit.value.code == 1
    assert "\nerror: " in capsys.readouterr().err


def test_overrides_stand_anywhere(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--local_rank=0", "a.b=1", "--config", "x", "c.d=2"])
    arguments = program.read_arguments(None, "x", ranks=True)
    assert (arguments.config, arguments.overrides) == ("x", ["a.b=1", "c.d=2"])


@pytest.mark.parametrize(("rank", "local_rank", "told"), [(0, 0, True), (1, 1, False), (8, 0, True), (9, 1, False)])
def test_a_configuration_that_a_node_lacks_is_told_once_there(monkeypatch, capsys, rank, local_rank, told):
    monkeypatch.setattr(program, "TELLING_SECONDS", 0)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--config", "not-there.yaml"])
    assert pretrain.main() == 1
    assert ("cannot read the configuration not-there.yaml" in capsys.readouterr().err) == told


@pytest.mark.parametrize("own", [True, False])
def test_rank_0_tells_what_all_have_and_another_what_is_its_own(monkeypatch, capsys, own):
    def fails(_):
        error = UserError("a mistake")
        error.own = own
        raise error

    monkeypatch.setattr(program, "TELLING_SECONDS", 0)
    monkeypatch.setattr(pretraining, "train", fails)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--config", str(QUICKSTART)])
    assert pretrain.main() == 1
    assert capsys.readouterr().err == ("error: a mistake\n" if own else "")
