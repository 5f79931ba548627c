"""Kill the checkpoint writer at any of its system calls."""

import builtins
import io
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldarnet.pretraining import async_checkpoint as saver
from ldarnet.runtime import checkpoint_files as contents

AUDITED = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
WRITING = os.O_WRONLY | os.O_RDWR


class KillPoints:
    """Records the system calls of the checkpoint writer for one step; kills the process at one of them.

    Args:
        step: step whose checkpoint is observed.
        kill_at: index of the call at which to kill the process; None to only record.

    Attributes:
        passed: description of each recorded call.
    """

    def __init__(self, step: int, kill_at: int | None = None) -> None:
        self.passed: list[str] = []
        self._kill_at = kill_at
        self._armed = False
        sys.addaudithook(self._audit)
        os.fsync = self._fsync  # skipped: data written by a killed process survive without it
        io.open = builtins.open = self._after_open(builtins.open)
        contents.save_file = self._half_written(contents.save_file)
        shutil.copyfile = self._half_written(shutil.copyfile)
        write = saver.CheckpointWriter._write

        def armed(writer: saver.CheckpointWriter, content: contents.CheckpointContents) -> Any:
            self._armed = content.state.step == step
            failure = write(writer, content)
            self._armed = False
            return failure

        saver.CheckpointWriter._write = armed

    def point(self, description: str) -> bool:
        """Record a call and return whether to die at this call."""
        if not self._armed or not threading.current_thread().name.startswith("checkpoint"):
            return False
        self.passed.append(description)
        return len(self.passed) - 1 == self._kill_at

    def _audit(self, event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (event in AUDITED or writes) and self.point(f"{event} {Path(os.fsdecode(arguments[0])).name}"):
            die()

    def _fsync(self, _: int) -> None:
        if self.point("fsync"):
            die()

    def _after_open(self, function: Callable) -> Callable:
        def hooked(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            opened = function(file, mode, *arguments, **named)
            if set(mode) & set("wax+") and self.point(f"opened {Path(file).name}"):
                die()
            return opened

        return hooked

    def _half_written(self, function: Callable) -> Callable:
        def hooked(source: Any, file: Any, *arguments: Any, **named: Any) -> Any:
            result = function(source, file, *arguments, **named)
            file = Path(file)
            if self.point(f"half of {file.name}"):
                os.truncate(file, file.stat().st_size // 2)
                die()
            if self.point(f"all of {file.name}"):
                die()
            return result

        return hooked


def die() -> None:
    """Send SIGKILL to this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a forked process and return its exit status, or the negative signal number that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
