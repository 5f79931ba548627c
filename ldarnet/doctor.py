"""Report on this machine: packages, devices, and the kernel that each op of the model would use."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module, metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from ldarnet.extras import extra_of
from ldarnet.ops import Backend, backends_of, choose_backends, input_dtype, operations, skip_reason
from ldarnet.ops.verification_cache import SWITCH, cache_folder
from ldarnet.threads import usable_cores
from ldarnet.version import __version__

KERNEL_PINS = {"mamba-ssm": "2.3.2.post1", "causal-conv1d": "1.7.0", "flash-attn": "2.8.3.post2"}
"""Package -> version to install, for the extra ``kernels``; these packages are compiled against the installed torch."""


_PYTHON = Path(sys.executable)
_PIP = f"{_PYTHON.relative_to(Path.cwd()) if _PYTHON.is_relative_to(Path.cwd()) else _PYTHON} -m pip install"


@dataclass(frozen=True)
class Package:
    """A dependency.

    Attributes:
        name: name in the package index.
        purpose: what the package is used for. Empty for kernel packages, because the report lists their ops instead.
        required: whether the package is required. Kernel packages are optional: without them, PyTorch code is used.
    """

    name: str
    purpose: str = ""
    required: bool = True

    @property
    def module(self) -> str:
        """Name of the Python module that the package provides."""
        return self.name.replace("-", "_")

    @property
    def install(self) -> str:
        """Command that installs the package into this Python environment."""
        if self.name == "triton":
            return "rm -r .venv && make setup TORCH=cuda (triton comes with the CUDA build of torch)"
        if self.name in KERNEL_PINS:
            return f'{_PIP} --no-build-isolation "{self.name}=={KERNEL_PINS[self.name]}"'
        return f"{_PIP} {self.name}"


PACKAGES = (
    Package("transformers", "model classes, loading and saving"),
    Package("safetensors", "weights"),
    Package("pydantic", "configuration"),
    Package("xopen", "compressed FASTA"),
    Package("scipy", "statistics"),
    Package("deepspeed", "distributed training"),
    Package("mlflow", "experiment tracking"),
    Package("webdataset", "shard files"),
    Package("zstandard", "shard compression"),
    Package("fsspec", "remote files"),
    Package("matplotlib", "figures"),
    Package("scikit-learn", "cross-validation, metrics, probes and baselines"),
    Package("pyarrow", "Parquet files"),
    Package("optuna", "hyperparameter search"),
    Package("ray", "sweeps, and sharding on several machines"),
    Package("pyBigWig", "boundaries from bigWig files"),
    Package("pybigtools", "bigWig and bigBed tracks"),
    Package("logomaker", "sequence logos"),
    Package("triton", required=False),
    Package("mamba-ssm", required=False),
    Package("causal-conv1d", required=False),
    Package("flash-attn", required=False),
)


def examine(folder: Path = Path()) -> dict[str, Any]:
    """Examine packages, devices and kernels of this machine.

    Args:
        folder: folder on the disk whose free space is reported.

    Returns:
        A report that can be written as JSON: ``ldarnet``, ``python``, ``machine``, ``torch``, ``packages``,
        ``operations``, ``kernel_cache`` and ``advice`` (lines of text). ``operations`` is a nested dict: device type ->
        op -> list of backends. One backend of each list is marked as ``selected``.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    report: dict[str, Any] = {
        **examine_machine(folder),
        "operations": {device: _operations(device) for device in devices},
        "kernel_cache": _kernel_cache(),
    }
    for package, found in zip(PACKAGES, report["packages"], strict=True):
        if any(not skip_reason(backend, devices[-1], torch.bfloat16) for backend in _backends_using(package)):
            found["problem"] = ""  # the package does not import as a whole, but the functions that we use work
    return {**report, "advice": _advice(report)}


def examine_machine(folder: Path = Path()) -> dict[str, Any]:
    """Build the report of `examine` without ``operations``, ``kernel_cache`` and ``advice``. Runs no kernels."""
    return {
        "ldarnet": __version__,
        "python": platform.python_version(),
        "machine": _machine(folder),
        "torch": _torch(),
        "packages": [_package(package) for package in PACKAGES],
    }


