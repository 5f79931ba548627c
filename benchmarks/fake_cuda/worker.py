"""Trace a workload in this process: `python -m benchmarks.fake_cuda.worker LIBRARY RESULT WORKLOAD`."""

import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from benchmarks.fake_cuda import device
from benchmarks.fake_cuda.trace import TraceRequest
from ldarnet.errors import UserError
from ldarnet.io.files import write_json_atomic
from ldarnet.io.records import parse_record


def main() -> None:
    """Load the device before torch, trace the workload and write the result."""
    library, result, workload = sys.argv[1:]
    device.load(Path(library))
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # copy.deepcopy does
    from benchmarks.fake_cuda.steps import run

    try:
        made = run(parse_record(workload, TraceRequest, where="workload", hint="pass a JSON object"))
    except UserError as error:
        sys.exit(f"error: {error}")
    write_json_atomic(Path(result), asdict(made))


if __name__ == "__main__":
    main()
