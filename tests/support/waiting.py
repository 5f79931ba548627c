"""Wait for the metrics of training runs in other processes."""

import time
from pathlib import Path

SECONDS = 300


def wait_for_lines(folder: Path, lines: int) -> None:
    """Wait until all metrics.jsonl files inside a folder have this many lines in total."""
    until = time.monotonic() + SECONDS
    while sum(len(file.read_text().splitlines()) for file in folder.rglob("metrics.jsonl")) < lines:
        assert time.monotonic() < until
        time.sleep(0.1)