def render(report: dict[str, Any]) -> str:
    """Format a report of `examine` as plain text."""
    machine, build = report["machine"], report["torch"]
    lines = [
        f"LDARNet {report['ldarnet']}, Python {report['python']}, {machine['system']}",
        f"{machine['cores']} cores, {machine['memory_gib']:.0f} GiB memory, "
        f"{machine['free_disk_gib']:.0f} GiB free disk",
        f"torch {build['version']}, " + (f"built for CUDA {build['cuda']}" if build["cuda"] else "built without CUDA"),
    ]
    lines += [f"GPU {gpu['name']}, {gpu['memory_gib']:.0f} GiB, sm_{gpu['capability']}" for gpu in build["gpus"]]
    lines += [] if build["gpus"] else ["no GPU available to torch"]
    lines += ["", "Packages"]
    for package in report["packages"]:
        if not (package["version"] or package["required"] or build["gpus"]):
            lines.append(f"  {package['name']:<14} {'-':<12} {package['purpose']}; not needed without a GPU")
            continue
        lines.append(f"  {package['name']:<14} {package['version'] or 'missing':<12} {package['purpose']}")
        if package["problem"]:
            lines.append(f"  {'':<14} fails to import: {package['problem']}")
        if package["install"]:
            lines.append(f"  {'':<14} install: {package['install']}")
    for device, by_operation in report["operations"].items():
        lines += ["", f"Kernels on {device}"]
        for operation, choices in by_operation.items():
            chosen = next(choice["backend"] for choice in choices if choice["selected"])
            lines.append(f"  {operation:<14} {chosen}")
            lines += [
                f"  {'':<14} ({choice['backend']}: {choice['unsupported_reason']})"
                for choice in choices
                if choice["unsupported_reason"]
            ]
    lines += ["", f"Verified kernels: {report['kernel_cache']}"]
    lines += ["", "Suggestions", *(f"  {line}" for line in report["advice"])]
    return "\n".join(lines)


def _machine(folder: Path) -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": usable_cores(),
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
    ops = sorted(backend.operation for backend in _backends_using(package))
    return {
        "name": package.name,
        "version": version,
        "required": package.required,
        "purpose": package.purpose or f"{', '.join(ops)} on GPUs",
        # A compiled kernel may be installed but fail to load if it was built against another torch.
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
    """List the backends of each op, and mark the backend that ``auto`` selects for training on this device."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return {
        operation: [
            {
                "backend": backend.name,
                "selected": backend.name == name,
                "unsupported_reason": skip_reason(backend, device, input_dtype(operation, dtype)),
            }
            for backend in backends_of(operation).values()
        ]
        for operation, name in choose_backends(device, dtype).items()
    }


def _kernel_cache() -> str:
    folder = cache_folder()
    if folder is None:
        return f"not cached, because {SWITCH}=0"
    return f"{len([*folder.glob('*.json')])}, cached in {folder}"


def _backends_using(package: Package) -> list[Backend]:
    known = [backend for operation in operations() for backend in backends_of(operation).values()]
    return [backend for backend in known if backend.package == package.module]


def _advice(report: dict[str, Any]) -> list[str]:
    build, packages = report["torch"], report["packages"]
    advice = []
    if not build["gpus"] and _nvidia_driver():
        if build["cuda"]:
            advice.append(f"torch cannot use the NVIDIA GPU: update its driver for CUDA {build['cuda']}")
        else:
            advice.append("torch was built without CUDA and cannot use the NVIDIA GPU: rm -r .venv && make setup")
    if build["gpus"] and shutil.which("nvcc") is None:
        advice.append(
            "nvcc is not on PATH, so kernel packages cannot be compiled: install the CUDA toolkit or use the Dockerfile"
        )
    advice += [
        f"{package['name']} is installed but fails to import: rebuild it against torch {build['version']}"
        for package in packages
        if package["problem"]
    ]
    missing = [package for package in PACKAGES if package.required and package.name in _missing(packages)]
    for extra, lacking in groupby(missing, key=lambda package: extra_of(package.module)):
        names, target = ", ".join(package.name for package in lacking), f"ldarnet[{extra}]" if extra else "ldarnet"
        advice.append(f"missing for {extra or 'every command'}: {names}; {_PIP} '{target}'")
    if report["machine"]["free_disk_gib"] < 5:
        advice.append("less than 5 GiB free disk: a run keeps several checkpoints")
    return advice or ["no problems found; try `make quickstart`"]


def _missing(packages: list[dict[str, Any]]) -> set[str]:
    return {package["name"] for package in packages if not package["version"]}


def _nvidia_driver() -> bool:
    program = shutil.which("nvidia-smi")
    return program is not None and subprocess.run([program], capture_output=True, check=False).returncode == 0
