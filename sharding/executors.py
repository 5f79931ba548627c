"""Executors that run tasks in this process, in a pool of processes, or on a Ray cluster."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

from ldarnet.errors import UserError
from ldarnet.io.process import exit_with_parent, worker_errors
from ldarnet.ray_cluster import connect

Task = tuple[Callable[..., None], tuple[Any, ...]]
"""A module-level function and its arguments; both must be picklable."""

_RERUN = "run the same command again to resume"
_RAY_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Executor(Protocol):
    """Runs tasks, in any order."""

    def __call__(self, tasks: Sequence[Task]) -> None:
        """Run all tasks and wait until they are done.

        Raises:
            UserError: a task failed or a worker was lost; the remaining tasks are cancelled.
        """
        ...


@contextmanager
def in_process() -> Iterator[Executor]:
    """Run tasks one after the other in this process."""

    def execute(tasks: Sequence[Task]) -> None:
        for function, arguments in tasks:
            function(*arguments)

    yield execute


@contextmanager
def in_processes(workers: int) -> Iterator[Executor]:
    """Run tasks in a pool of worker processes. The workers exit when this process exits, even if it is killed."""
    pool = process_pool(workers, exit_with_parent, os.getpid())

    def execute(tasks: Sequence[Task]) -> None:
        futures: list[Future[UserError | None]] = [pool.submit(_attempt, *task) for task in tasks]
        try:
            for future in as_completed(futures):
                if (error := future.result()) is not None:
                    raise error
        except BrokenProcessPool:
            raise UserError(
                f"a worker process was killed, possibly by the out-of-memory killer; use fewer --workers and {_RERUN}"
            ) from None

    try:
        yield execute
    finally:
        pool.shutdown(cancel_futures=True)


def process_pool(workers: int, initializer: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """Fork worker processes. Forked processes share memory-mapped files and do not import the modules again.

    Args:
        workers: number of processes.
        initializer: called in each process.
        arguments: arguments of ``initializer``.

    Raises:
        UserError: /dev/shm is full, or a limit on processes is exceeded.
    """
    with worker_errors("--workers"):
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer, arguments)
        # The pool forks on its first task. Submit one now, before this process starts threads.
        pool.submit(_nothing).result()
    return pool


@contextmanager
def on_ray(address: str | None, workers: int | None) -> Iterator[Executor]:
    """Run tasks on a Ray cluster whose machines share the input and output folders.

    Args:
        address: address of the cluster; None starts a local cluster.
        workers: number of CPUs of a local cluster; None uses all.

    Raises:
        UserError: Ray is not installed, or no cluster answers at the address.
    """
    os.environ.update({name: value for name, value in _RAY_SETTINGS.items() if name not in os.environ})
    try:
        import ray
    except ImportError:
        raise UserError("--ray: Ray is not installed; run `pip install ray`, or use --workers instead") from None
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
            raise UserError(f"--ray: a worker was lost ({type(error).__name__}); {_RERUN}") from None
        finally:
            for task in pending:
                ray.cancel(task, force=True)

    try:
        yield execute
    finally:
        ray.shutdown()


def _nothing() -> None: ...


def _attempt(function: Callable[..., None], arguments: tuple[Any, ...]) -> UserError | None:
    """Run a task. Return its UserError instead of raising it: a raised error would be wrapped in a remote traceback."""
    try:
        function(*arguments)
    except UserError as error:
        return UserError(str(error))
    return None
