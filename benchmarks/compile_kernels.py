"""Compile the Triton kernels for NVIDIA GPUs, and report registers, spills and widths of memory accesses.

No GPU is needed. Every preset runs forward and backward on the CPU, with one layer of each kind. LDARNet itself
launches the kernels, so their widths, strides and dtypes are those of training. A launch compiles a kernel but does not
run it; the computed values are meaningless. ptxas, cuobjdump and nvdisasm come with Triton.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import subprocess
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.record import (
    ProgramParser,
    add_result_options,
    heading,
    result_file,
    run_program,
    write_result,
    write_text,
)
from ldarnet.errors import UserError

LENGTHS = ((48,), (20, 0, 17, 3), (1,))
"""Sequence lengths of the packed rows; widths and dtypes alone must decide what is compiled."""

LAYOUT = ["m1t1", ["M1"], "m1"]
"""One layer of each kind, in place of a preset's layers."""

PARTIAL_SUMS = ("dweight_ptr", "dterms_ptr")
"""Arguments with one row per program: partial gradients of weights."""

WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
"""Bytes of one access, by suffix of the instruction; 4 without a suffix."""

_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)", re.MULTILINE)
_WIDTH_SUFFIX = re.compile(r"\.(U8|S8|U16|S16|64|128)\b")


