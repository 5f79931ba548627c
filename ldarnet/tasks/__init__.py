"""Classification tasks: registry, readers, downloads, train/test leakage and metrics."""

from ldarnet.tasks.dataset import Examples, TaskData, open_task
from ldarnet.tasks.leakage import LeakFree, find_leak_free
from ldarnet.tasks.registry import Task, all_tasks, find_task

__all__ = ["Examples", "LeakFree", "Task", "TaskData", "all_tasks", "find_leak_free", "find_task", "open_task"]
