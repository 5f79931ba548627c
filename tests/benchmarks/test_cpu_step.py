"""Report of benchmarks.cpu_step: shares and ratios of times of the same round."""

import pytest
import torch

from benchmarks import cpu_step
from benchmarks.checkouts import baseline_table
from benchmarks.measure import Cell
from ldarnet.errors import UserError


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


def test_sections_that_are_not_wanted_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_step, "in_process", lambda function, *arguments, policy="": function(*arguments))
    options = "--models tiny --length 64 --rounds 1 --seconds 1 --seeds 0 --busy --name tiny --out"
    cpu_step.main([*options.split(), str(tmp_path)])
    (file,) = tmp_path.glob("*-tiny.md")
    assert file.read_text().count("\n## ") == 4


def test_steps_of_a_checkout_are_as_fast_as_those_of_itself():
    cell = Cell(model="tiny", length=64, windows=1, steps=3, seconds=0.0)
    row = baseline_table({"tiny": cell}, cpu_step.ROOT, cpu_step.ROOT).splitlines()[2]
    cells = [value.strip() for value in row.strip("|").split("|")]
    assert cells[:2] == ["tiny", "1 x 64"] and cells[-1] == "3"
    assert float(cells[2]) > 0 and 0.8 < float(cells[4]) < 1.25


def test_folders_that_cannot_run_a_step_are_refused(tmp_path):
    with pytest.raises(UserError, match="not a checkout of this project"):
        baseline_table({"tiny": Cell(length=64)}, tmp_path, cpu_step.ROOT)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/measure.py").touch()
    with pytest.raises(UserError, match="cannot run a training step"):
        baseline_table({"tiny": Cell(length=64)}, tmp_path, cpu_step.ROOT)