@dataclass
class CompiledKernel:
    """One compiled variant of a kernel.

    Attributes:
        kernel: module and function, for example ``convolution._forward``.
        capability: compute capability times ten, for example 90.
        cases: presets and dtypes that launch it, for example ``ldarnet-2m bfloat16``.
        registers: registers per thread.
        warps: warps per program.
        shared_bytes: shared memory of a program.
        local_accesses: instructions that access local memory (spilled registers).
        loads: number of load instructions from global memory by width in bytes.
        stores: number of store instructions to global memory by width in bytes.
        barriers: number of barrier instructions.
        atomics: number of atomic instructions on global memory.
        bytes_per_row: bytes per row of all arguments whose size is proportional to the number of rows.
    """

    kernel: str
    capability: int
    cases: list[str] = field(default_factory=list)
    registers: int = 0
    warps: int = 0
    shared_bytes: int = 0
    local_accesses: int = 0
    loads: dict[int, int] = field(default_factory=dict)
    stores: dict[int, int] = field(default_factory=dict)
    barriers: int = 0
    atomics: int = 0
    bytes_per_row: float = 0.0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ProgramParser("compile_kernels", __doc__)
    add = parser.add_argument
    add("--preset", action="append", help="preset, may be repeated (default: all)")
    add("--capability", action="append", type=int, help="80, 90 or 100, may be repeated (default: all)")
    add("--dtype", action="append", help="dtype of matrix products, may be repeated (default: bfloat16 and float32)")
    add("--json", type=Path, help="write the results as JSON to this file instead of the results file")
    add_result_options(parser, "compiled-kernels")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile the kernels and write the results file, or only the file of `--json`."""
    options = parse(arguments)
    file = options.json or result_file(options.name, options.out)
    if reason := missing_tool():
        raise UserError(f"benchmarks.compile_kernels: {reason}; run: pip install triton")
    from ldarnet.model.configuration import PRESETS

    kernels, counts = [], {}
    for capability in options.capability or [80, 90, 100]:
        with compiler(capability) as session:
            for preset in options.preset or list(PRESETS):
                for dtype in options.dtype or ["bfloat16", "float32"]:
                    counts[f"{capability} {preset} {dtype}"] = train_step(session, preset, dtype)
            kernels += session.results()
    if options.json:
        write_text(file, json.dumps({"kernels": [asdict(kernel) for kernel in kernels], "counts": counts}))
    else:
        write_result(file, kernel_page(kernels, options))


def missing_tool() -> str:
    """Reason why kernels cannot be compiled here; empty if they can."""
    try:
        import triton
    except ImportError:
        return "triton is not installed"
    folder = _tools(triton)
    absent = [tool for tool in ("ptxas", "cuobjdump", "nvdisasm") if not (folder / tool).is_file()]
    return f"this build of triton has no {' and no '.join(absent)}" if absent else ""


def _tools(triton: Any) -> Path:
    return Path(triton.__file__).parent / "backends/nvidia/bin"


class CompileSession:
    """Collects the kernels that are compiled for one capability."""

    def __init__(self, capability: int, tools: Path, folder: Path) -> None:
        self.capability, self.tools, self.folder = capability, tools, folder
        self.case = ""
        self._kernels: dict[tuple[str, str], CompiledKernel] = {}
        self._code: list[bytes] = []
        self._rows: dict[tuple[str, str], dict[str, set[float]]] = {}

    def __len__(self) -> int:
        """Number of compiled variants."""
        return len(self._kernels)

    def add(self, function: Any, arguments: dict[str, Any], compiled: Any) -> None:
        """Record a launch."""
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        key = name, compiled.hash
        if key not in self._kernels:
            kernel = CompiledKernel(name, self.capability, warps=compiled.metadata.num_warps)
            kernel.shared_bytes = compiled.metadata.shared
            self._kernels[key] = kernel
            binary: bytes = compiled.asm["cubin"]
            self._code.append(machine_code(binary))
            file = self.folder / f"{len(self._kernels)}.cubin"
            file.write_bytes(binary)
            usage = _output(self.tools / "cuobjdump", "--dump-resource-usage", file)
            kernel.registers = int(re.findall(r"\bREG:(\d+)", usage)[0])
        cases = self._kernels[key].cases
        if self.case not in cases:
            cases.append(self.case)
        sizes, rows = self._rows.setdefault(key, {}), number_of_rows(arguments)
        for argument, value in arguments.items():
            if rows and hasattr(value, "element_size") and argument not in PARTIAL_SUMS:
                sizes.setdefault(argument, set()).add(value.numel() * value.element_size() / rows)

    def results(self) -> list[CompiledKernel]:
        """Compiled kernels, sorted by name and case."""
        file = self.folder / "code"
        file.write_bytes(b"".join(self._code))
        # nvdisasm takes longer to start than to disassemble a kernel: it runs once for all kernels.
        target = f"SM{self.capability}" + ("a" if self.capability >= 90 else "")
        text = _output(self.tools / "nvdisasm", "--no-dataflow", "--binary", target, file)
        counts = instructions(text, [len(code) for code in self._code])
        for kernel, counted in zip(self._kernels.values(), counts, strict=True):
            set_accesses(kernel, counted)
        for key, kernel in self._kernels.items():
            # An argument with a row per position has the same size per row for all lengths.
            kernel.bytes_per_row = sum(next(iter(sizes)) for sizes in self._rows[key].values() if len(sizes) == 1)
        return sorted(self._kernels.values(), key=lambda kernel: (kernel.kernel, kernel.cases))


def number_of_rows(arguments: dict[str, Any]) -> int:
    """Number of rows of a launch; 0 if its kernel has no rows."""
    if "dt_ptr" in arguments:
        return len(arguments["dt_ptr"])
    return arguments.get("T", arguments.get("M", 0))


@contextmanager
def compiler(capability: int) -> Iterator[CompileSession]:
    """Make Triton launches compile for a capability and run nothing; allow the Triton backends on CPU tensors.

    Compilation uses a temporary cache, unless TRITON_CACHE_DIR is set. Triton must not run in interpreter mode.
    """
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from ldarnet.ops import backends_of, operations
    from ldarnet.ops.dispatch import resolve
    from ldarnet.ops.registry import register

    assert not knobs.runtime.interpret, "unset TRITON_INTERPRET"

    class AbsentGpu:
        get_current_target = staticmethod(lambda: GPUTarget("cuda", capability, 32))
        get_current_device = staticmethod(lambda: capability)  # Triton keeps compiled kernels by device
        get_current_stream = staticmethod(lambda device: 0)

    for operation in operations():
        if "triton" in (backends := backends_of(operation)):
            register(operation, "triton")(backends["triton"].function)
    resolve.cache_clear()
    driver.set_active(AbsentGpu())
    launch = JITFunction.run
    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope():
        knobs.cache.dir = os.environ.get("TRITON_CACHE_DIR") or folder
        session = CompileSession(capability, _tools(triton), Path(folder))

        def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:
            compiled = launch(self, *arguments, grid=grid, warmup=True, **options)
            named = dict(zip(self.arg_names, arguments, strict=False)) | options
            session.add(self.fn, named, compiled)
            if self.fn.__module__.endswith(".router") and "p_ptr" in named:
                named["p_ptr"].fill_(1.0)  # every position is a boundary; uninitialized, none might be
            return compiled

        JITFunction.run = compile_only
        try:
            yield session
        finally:
            JITFunction.run = launch


def train_step(session: CompileSession, preset: str, dtype: str) -> list[int]:
    """Run the forward and backward pass of a preset on packed rows of several lengths.

    All smoothings of chunks run, and then the causal model, whose kernels run in one direction.

    Returns:
        Number of compiled variants so far, after each entry of :data:`LENGTHS`.
    """
    import torch

    from ldarnet.model.chunking import SMOOTHINGS, Tokens
    from ldarnet.model.configuration import LDARNetConfig
    from ldarnet.model.network import Stage
    from ldarnet.ops import Packing, backends_of, operations

    ops = {name: "triton" for name in operations() if "triton" in backends_of(name)}
    torch.manual_seed(0)
    networks = []
    variants: list[dict[str, Any]] = [{"chunking": {"smoothing": smoothing}} for smoothing in SMOOTHINGS]
    # Nothing computes the probabilities of a causal router here, and a grid does not need them.
    for changes in [*variants, {"causal": True, "chunking": {"method": "grid"}}]:
        config = LDARNetConfig.preset(preset, arch_layout=LAYOUT, ops=ops, **changes)
        networks.append(Stage(config, config.arch_layout))
    session.case = f"{preset} {dtype}"
    counts = []
    for lengths in LENGTHS:
        packing = Packing.of_lengths(torch.tensor(lengths), sum(lengths), max(lengths))
        x_TD = torch.randn(packing.total, config.d_model[0], requires_grad=True)
        # A row of one position in one direction has strides without meaning, which compile variants that no run needs.
        for network in networks if packing.total > 1 else networks[:-1]:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                y_TD, *_ = network(x_TD, packing, Tokens(None, config.mask_token_id))
            y_TD.sum().backward()
        counts.append(len(session))
    return counts


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def machine_code(binary: bytes) -> bytes:
    """Instructions of the kernel in an ELF file: its section ``.text.NAME``."""
    (table,) = struct.unpack_from("<Q", binary, 40)
    size, count, names = struct.unpack_from("<3H", binary, 58)
    sections = [struct.unpack_from("<2I4Q", binary, table + size * index) for index in range(count)]
    names_start = sections[names][4]
    found = [
        binary[start : start + length]
        for name, _, _, _, start, length in sections
        if binary.startswith(b".text.", names_start + name)
    ]
    (code,) = found
    return code


def instructions(text: str, sizes: Sequence[int]) -> list[Counter[str]]:
    """Count the instructions of each kernel in the disassembly of their concatenated machine code.

    Args:
        text: output of nvdisasm.
        sizes: bytes of machine code of each kernel.
    """
    ends = list(accumulate(sizes))
    counts: list[Counter[str]] = [Counter() for _ in sizes]
    for address, instruction in _INSTRUCTION.findall(text):
        counts[bisect_right(ends, int(address, 16))][instruction] += 1
    return counts


def set_accesses(kernel: CompiledKernel, counted: Counter[str]) -> None:
    """Set the attributes of a kernel that count its instructions."""
    for instruction, number in counted.items():
        operation = instruction.partition(".")[0]
        suffix = _WIDTH_SUFFIX.search(instruction)
        width = WIDTHS[suffix[1]] if suffix else 4
        if operation == "LDG":
            kernel.loads[width] = kernel.loads.get(width, 0) + number
        elif operation == "STG":
            kernel.stores[width] = kernel.stores.get(width, 0) + number
        elif operation in ("LDL", "STL"):
            kernel.local_accesses += number
        elif operation == "BAR":
            kernel.barriers += number
        elif operation in ("ATOM", "ATOMG", "RED", "REDG"):
            kernel.atomics += number


def kernel_page(kernels: Sequence[CompiledKernel], options: argparse.Namespace) -> str:
    """Markdown page of the compiled kernels."""
    import triton

    lines = []
    for kernel in kernels:
        counts = [
            " ".join(f"{number}x{width}" for width, number in sorted(accesses.items(), reverse=True))
            for accesses in (kernel.loads, kernel.stores)
        ]
        values = [kernel.kernel, ", ".join(kernel.cases), kernel.capability, kernel.registers, kernel.local_accesses]
        values += [kernel.shared_bytes, kernel.warps, *counts, kernel.barriers, f"{kernel.bytes_per_row:,.0f}"]
        lines.append("| " + " | ".join(map(str, values)) + " |")
    header = "kernel | used by | sm | registers | local accesses | shared bytes | warps | loads | stores | barriers"
    text = [
        heading("Triton kernels, compiled without a GPU", options) + f"\n- Triton: {triton.__version__}",
        "Compiled, not run. Loads and stores are instructions on global memory in the machine code: number x bytes per "
        "thread. Local accesses are spilled registers. Bytes per row is the size of the arguments that have a row per "
        "position (per chunk in the inner stage and in dechunk), divided by the number of rows: what a kernel moves if "
        "it reads or writes each of them once. States of the scan have a row per chunk of steps and are not included.",
        f"| {header} | bytes per row |\n|---|---|---:|---:|---:|---:|---:|---|---|---:|---:|\n" + "\n".join(lines),
    ]
    return "\n\n".join(text) + "\n"


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    run_program(main)
