"""What a traced training step did, and the process that traces it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.fake_cuda import device
from ldarnet.errors import UserError
from ldarnet.io.records import read_record

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN, FINETUNE = "pretrain", "finetune"
PROGRAMS = (PRETRAIN, FINETUNE)
SCAN = "scan"
"""Part that holds the state-space scan."""
STAND_IN = "stand-in"
"""Takes the place of mamba-ssm's scan if mamba-ssm is missing: has its inputs, outputs and launches, but moves fewer
bytes."""


@dataclass(frozen=True)
class TraceRequest:
    """A training step to trace, with bf16 autocast.

    Attributes:
        program: one of `PROGRAMS`.
        preset: model preset.
        windows: windows (or rows) per micro-step.
        length: bases per window; in fine-tuning, every second row is a quarter shorter.
        arrangement: implementation of the model, see `benchmarks.baselines.arrange`.
        ops: backend overrides by operation; the others use the backend that `auto` prefers on a GPU.
        bases_per_chunk: assumed number of positions per chunk at every router; fake tensors have no values.
        chunk_capacity_factor: see `training.chunk_capacity_factor`; the number of chunks is static if this is not None.
        optimizer: `optimizer.name` of pretraining.
        accumulation: micro-steps per optimizer step of pretraining.
        chunking: `model.chunking` of pretraining.
        chunking_tokenizer: `model.chunking_tokenizer` of pretraining.
    """

    program: str = PRETRAIN
    preset: str = "ldarnet-110m"
    windows: int = 8
    length: int = 4096
    arrangement: str = "ours"
    ops: dict[str, str] = field(default_factory=dict)
    bases_per_chunk: float = 4.0
    chunk_capacity_factor: float | None = None
    optimizer: str = "adamw"
    accumulation: int = 1
    chunking: dict[str, str] = field(default_factory=dict)
    chunking_tokenizer: str | None = None


@dataclass(frozen=True)
class Operation:
    """A group of equal calls of a device operation.

    Attributes:
        phase: phase of the step: forward, backward, update, ...
        part: part of the step, such as `convolution`; each part is a row of the report.
        name: name of the kernel or PyTorch operation.
        dtype: dtype of the first input or output; `tf32` for a product of float32 matrices in TF32.
        place: for a matrix product in the forward pass, the file and function that call it; otherwise empty.
        launches: kernel launches of a call.
        bytes: bytes that a call reads and writes.
        flops: FLOPs of matrix products of a call.
        calls: number of calls.
    """

    phase: str
    part: str
    name: str
    dtype: str
    place: str
    launches: int
    bytes: int
    flops: int
    calls: int = 1


@dataclass
class StepTrace:
    """Everything that a step did on the device.

    Attributes:
        name: name of the step, such as `logged`.
        bases: bases per step; in fine-tuning, without padding.
        operations: device operations.
        part_flops: part -> FLOPs that are not included in `operations`.
        waits: `<file> <function>` -> number of times that the host waited for the device.
        pageable_copies: `<file> <function>` -> number of copies to the device from memory that is not pinned; the
            driver may wait for such a copy.
        mixed_devices: operations with host and device tensors.
    """

    name: str
    bases: int = 0
    operations: list[Operation] = field(default_factory=list)
    part_flops: dict[str, float] = field(default_factory=dict)
    waits: dict[str, int] = field(default_factory=dict)
    pageable_copies: dict[str, int] = field(default_factory=dict)
    mixed_devices: list[str] = field(default_factory=list)

    @property
    def launches(self) -> int:
        """Number of kernel launches."""
        return sum(entry.launches * entry.calls for entry in self.operations)

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return sum(entry.bytes * entry.calls for entry in self.operations)

    def parts(self) -> dict[str, list[Operation]]:
        """Operations by part."""
        parts: dict[str, list[Operation]] = {}
        for entry in self.operations:
            parts.setdefault(entry.part, []).append(entry)
        return parts


@dataclass(frozen=True)
class Trace:
    """Traced steps of a workload.

    Attributes:
        kernels: operation -> backend.
        scan: backend of the scan, or `STAND_IN` if a stand-in was counted.
        steps: step name -> step.
    """

    kernels: dict[str, str]
    scan: str
    steps: dict[str, StepTrace]


def trace(workload: TraceRequest, *, library: Path | None = None, timeout: float = 600.0) -> Trace:
    """Trace a workload in a new process.

    Args:
        workload: the step to trace.
        library: return value of `device.build`; built if None.
        timeout: limit in seconds.

    Raises:
        UserError: this machine cannot run fake CUDA, or the process failed.
    """
    if reason := device.unsupported_reason():
        raise UserError(f"fake CUDA is not supported here: {reason}")
    library = library or device.build()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "trace.json"
        command = [sys.executable, "-m", "benchmarks.fake_cuda.worker", str(library), str(result)]
        command.append(json.dumps(asdict(workload)))
        try:
            code = subprocess.run(command, cwd=ROOT, env=_environment(), timeout=timeout, check=False).returncode
            failure = f"exit status {code}" if code else ""
        except subprocess.TimeoutExpired:
            failure = f"no result after {timeout:.0f} s"
        if failure:
            raise UserError(f"tracing {workload.program} failed: {failure}; see the messages of its process above")
        return read_record(result, Trace, hint="run the program again")


def _environment() -> dict[str, str]:
    """Environment of the tracing process, without TRITON_INTERPRET: Triton's interpreter launches no kernels."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(ROOT), kept.get("PYTHONPATH", "")]
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
