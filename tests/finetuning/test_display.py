"""Progress lines of long epochs without a terminal."""

import pytest

from ldarnet.finetuning import display
from ldarnet.finetuning.display import FinetuneProgress


def test_long_epochs_log_progress_once_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Eight steps of 20 s per epoch: progress is printed after 60 s and 120 s, on the printing rank only."""
    now = 1000.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    for shown in (True, False):
        with FinetuneProgress(shown) as progress:
            for epoch in (1, 2):
                for done in range(1, 9):
                    progress.step(0, epoch, done, 8)
                    now += 20.0
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert printed == [
        f"fold 0  epoch {epoch}  step {step} of 8  0:0{left} remaining in this epoch"
        for epoch in (1, 2)
        for step, left in ((4, "1:20"), (7, "0:20"))
    ]
