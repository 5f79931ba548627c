"""What this machine has: packages, devices, and what each operation of the model would use on them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

from ldarnet.ops import Backend, backends_of, choose_backends, input_dtype, operations, skip_reason
from ldarnet.version import __version__

KERNEL_PINS = {"mamba-ssm": "2.3.2.post1", "causal-conv1d": "1.7.0", "flash-attn": "2.8.3.post2"}
"""Packages of the extra ``kernels`` and their versions; they are compiled against the torch that is installed."""


@dataclass(frozen=True)
class Package:
    """A package that LDARNet uses or can use.

    Attributes:
        name: its name in the package index.
        purpose: what it serves; empty for kernels, whose use the registry of operations tells.
        required: whether the main job needs it.
    """

    name: str
    purpose: str = ""
    required: bool = True

    @property
    def module(self) -> str:
        """The name it is imported by."""
        return self.name.replace("-", "_")

    @property
    def install(self) -> str:
        """The command that installs it into the running Python."""
        if self.name == "triton":
            return "make setup TORCH=cuda (it comes with the CUDA build of torch; rm -r .venv first)"
        pip = f"{_short(Path(sys.executable))} -m pip install"
        if self.name in KERNEL_PINS:
            return f'{pip} --no-build-isolation "{self.name}=={KERNEL_PINS[self.name]}"'
        return f"{pip} {self.name}"


PACKAGES = (
    Package("transformers", "model classes, loading and saving"),
    Package("safetensors", "weights on disk"),
    Package("deepspeed", "training on one or many devices"),
    Package("mlflow", "tracking of runs"),
    Package("pydantic", "typed configuration"),
    Package("zstandard", "compression of shards"),
    Package("xopen", "reading of compressed FASTA"),
    Package("matplotlib", "pictures"),
    Package("fsspec", "reading of remote files"),
    Package("pyarrow", "reading of Parquet"),
    Package("scikit-learn", "folds, metrics, probes and baselines of fine-tuning"),
    Package("scipy", "intervals and tests"),
    Package("optuna", "search of settings in sweeps"),
    Package("ray", "sweeps, and sharding on several machines"),
    Package("triton", required=False),
    Package("mamba-ssm", required=False),
    Package("causal-conv1d", required=False),
    Package("flash-attn", required=False),
)


def examine(folder: Path = Path()) -> dict[str, Any]:
    """Look at the machine.

    Args:
        folder: a place on the disk whose free space counts.

    Returns:
        A tree that can be written as JSON: ``ldarnet``, ``python``, ``machine``, ``torch``, ``packages``,
        ``operations`` (device type -> operation -> backends, the chosen one marked) and ``advice`` (lines for people).
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    report: dict[str, Any] = {
        **examine_machine(folder),
        "operations": {device: _operations(device) for device in devices},
    }
    for package, found in zip(PACKAGES, report["packages"], strict=True):
        if any(not skip_reason(backend, devices[-1], torch.bfloat16) for backend in _served(package)):
            found["problem"] = ""  # what we need of it works
    return {**report, "advice": _advice(report)}


def examine_machine(folder: Path = Path()) -> dict[str, Any]:
    """What `examine` finds without trying kernels: all but ``operations`` and ``advice``."""
    return {
        "ldarnet": __version__,
        "python": platform.python_version(),
        "machine": _machine(folder),
        "torch": _torch(),
        "packages": [_package(package) for package in PACKAGES],
    }


