"""What is printed of an epoch that takes long, where there is no terminal."""

import pytest

from ldarnet.finetuning import display
from ldarnet.finetuning.display import FinetuneProgress


def test_a_long_epoch_is_told_of_once_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Steps of 20 seconds, 8 an epoch: told at 60 and 120 seconds of each; by the rank that prints alone."""
    now = 1000.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    for shown in (True, False):
        with FinetuneProgress(shown) as told:
            for epoch in (1, 2):
                for done in range(1, 9):
                    told.step(0, epoch, done, 8)
                    now += 20.0
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert printed == [
        f"fold 0  epoch {epoch}  step {step} of 8  0:0{left} left in this epoch"
        for epoch in (1, 2)
        for step, left in ((4, "1:20"), (7, "0:20"))
    ]
