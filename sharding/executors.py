"""Doing many tasks: in this process, in several, or on a Ray cluster."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

from ldarnet.errors import UserError
from ldarnet.io.process import exit_with_parent
from ldarnet.ray_cluster import connect

Task = tuple[Callable[..., None], tuple[Any, ...]]
"""A function of a module, and its arguments; both can be pickled."""

_AGAIN = "what is finished is kept, run the same command again"
_RAY_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Executor(Protocol):
    """Runs tasks, in any order."""

    def __call__(self, tasks: Sequence[Task]) -> None:
        """Run all tasks, and return when they are done.

        Raises:
            UserError: a task failed, or who should do it went away; the tasks not begun are given up.
        """
        ...


@contextmanager
def in_process() -> Iterator[Executor]:
    """One task after the other, here."""

    def execute(tasks: Sequence[Task]) -> None:
        for function, arguments in tasks:
            function(*arguments)

    yield execute


@contextmanager
def in_processes(workers: int) -> Iterator[Executor]:
    """Several processes of this machine, which end when this one does, whatever ends it."""
    # A fork has all modules loaded that a new process would take seconds to import.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, initializer=exit_with_parent, initargs=(os.getpid(),))
    # The processes start with the first task, and should before this process has threads.
    pool.submit(_attempt, _nothing, ()).result()

    def execute(tasks: Sequence[Task]) -> None:
        futures: list[Future[UserError | None]] = [pool.submit(_attempt, *task) for task in tasks]
        try:
            for future in as_completed(futures):
                if (error := future.result()) is not None:
                    raise error
        except BrokenProcessPool:
            raise UserError(
                f"a worker process was killed, perhaps for want of memory; choose fewer --workers, and {_AGAIN}"
            ) from None

    try:
        yield execute
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def on_ray(address: str | None, workers: int | None) -> Iterator[Executor]:
    """A Ray cluster, whose machines share the folders of input and output; without an address, a local one.

    Raises:
        UserError: there is no Ray, or no cluster at the address.
    """
    os.environ.update({name: value for name, value in _RAY_SETTINGS.items() if name not in os.environ})
    try:
        import ray
    except ImportError:
        raise UserError("--ray: Ray is not installed; `pip install ray`, or use --workers") from None
    connect(address, "--ray ", {"num_cpus": workers, "include_dashboard": False})
    attempt = ray.remote(num_cpus=1)(_attempt)

    def execute(tasks: Sequence[Task]) -> None:
        pending = [attempt.remote(*task) for task in tasks]
        try:
            while pending:
                (ended,), pending = ray.wait(pending)
                if (error := ray.get(ended)) is not None:
                    raise error
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise UserError(f"--ray: a worker was lost ({type(error).__name__}); {_AGAIN}") from None
        finally:
            for task in pending:
                ray.cancel(task, force=True)

    try:
        yield execute
    finally:
        ray.shutdown()


def _nothing() -> None: ...


def _attempt(function: Callable[..., None], arguments: tuple[Any, ...]) -> UserError | None:
    """An error of the user is a result: raised elsewhere, it would come back wrapped in that place's traceback."""
    try:
        function(*arguments)
    except UserError as error:
        return UserError(str(error))
    return None