def render(report: dict[str, Any]) -> str:
    """Write what `examine` found as plain text that can be read, and pasted into a question to others."""
    machine, build = report["machine"], report["torch"]
    lines = [
        f"LDARNet {report['ldarnet']}, Python {report['python']}, {machine['system']}",
        f"{machine['cores']} cores, {machine['memory_gib']:.0f} GiB of memory, "
        f"{machine['free_disk_gib']:.0f} GiB free on this disk",
        f"torch {build['version']}, " + (f"built for CUDA {build['cuda']}" if build["cuda"] else "built without CUDA"),
    ]
    lines += [f"GPU {gpu['name']}, {gpu['memory_gib']:.0f} GiB, sm_{gpu['capability']}" for gpu in build["gpus"]]
    lines += [] if build["gpus"] else ["no GPU that torch can use"]
    lines += ["", "Packages"]
    for package in report["packages"]:
        lines.append(f"  {package['name']:<14} {package['version'] or 'missing':<12} {package['purpose']}")
        if package["problem"]:
            lines.append(f"  {'':<14} does not import: {package['problem']}")
        if package["install"]:
            lines.append(f"  {'':<14} install it with: {package['install']}")
    for device, by_operation in report["operations"].items():
        lines += ["", f"Operations on {device}: what each uses"]
        for operation, choices in by_operation.items():
            chosen = next(choice["backend"] for choice in choices if choice["chosen"])
            lines.append(f"  {operation:<14} {chosen}")
            lines += [
                f"  {'':<14} ({choice['backend']}: {choice['obstacle']})" for choice in choices if choice["obstacle"]
            ]
    lines += ["", "Advice", *(f"  {line}" for line in report["advice"])]
    return "\n".join(lines)


def _machine(folder: Path) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "free_disk_gib": shutil.disk_usage(folder).free / 2**30,
    }


def _torch() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [
            {"name": gpu.name, "memory_gib": gpu.total_memory / 2**30, "capability": f"{gpu.major}{gpu.minor}"}
            for gpu in gpus
        ],
    }


def _package(package: Package) -> dict[str, Any]:
    try:
        version = metadata.version(package.name)
    except metadata.PackageNotFoundError:
        version = None
    served = sorted(backend.operation for backend in _served(package))
    return {
        "name": package.name,
        "version": version,
        "required": package.required,
        "purpose": package.purpose or f"{', '.join(served)} on GPUs",
        # A compiled kernel can be installed and yet not load, when it was built for another torch.
        "problem": _import_problem(package.module) if version and package.name in KERNEL_PINS else "",
        "install": "" if version else package.install,
    }


def _import_problem(module: str) -> str:
    try:
        import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return ""


def _operations(device: str) -> dict[str, list[dict[str, Any]]]:
    """What ``auto`` chooses in the dtype that the main job takes products in on this device."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return {
        operation: [
            {
                "backend": backend.name,
                "chosen": backend.name == name,
                "obstacle": skip_reason(backend, device, input_dtype(operation, dtype)),
            }
            for backend in backends_of(operation).values()
        ]
        for operation, name in choose_backends(device, dtype).items()
    }


def _served(package: Package) -> list[Backend]:
    """The backends that need this package."""
    known = [backend for operation in operations() for backend in backends_of(operation).values()]
    return [backend for backend in known if backend.package == package.module]


def _advice(report: dict[str, Any]) -> list[str]:
    build, packages = report["torch"], report["packages"]
    advice = []
    if not build["gpus"] and _nvidia_driver():
        if build["cuda"]:
            advice.append(
                "There is an NVIDIA GPU, but torch cannot use it: update its driver for CUDA " + build["cuda"] + "."
            )
        else:
            advice.append("There is an NVIDIA GPU, but torch was built without CUDA: rm -r .venv && make setup")
    if build["gpus"] and shutil.which("nvcc") is None:
        advice.append("nvcc is not on the path: kernel packages cannot be compiled here; the Dockerfile has it.")
    advice += [
        f"{package['name']} is installed but does not import: rebuild it against torch {build['version']}."
        for package in packages
        if package["problem"]
    ]
    missing = [package for package in packages if package["required"] and not package["version"]]
    advice += [f"The main job needs {package['name']}: {package['install']}" for package in missing]
    if report["machine"]["free_disk_gib"] < 5:
        advice.append("Little disk space is left: a run keeps several checkpoints.")
    return advice or ["Nothing is wrong. `make quickstart` runs the main job here."]


def _nvidia_driver() -> bool:
    program = shutil.which("nvidia-smi")
    return program is not None and subprocess.run([program], capture_output=True, check=False).returncode == 0


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
