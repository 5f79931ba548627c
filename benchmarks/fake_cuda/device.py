"""Build and load the fake CUDA device (`device.cpp`). This module must not import torch."""

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.io.cache import default_cache_folder

SOURCE = Path(__file__).with_name("device.cpp")
COMPILER = "g++"


def torch_folder() -> Path:
    """Folder of the installed torch package."""
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def unsupported_reason() -> str:
    """Reason why this machine cannot run fake CUDA; empty if it can."""
    if (torch_folder() / "lib/libtorch_cuda.so").exists():
        return "torch is a CUDA build; fake CUDA needs a CPU build"
    if not (torch_folder() / "lib/libtorch_cpu.so").exists():
        return "fake CUDA runs on Linux only"
    if shutil.which(COMPILER) is None:
        return f"{COMPILER} is not installed"
    if find_spec("triton") is None:
        return "triton is not installed"
    return ""


def build(folder: Path | None = None) -> Path:
    """Compile the library of the device into a folder (default: the cache folder), and return its path.

    A library that is already in the folder is reused.

    Raises:
        UserError: compilation failed.
    """
    folder = default_cache_folder() / "fake-cuda" if folder is None else folder
    key = hashlib.sha256(SOURCE.read_bytes() + metadata.version("torch").encode()).hexdigest()[:16]
    library, torch = folder / f"{key}.so", torch_folder()
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    include = (torch / "include", torch / "include/torch/csrc/api/include")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / library.name
        command = [COMPILER, "-shared", "-fPIC", "-std=c++20", *(f"-I{path}" for path in include), str(SOURCE)]
        command += [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", "-o", str(made)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = next((line for line in result.stderr.splitlines() if "error" in line), "unknown reason")
            raise UserError(f"{SOURCE.name}: {COMPILER} failed: {reason}; install a compiler that supports C++20")
        made.replace(library)
    return library


def load(library: Path) -> None:
    """Load the device into this process; torch must not have been imported yet."""
    ctypes.CDLL(str(torch_folder() / "lib/libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
