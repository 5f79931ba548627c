"""A log that cannot be written makes training no worse."""

from pathlib import Path

import torch

from ldarnet.runtime import rank_log
from ldarnet.runtime.distributed import World


def test_a_full_disk_costs_the_lines_and_nothing_else(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(rank_log, "_open", lambda path: Path("/dev/full").open("a", encoding="utf-8", buffering=1))  # noqa: SIM115
    with rank_log.rank_log(tmp_path, World(0, 1, torch.device("cpu"), None)):
        rank_log.LOG.info("something")
    assert capfd.readouterr().err == ""
