"""Report of benchmarks.cpu_step: shares and ratios of times of the same round."""

import pytest
import torch

from benchmarks import cpu_step
from benchmarks.measure import Cell


@pytest.fixture(autouse=True)
def restore_process_settings():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def test_shares_compare_times_of_the_same_round():
    product = 2 * cpu_step.PEAK_SIZE**3
    seconds = {
        "product float32": [1.0, 10.0, 2.0],  # the machine is ten times slower in the second round
        "product bfloat16": [0.25, 2.5, 0.5],
        "step float32": [4.0, 40.0, 8.0],
        "step bfloat16": [2.0, 20.0, 4.0],
    }
    row = cpu_step.shares_table({"name": (Cell(length=100), {"flops": 2 * product, "seconds": seconds})}).splitlines()[
        2
    ]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "name" and cells[3:] == ["50%", "25%", "4.00", "2.00", "3"]


def test_a_run_writes_every_section(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_step, "in_process", lambda function, *arguments, policy="": function(*arguments))
    options = "--models tiny --length 64 --rounds 1 --seconds 1 --loss-steps 4 --seeds 1 --busy 0 --name tiny --out"
    cpu_step.main([*options.split(), str(tmp_path)])
    (file,) = tmp_path.glob("*-tiny.md")
    text = file.read_text()
    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(sections) == 6
    assert "| scan |" in text and "| ACTIVE | PASSIVE |" in text
