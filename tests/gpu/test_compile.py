"""The Triton kernels, compiled ahead of time for NVIDIA GPUs at the widths, strides and dtypes of the presets."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from benchmarks.compile_kernels import CompiledKernel, missing_tool
from ldarnet.model.configuration import PRESETS
from ldarnet.ops import backends_of, operations

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = sorted(name for name in operations() if "triton" in backends_of(name))
OTHERS = sorted({*PRESETS} - {"ldarnet-110m", "ldarnet-2m"})
BF16 = ["--dtype", "bfloat16"]
RUNS = [  # of about equal duration
    [*BF16, "--capability", "90", "--preset", "ldarnet-110m", "--preset", "ldarnet-2m"],
    [*BF16, "--capability", "80", "--capability", "100", "--preset", "ldarnet-110m"],
    [*BF16, "--capability", "90", *(f"--preset={name}" for name in OTHERS)],
    ["--capability", "90", "--preset", "tiny", "--dtype", "float32"],
]
MAX_SHARED_BYTES = 99 * 1024  # of a program on consumer cards
MAX_REGISTERS = {"ssd_programs": 255}  # by module; a thread has no more
DEFAULT_MAX_REGISTERS = 168  # three programs of four warps on a multiprocessor
MIN_LOAD_BYTES = 4
ONE_VALUE_PER_THREAD = ("ssd_programs", "tiny")  # its states have 8 x 8 values for 256 threads
ONE_KERNEL = ("rotary",)  # its backward pass is a rotation by the opposite angle
STEP_SIZES = {"ssd_programs": 20}  # narrow loads per kernel: a row has one bfloat16 step size per head

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing_tool()), reason=missing_tool() or "complete")]


def compile_ahead(arguments: list[str], file: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(file.parent / "cache")  # the runs share variants
    command = [sys.executable, "-m", "benchmarks.compile_kernels", *arguments, "--json", str(file)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, worker_id):
    """Results of `RUNS`; with several pytest workers, the first one compiles for all."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "compiled"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number}.json" for number in range(len(RUNS))]
    with FileLock(folder / "lock"), ThreadPoolExecutor(max_workers=2) as pool:
        if not all(file.is_file() for file in files):
            list(pool.map(compile_ahead, RUNS, files))
    return [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def kernels(compiled):
    return [CompiledKernel(**kernel) for run in compiled for kernel in run["kernels"]]


def module(kernel):
    return kernel.kernel.partition(".")[0]


def presets(kernel):
    return " ".join(sorted({case.split()[0] for case in kernel.cases}))


def described(kernels):
    return "\n".join(map(str, kernels))


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_compiles_forward_and_backward(kernels, operation, capability):
    names = {kernel.kernel for kernel in kernels if kernel.capability == capability}
    found = {name for name in names if name.startswith((f"{operation}.", f"{operation}_programs."))}
    assert len(found) >= (1 if operation in ONE_KERNEL else 2)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_compiles(kernels, preset):
    cases = {case for kernel in kernels for case in kernel.cases}
    assert f"{preset} bfloat16" in cases


def test_float32_compiles(kernels):
    found = {module(kernel).removesuffix("_programs") for kernel in kernels if "tiny float32" in kernel.cases}
    assert {*OPERATIONS} <= found


def test_machine_code_of_every_kernel_is_read(kernels):
    assert not described(kernel for kernel in kernels if not (kernel.loads and kernel.stores and kernel.registers))


def test_no_register_is_spilled(kernels):
    assert not described(kernel for kernel in kernels if kernel.local_accesses)


def test_shared_memory_fits_every_card(kernels):
    assert not described(kernel for kernel in kernels if kernel.shared_bytes > MAX_SHARED_BYTES)


def test_registers_stay_within_the_budget(kernels):
    limits = [MAX_REGISTERS.get(module(kernel), DEFAULT_MAX_REGISTERS) for kernel in kernels]
    assert not described(kernel for kernel, limit in zip(kernels, limits, strict=True) if kernel.registers > limit)


def test_no_narrow_loads(kernels):
    def narrow_loads(kernel):
        return sum(number for width, number in kernel.loads.items() if int(width) < MIN_LOAD_BYTES)

    narrow = [kernel for kernel in kernels if narrow_loads(kernel) > STEP_SIZES.get(module(kernel), 0)]
    assert not described(kernel for kernel in narrow if (module(kernel), presets(kernel)) != ONE_VALUE_PER_THREAD)


def test_no_atomics_so_that_gradients_are_deterministic(kernels):
    assert not described(kernel for kernel in kernels if kernel.atomics)


def test_lengths_compile_nothing_new(compiled):
    counts = {case: after_each for run in compiled for case, after_each in run["counts"].items()}
    assert counts
    assert {case: after_each for case, after_each in counts.items() if len(set(after_each)) > 1} == {}
