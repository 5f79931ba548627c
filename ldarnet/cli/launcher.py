"""`--gpus` and `--ranks`: start the ranks of a training command with DeepSpeed's launcher on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from types import FrameType

from ldarnet.console import format_count
from ldarnet.errors import UserError
from ldarnet.io.early_stop import LAUNCHED
from ldarnet.io.process import exit_with_parent
from ldarnet.runtime.ports import free_port

RESEND_SECONDS = 2.0
MIN_KILLED_STATUS = 192
"""If a signal kills a rank, DeepSpeed's launcher exits with 256 minus the signal number, which is at most 64."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def launch(module: str, arguments: Sequence[str], *, gpus: int | None, ranks: int | None) -> int:
    """Run a module on several ranks, and return the launcher's exit status.

    SIGTERM, SIGINT, SIGHUP and SIGUSR1 make all ranks save and stop; a second SIGINT kills them.

    Args:
        module: module that every rank runs with ``python -m``.
        arguments: arguments passed to the module.
        gpus: number of ranks to start on GPUs.
        ranks: number of ranks to start on GPUs, or on CPUs if there are no GPUs.

    Raises:
        UserError: both `gpus` and `ranks` are given, or this machine has too few GPUs.
        ModuleNotFoundError: DeepSpeed is not installed.
    """
    if find_spec("deepspeed") is None:
        raise ModuleNotFoundError(name="deepspeed")
    environment = dict(os.environ) | {LAUNCHED: "1"}
    # DeepSpeed's launcher logs the command of a failed rank as an error; the rank has already printed its own error.
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "critical"]
    command += ["--master_port", str(free_port()), *_devices(environment, gpus, ranks)]
    status = _supervise([*command, "--module", module, *arguments], environment)
    if status >= MIN_KILLED_STATUS:
        reason = f"signal {256 - status} ({signal.strsignal(256 - status)})"
        print(
            f"error: a rank was killed by {reason}; check the system log, then run the same command again",
            file=sys.stderr,
        )
    return status


def _devices(environment: dict[str, str], gpus: int | None, ranks: int | None) -> list[str]:
    """Choose the launcher's device arguments, and update `environment` to match them."""
    if gpus is not None and ranks is not None:
        raise UserError("--gpus and --ranks are mutually exclusive; use one of them")
    on_cpu = gpus is None and (environment.get("DS_ACCELERATOR") == "cpu" or not _gpu_count())
    count = gpus or ranks or 0
    if on_cpu:
        _set_cpu_defaults(environment)
        return ["--num_accelerators", str(count)]
    if count > (available := _gpu_count()):
        option = "--gpus" if gpus else "--ranks"
        if not available:
            hint = "see `ldarnet doctor`, or use --ranks to run on the CPU"
            raise UserError(f"{option} {count}: torch can use no GPU here; {hint}")
        raise UserError(
            f"{option} {count}: torch can use only {format_count(available, 'GPU')} here; use at most {available}, or "
            "see `ldarnet doctor`"
        )
    if visible := environment.pop("CUDA_VISIBLE_DEVICES", ""):
        # Given only a number of GPUs, DeepSpeed's launcher starts at GPU 0 and ignores CUDA_VISIBLE_DEVICES.
        return ["--include", f"localhost:{','.join(visible.split(',')[:count])}"]
    return ["--num_accelerators", str(count)]


def _set_cpu_defaults(environment: dict[str, str]) -> None:
    environment["DS_ACCELERATOR"] = "cpu"
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if sys.platform == "linux":  # all ranks are on this machine, so use the loopback interface
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _supervise(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the launcher in a separate process group, forward signals to its ranks, and return its exit status."""
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def send(number: int) -> None:
        with suppress(ProcessLookupError):
            if process is not None:
                os.killpg(process.pid, number)

    def forward(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            return send(signal.SIGKILL)
        if number == signal.SIGINT:
            print(
                "stopping: ranks save their state and exit; press Ctrl-C again to kill them",
                file=sys.stderr,
                flush=True,
            )
        received.append(number)
        return send(signal.SIGUSR1)

    parent = os.getpid()

    def in_child() -> None:
        exit_with_parent(parent)  # the ranks then notice that the launcher has exited, and save
        for number in FORWARDED:
            signal.signal(number, signal.SIG_IGN)

    before = {number: signal.getsignal(number) for number in FORWARDED}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler != signal.SIG_IGN:  # keep ignoring SIGHUP under nohup
            signal.signal(number, forward)
    try:
        # Launchers ignore SIGUSR1, and ranks ignore it until they can save: resend it until all ranks have exited.
        process = subprocess.Popen(command, env=environment, process_group=0, preexec_fn=in_child)
        while True:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(RESEND_SECONDS)
                return status if status >= 0 else 128 - status
            if received:
                send(signal.SIGUSR1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()
