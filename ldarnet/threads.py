"""Number of CPU threads of a program: its share of the cores, or fewer if other programs use them.

The order of summation depends on the number of threads, and therefore the last bits of a result.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that set the number of threads; torch reads them at import."""
PROC, SYS = Path("/proc"), Path("/sys")
SAMPLES, SAMPLE_SECONDS = 5, 0.2
"""Maximum number of load samples, and the duration of each. The sample with the lowest load counts, so that a short
burst of another program does not slow down a long run."""


class Threads(NamedTuple):
    """Number of threads, why it was chosen, and whether it is lower because other programs are busy."""

    count: int
    reason: str
    busy: bool = False

    def __str__(self) -> str:
        """Format for logs, such as "1 thread (OMP_NUM_THREADS=1)"."""
        return f"{self.count} thread{'s' * (self.count != 1)} ({self.reason})"


def set_threads(processes: int = 1, earlier: int | None = None) -> Threads:
    """Set torch's number of threads, unless the user has set it by an environment variable.

    The calling process and the processes that share its cores should be idle: the load is measured, for 0.2 to 1 s.

    Args:
        processes: number of our processes on the cores of this process, such as the ranks of this machine.
        earlier: number of threads in earlier launches of the same run; used again, so that the resumed run is
            bit-identical, unless it exceeds the share of this process.
    """
    import torch

    if user_setting() is not None:
        return Threads(torch.get_num_threads(), f"set by {user_setting()}")
    cores, busy = usable_cores(), False
    reason = f"{cores} core{'s' * (cores != 1)}"
    if processes > 1:
        reason += f" for {processes} processes"
    share = max(cores // processes, 1)
    if earlier is not None and earlier <= share:
        count, reason = earlier, f"{reason}; as in the previous launch"
    else:
        idle = idle_cores(enough=share * processes)
        count = thread_count(cores, processes, idle)
        if busy := count < share:
            reason += f", {idle:.1f} idle; set OMP_NUM_THREADS={share} to use all"
    torch.set_num_threads(count)
    return Threads(count, reason, busy)


def user_setting() -> str | None:
    """Environment variable that sets the number of threads, as `NAME=value`; None if there is none."""
    return next((f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)), None)


def thread_count(cores: int, processes: int, idle: float) -> int:
    """Threads per process if `processes` share `cores` usable cores, of which `idle` are idle; at least one."""
    return max(min(cores // processes, int(idle / processes + 0.5)), 1)


def usable_cores() -> int:
    """Physical cores that this process may use: those in its affinity mask, up to the quota of its cgroup."""
    return max(int(min(_physical_cores(), _quota())), 1)


def usable_cpus() -> int:
    """Logical CPUs that this process may use; like `usable_cores`, but hyperthreads of a core count separately."""
    return max(int(min(len(affinity()), _quota())), 1)


def affinity() -> tuple[int, ...]:
    """Numbers of the logical CPUs on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def idle_cores(enough: float) -> float:
    """Measure how many of the physical cores in the affinity mask are idle while this process sleeps.

    The load average would not do: for a minute, it includes the program that ran before, such as the same run before
    it was interrupted.

    Args:
        enough: number of idle cores at which to stop measuring.
    """
    cores, most = _physical_cores(), 0.0
    before = _ticks()
    if not before:
        return float(cores)  # the load is unknown
    for _ in range(SAMPLES):
        time.sleep(SAMPLE_SECONDS)
        after = _ticks()
        total, idle = (sum(after[cpu][i] - before[cpu][i] for cpu in before if cpu in after) for i in (0, 1))
        most, before = max(most, cores * idle / max(total, 1)), after
        if int(most + 0.5) >= enough:
            break
    return most


def _physical_cores() -> int:
    """Count the physical cores in the affinity mask; logical CPUs where the topology is unknown."""
    siblings = (SYS / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in affinity())
    return len({_read(file) or str(file) for file in siblings})


def _quota() -> float:
    """Lowest CPU quota of this process's cgroup (version 1 or 2) and of the groups around it, in CPUs."""
    quotas = [float("inf")]
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root, group = SYS / "fs/cgroup" / ("cpu" if controllers else ""), Path(name.strip("/"))
        # The names in a container may be those of the host, whose folders are not visible; the root counts always.
        for folder in (root / group, *(root / parent for parent in group.parents)):
            with suppress(ValueError, IndexError, ZeroDivisionError):
                if controllers:
                    limit, period = (_read(folder / f"cpu.cfs_{key}_us") for key in ("quota", "period"))
                else:
                    limit, period = _read(folder / "cpu.max").split()
                if int(limit) > 0:
                    quotas.append(int(limit) / int(period))
    return min(quotas)


def _ticks() -> dict[int, tuple[int, int]]:
    """Total and idle clock ticks of each logical CPU in the affinity mask since boot; empty where they are unknown."""
    allowed, ticks = affinity(), {}
    for line in _read(PROC / "stat").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in allowed:
            spent = list(map(int, fields[:8]))  # user, nice, system, idle, iowait, irq, softirq, steal
            ticks[int(name[3:])] = (sum(spent), sum(spent[3:5]))
    return ticks


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
