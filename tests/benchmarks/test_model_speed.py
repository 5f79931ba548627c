import json
import os
import sys
import time

import pytest
import torch
import transformers

from benchmarks import model_cpu
from benchmarks.baselines import ARRANGEMENTS
from benchmarks.measure import Cell, Workload, masked, measure, real_windows
from benchmarks.worker import Worker, WorkerError
from ldarnet.alphabet import IGNORE_INDEX, MASK
from ldarnet.errors import UserError


@pytest.fixture(autouse=True)
def restore_process_settings():
    yield
    torch.set_flush_denormal(False)
    transformers.utils.logging.set_verbosity_warning()


class InProcessWorker:
    """Stand-in for `Worker` that measures in this process; `fails` injects failures."""

    fails = staticmethod(lambda cell: "")

    def __init__(self, address_space=None):
        pass

    def __call__(self, function, *arguments, seconds):
        if isinstance(arguments[0], Cell) and (reason := self.fails(arguments[0])):
            raise WorkerError(reason)
        return function(*arguments)

    def close(self):
        pass


@pytest.fixture
def in_process(monkeypatch):
    """Measure in this process instead of in worker processes."""
    monkeypatch.setattr(model_cpu, "Worker", InProcessWorker)
    return InProcessWorker


def written(folder):
    (text,), (tree,) = folder.glob("*.md"), folder.glob("*.json")
    return text.read_text(), json.loads(tree.read_text())


def test_cpu_results_file_is_complete(in_process, tmp_path, capsys):
    model_cpu.main(["--quick", "--out", str(tmp_path), "--note", "Tried."])
    text, tree = written(tmp_path)
    for part in (
        "Tried.", "Commit", "Hardware", "torch 2", "benchmarks.model_cpu", "baker's yeast", "Training tiny",
        "Training bimamba2-tiny", "Equal in all 15 comparisons", "bases/s (median)", "MFLOP per base", "kB per base",
        "checkpointed stages", "bases per chunk", "gradient difference",
    ):  # fmt: skip
        assert part in text, part
    assert str(next(tmp_path.glob("*.md"))) in capsys.readouterr().out
    cells = {(c["cell"]["model"], c["cell"]["arrangement"], c["cell"]["length"]): c["result"] for c in tree["cells"]}
    assert {arrangement for _, arrangement, _ in cells} == set(ARRANGEMENTS)
    assert all(result["bases_per_second"]["best"] >= result["bases_per_second"]["median"] for result in cells.values())
    ours, published = (cells["tiny", arrangement, 128] for arrangement in ("ours", "published"))
    assert ours["flops_per_base"] < published["flops_per_base"]
    assert ours["bases_per_chunk"] == published["bases_per_chunk"]


def test_cpu_program_records_failures_and_continues(in_process, monkeypatch, tmp_path):
    monkeypatch.setattr(
        in_process, "fails", staticmethod(lambda cell: "" if cell.arrangement == "ours" else "no memory")
    )
    model_cpu.main(["--quick", "--out", str(tmp_path)])
    text, tree = written(tmp_path)
    assert "| transformers | no memory |" in text
    assert sum("failure" in cell["result"] for cell in tree["cells"]) == 12
    assert "Equal in all 3 comparisons" in text


def test_cpu_program_fails_if_an_arrangement_differs(in_process, monkeypatch, tmp_path):
    monkeypatch.setattr(model_cpu, "GRADIENT_TOLERANCE", 0.0)
    monkeypatch.setattr(
        in_process, "fails", staticmethod(lambda cell: "" if cell.arrangement == "published" else "skipped")
    )
    with pytest.raises(UserError, match="does not compute the same function"):
        model_cpu.main(["--quick", "--out", str(tmp_path)])
    assert "**Different**: tiny, published" in written(tmp_path)[0]


def test_results_are_never_overwritten(in_process, tmp_path):
    name = model_cpu.result_file("model-cpu", tmp_path)
    name.write_text("published")
    with pytest.raises(UserError, match="already exists"):
        model_cpu.main(["--quick", "--out", str(tmp_path)])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["published"]


def test_windows_are_real_and_masked_as_in_pretraining():
    ids, source = real_windows(8, 1000)
    assert "yeast" in source and ids.shape == (8, 1000) and len(set(map(tuple, ids[:, :50].tolist()))) == 8
    shown, labels = masked(ids)
    target = labels != IGNORE_INDEX
    assert target.float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert (shown[target] == MASK).float().mean().item() == pytest.approx(0.8, abs=0.04)
    assert (shown[~target] == ids[~target]).all() and (labels[target] == ids[target]).all()


def test_bases_are_random_without_the_packages_that_read_genomes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ldarnet.genome.fasta", None)
    ids, source = real_windows(2, 100)
    assert source.startswith("random bases") and ids.shape == (2, 100) and ids.max() == 3


def test_checkpointing_and_backends_reach_the_model():
    workload = Workload(Cell(checkpointed=(0,), ops={"ssd": "torch"}))
    assert workload.model.config.ops == {"ssd": "torch"}
    assert [stack.gradient_checkpointing for stack in workload.model.modules() if hasattr(stack, "stage")].count(
        True
    ) == 2
    assert measure(Cell(checkpointed=(0,), steps=1))["gradient_difference"] < 1e-5


def test_worker_reports_failures_and_restarts():
    worker = Worker(address_space=2**31)
    try:
        assert worker(pow, 2, 5, seconds=60) == 32
        first = worker(os.getpid, seconds=60)
        with pytest.raises(WorkerError, match="ValueError: invalid literal"):
            worker(int, "x", seconds=60)
        assert worker(os.getpid, seconds=60) not in (first, os.getpid())
        with pytest.raises(WorkerError, match="exited with status 3"):
            worker(os._exit, 3, seconds=60)
        with pytest.raises(WorkerError, match="MemoryError"):
            worker(bytearray, 2**32, seconds=60)
        with pytest.raises(WorkerError, match="timeout after 1 s"):
            worker(time.sleep, 60, seconds=1)
        assert worker(abs, -1, seconds=60) == 1
    finally:
        worker.close()
