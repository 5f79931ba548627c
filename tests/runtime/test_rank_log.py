"""Failed writes to the rank log do not affect training."""

from pathlib import Path

import torch

from ldarnet.runtime import rank_log
from ldarnet.runtime.distributed import World


def test_full_disk_loses_log_lines_only(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(rank_log, "_open", lambda path: Path("/dev/full").open("a", encoding="utf-8", buffering=1))  # noqa: SIM115
    with rank_log.rank_log(tmp_path, World(0, 1, torch.device("cpu"), None)):
        rank_log.LOG.info("something")
    assert capfd.readouterr().err == ""
