"""A training step on fake CUDA: devices, host synchronizations, dtypes, launches and bytes, without a GPU.

If a change improves a number, lower its budget; if it must raise one, say why in the commit.
"""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_account
from benchmarks.fake_cuda import device
from benchmarks.fake_cuda.kernels import scan_flops, triton_scan_flops
from benchmarks.fake_cuda.recorder import attention_flops, gathered, multi_tensor_launches, size, traffic
from benchmarks.fake_cuda.trace import FINETUNE, STAND_IN, Operation, StepTrace, Trace, TraceRequest, trace
from benchmarks.gpu_account import LOGGED, UNLOGGED, TracedCell, rows
from benchmarks.roofline import DATA_SHEET, needed_rates
from ldarnet.model import LDARNetConfig
from ldarnet.ops.transfer import HOST_WAITS
from ldarnet.tokenization.bpe import BPE

PRESET = "ldarnet-110m"
ROUTER = "ldarnet/model/chunking/learned.py _project"
RESIDUAL = "ldarnet/model/network.py _residual"
PRODUCTS_OF_ROUTER = 3  # in TF32, with the error of one in float32
CHUNK_COUNT = {"ldarnet/ops/packing.py select": 1}
LOGGED_WAITS = {"ldarnet/ops/transfer.py to_host": 1}
"""Additional waits of a logged step."""
BUDGETS = {
    # scan: launches and MB per base of pretraining with 8 windows of 4,096 bases, and launches of fine-tuning
    "triton": (885, 2.42, 883),
    "mamba-ssm": (2015, 3.86, 2015),
    STAND_IN: (1615, 2.43, 1613),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The fake CUDA device."""
    if reason := device.unsupported_reason():
        pytest.skip(f"fake CUDA: {reason}")
    return device.build(tmp_path_factory.mktemp("fake-cuda"))


@pytest.fixture(scope="module")
def pretraining(library):
    """Trace of pretraining; the scan is mamba-ssm's if its Python part is installed, otherwise a stand-in."""
    return trace(TraceRequest(preset=PRESET, windows=8, length=4096), library=library)


@pytest.fixture(scope="module")
def finetuning(library):
    """Trace of fine-tuning on 16 rows of 512 and 384 bases."""
    return trace(TraceRequest(FINETUNE, PRESET, windows=16, length=512), library=library)


def check_devices_and_products(traced, head):
    for step in traced.steps.values():
        assert step.mixed_devices == []
        products = [entry for entry in step.operations if entry.name in ("mm", "addmm", "bmm", "baddbmm")]
        assert {entry.dtype for entry in products} == {"bfloat16", "tf32", "float32"}
        exact = [entry for entry in products if entry.dtype == "float32"]
        rounded = [entry for entry in products if entry.dtype == "tf32"]
        assert {entry.place for entry in exact} == {head}
        assert {entry.place for entry in rounded if entry.phase != "backward"} == {RESIDUAL, ROUTER}
        assert {entry.phase for entry in exact}.isdisjoint({"backward"})
        calls = Counter({"backward": 0})
        for entry in exact + rounded:
            calls["backward" if entry.phase == "backward" else entry.place] += entry.calls
        assert calls[ROUTER] == 2 * PRODUCTS_OF_ROUTER
        assert calls == {head: 1, RESIDUAL: 1, ROUTER: calls[ROUTER], "backward": 2 * (1 + 1 + 2)}
        # Gradients of weights are computed in float32.
        casts = [entry for entry in step.operations if (entry.phase, entry.name) == ("backward", "_to_copy")]
        assert not [entry for entry in casts if entry.dtype == "bfloat16"]
        flops = sum(entry.flops * entry.calls for entry in products)
        assert sum(entry.flops * entry.calls for entry in exact) < 0.01 * flops


@pytest.mark.slow
def test_pretraining_step(pretraining):
    check_devices_and_products(pretraining, "ldarnet/model/heads.py forward")
    step, logged = pretraining.steps[UNLOGGED], pretraining.steps[LOGGED]
    assert step.waits == CHUNK_COUNT
    assert logged.waits == CHUNK_COUNT | LOGGED_WAITS
    assert HOST_WAITS.keys() >= logged.waits.keys()
    assert step.pageable_copies == logged.pageable_copies == {}
    launches, moved, _ = BUDGETS.get(pretraining.scan, BUDGETS[STAND_IN])
    assert step.launches <= launches
    assert step.bytes / step.bases / 1e6 <= moved
    assert set(pretraining.kernels.values()) <= {"triton", "torch-varlen", "flash-attn", "mamba-ssm"}


@pytest.mark.slow
def test_step_with_a_static_number_of_chunks_never_waits(library):
    counted, static = (
        trace(TraceRequest(preset="tiny", windows=8, length=256, chunk_capacity_factor=factor), library=library)
        for factor in (None, 1.5)
    )
    assert counted.steps[UNLOGGED].waits == CHUNK_COUNT
    assert static.steps[UNLOGGED].waits == {} and static.steps[LOGGED].waits == LOGGED_WAITS
    for step in static.steps.values():
        assert step.mixed_devices == [] and step.pageable_copies == {}
        assert step.launches <= counted.steps[step.name].launches + 24


@pytest.mark.slow
@pytest.mark.parametrize(
    "chunking", [{"selection": "top_k"}, {"method": "grid"}, {"method": "entropy"}, {"method": "bpe"}], ids=str
)
def test_boundaries_whose_number_the_host_knows_are_not_counted(library, chunking, tmp_path):
    BPE(("A C", "AC G")).backend().save(str(tmp_path / "words.json"))
    words = str(tmp_path / "words.json") if chunking == {"method": "bpe"} else None
    request = TraceRequest(preset="tiny", windows=8, length=256, chunking=chunking, chunking_tokenizer=words)
    steps = trace(request, library=library).steps
    assert steps[UNLOGGED].waits == {} and steps[LOGGED].waits == LOGGED_WAITS
    assert all(step.mixed_devices == [] and step.pageable_copies == {} for step in steps.values())


@pytest.mark.slow
def test_micro_steps_share_one_optimizer_step(library):
    one, two, three = (
        trace(TraceRequest(preset="tiny", windows=2, length=64, accumulation=number), library=library).steps[UNLOGGED]
        for number in (1, 2, 3)
    )
    assert [step.bases for step in (one, two, three)] == [128, 256, 384]
    updates = [
        [entry for entry in step.operations if entry.part == "clipping, guard, optimizer"] for step in (one, two, three)
    ]
    assert sum(entry.calls for entry in updates[0]) == sum(entry.calls for entry in updates[2])
    # The second micro-step adds its gradients to those of the first, as every later one does.
    assert two.launches - one.launches == three.launches - two.launches > 0
    assert two.bytes - one.bytes == three.bytes - two.bytes


@pytest.mark.slow
def test_muon_does_not_wait_for_the_device(library):
    step = trace(TraceRequest(preset="tiny", windows=2, length=64, optimizer="muon"), library=library).steps[UNLOGGED]
    assert step.waits == CHUNK_COUNT
    assert step.mixed_devices == []
    assert step.pageable_copies == {}
    products = [entry for entry in step.operations if entry.phase == "update" and "bmm" in entry.name]
    assert {entry.dtype for entry in products} == {"bfloat16"}


@pytest.mark.slow
def test_finetuning_step(finetuning):
    check_devices_and_products(finetuning, "ldarnet/model/classifiers.py forward")
    step = finetuning.steps[UNLOGGED]
    assert step.waits == CHUNK_COUNT
    assert step.pageable_copies == {}
    assert step.launches <= BUDGETS.get(finetuning.scan, BUDGETS[STAND_IN])[2]


@pytest.mark.slow
def test_account_is_complete(library, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_account, "trace", lambda workload: trace(workload, library=library))
    gpu_account.main(
        ["--preset", "tiny", "--windows", "2", "--length", "64", "--arrangements", "published", "--out", str(tmp_path)]
    )
    (page,), (record,) = tmp_path.glob("*.md"), tmp_path.glob("*.json")
    text, content = page.read_text(), json.loads(record.read_text())
    assert text.splitlines()[2].startswith("**On paper")
    for part in (
        "data sheet",
        "| scan |",
        "published, 2 windows of 64 bases",
        "packing.py select",
        "without row gathers",
    ):
        assert part in text, part
    (cell,) = content["cells"]
    assert {row["part"] for row in cell["operations"]} == set(cell["parts"])
    assert sum(row["launches"] for row in cell["operations"]) == sum(row["launches"] for row in cell["parts"].values())
    assert capsys.readouterr().out.endswith(f"{page}\n")


def made_cell(*operations, part_flops=None):
    step = StepTrace(UNLOGGED, 8192, list(operations), part_flops or {})
    return TracedCell(TraceRequest(preset="tiny", windows=2, length=4096), Trace({}, STAND_IN, {UNLOGGED: step}))


def test_time_is_that_of_bytes_or_flops_whichever_is_longer():
    slow_bytes = Operation("forward", "norm", "a", "bfloat16", "", 1, 43 * 10**9, 0, calls=2)
    slow_flops = Operation("forward", "product", "mm", "float32", "", 1, 43 * 10**9, 45 * 10**10)
    cell = made_cell(slow_bytes, slow_flops)
    made = rows(cell.step)
    assert made["norm"].seconds == pytest.approx(2 * 0.010)
    assert made["product"].seconds == pytest.approx(0.010)
    assert cell.seconds() == pytest.approx(0.030)
    assert list(made) == ["norm", "product"] and cell.step.launches == 3


def test_time_at_the_rates_of_the_data_sheet():
    scan = Operation("forward", "scan", "a", "bfloat16", "", 1, 48 * 10**8, 0)  # 1 ms of bytes
    product = Operation("forward", "product", "mm", "float32", "", 1, 0, 67 * 10**10)  # 10 ms
    cell = made_cell(scan, product, part_flops={"scan": 989e10})  # 10 ms of FLOPs
    assert cell.seconds(rates=DATA_SHEET) == pytest.approx(0.020)
    assert cell.seconds() > 3 * cell.seconds(rates=DATA_SHEET)
    *_, table = gpu_account.two_bounds([cell])
    assert f"| {1e3 * cell.seconds():.1f} |" in table and "| 20.0 |" in table


def test_flops_of_the_scan_count_once_for_the_whole_part():
    kernels = [Operation("forward", "scan", name, "bfloat16", "", 1, 43 * 10**8, 0) for name in "ab"]
    assert rows(made_cell(*kernels).step)["scan"].seconds == pytest.approx(0.002)
    made = rows(made_cell(*kernels, part_flops={"scan": 2e12}).step)["scan"]
    assert made.seconds == pytest.approx(0.010) and made.flops == 2e12


def test_rates_that_a_target_would_need():
    memory = Operation("forward", "norm", "a", "bfloat16", "", 1, 43 * 10**9, 0)  # 10 ms
    product = Operation("forward", "product", "mm", "bfloat16", "", 1, 0, 13 * 10**12)  # 20 ms
    step = made_cell(memory, product).step
    needed = {line[0]: line[1:] for line in needed_rates(step, 0.018)}
    assert needed["memory"] == ("10.0", "4.3", "none is enough", "4.8 TB/s")
    spent, assumed, rate, data_sheet = needed["bfloat16"]
    assert (spent, assumed, data_sheet) == ("20.0", "650", "989 TFLOP/s")
    assert float(rate.replace(",", "")) == pytest.approx(1625, rel=1e-3)


def test_a_higher_rate_does_not_help_kernels_that_become_bound_by_their_bytes():
    scan = Operation("forward", "scan", "a", "bfloat16", "", 1, 43 * 10**9, 0)  # 10 ms of bytes
    step = made_cell(scan, part_flops={"scan": 4e12}).step  # 20 ms of FLOPs
    too_fast, possible = ({line[0]: line[3] for line in needed_rates(step, seconds)} for seconds in (0.009, 0.011))
    assert too_fast["fused"] == "none is enough"
    assert float(possible["fused"]) == pytest.approx(200 * 20 / 11, rel=1e-3)


def test_flops_of_the_scans():
    x, b = torch.empty(10, 2, 4, 64, dtype=torch.bfloat16), torch.empty(10, 2, 128, dtype=torch.bfloat16)
    visits, inner = 20, 256
    assert triton_scan_flops(x, b, 256, False) == 2 * visits * (64 * 128 + 64 * inner + 2 * 128 * inner)
    assert triton_scan_flops(x, b, 256, True) == 2 * visits * (3 * 64 * 128 + 3 * 64 * inner + 6 * 128 * inner)
    assert scan_flops(x, b, 32, True) == 2 * visits * (4 * 32 * 128 + 4 * 32 * inner + 7 * 128 * inner)
    recomputed = triton_scan_flops(x.float(), b.float(), 256, True) - triton_scan_flops(
        x.float(), b.float(), 256, False
    )
    assert recomputed == 2 * visits * (3 * 32 * 128 + 2 * 32 * inner + 5 * 128 * inner)


def test_mfu_uses_the_model_flops_of_the_step():
    cell = made_cell(Operation("forward", "norm", "a", "bfloat16", "", 1, 43 * 10**9, 0))
    assert cell.mfu(2 * cell.seconds()) == pytest.approx(cell.mfu(cell.seconds()) / 2)
    flops = gpu_account.cost(LDARNetConfig.preset("tiny"), 4096, [4.0]).training_flops * 8192
    assert cell.mfu(1.0) == pytest.approx(flops / gpu_account.PEAK)


def test_bytes_of_operations():
    aten, x, rows_read = torch.ops.aten, torch.zeros(4, 8), torch.zeros(2, dtype=torch.int64)

    def moved(function, *args, **kwargs):
        read, written = traffic(function, "", args, kwargs, function(*args, **kwargs))
        return sum(map(size, read)), sum(map(size, written))

    assert size(x) == 128 and size(x[:1].expand(4, 8)) == 32 and size(x[:0]) == 0
    assert moved(aten.add.Tensor, x, x) == (128, 128)
    assert moved(aten.add_.Tensor, x, torch.zeros(8)) == (160, 128)
    assert moved(aten.mm.out, x, torch.zeros(8, 2), out=torch.zeros(4, 2)) == (192, 32)
    out = x.index_select(0, rows_read)
    assert gathered([x, rows_read], [out]) == 16 + 2 * 64


def test_launches_of_multi_tensor_operations():
    small = [torch.zeros(1)] * 111
    assert multi_tensor_launches([small[:110]]) == 1 and multi_tensor_launches([small]) == 2
    assert multi_tensor_launches([small[:72]] * 4) == 2
    assert multi_tensor_launches([[torch.empty(65536 * 321, device="meta")]]) == 2


def test_flops_of_attention_within_a_window():
    arguments = [SimpleNamespace(name=name) for name in ("query", "max_q", "window_size")]
    function = SimpleNamespace(_schema=SimpleNamespace(arguments=arguments))
    whole = attention_flops("_varlen_attn", function, (torch.zeros(100, 2, 8), 50, [-1, -1]), {})
    assert whole == 2 * 2 * 100 * 16 * 50
    narrow = attention_flops("_varlen_attn_backward", function, (torch.zeros(100, 2, 8), 50, [5, 5]), {})
    assert narrow == pytest.approx(5 * 2 * 100 * 16 * (11 - 30 / 50))
