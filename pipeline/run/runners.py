"""Where tasks run: in this process, or (ray_runner.py) in Ray workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pass2d.common.errors import CacheError
from pass2d.pipeline.run.tasks import ContainerTask, TaskContext, TaskResult, run_task


@dataclass(frozen=True, kw_only=True)
class TaskFailure:
    """A task that did not succeed after all attempts."""

    task: ContainerTask
    error: BaseException

    @property
    def reason(self) -> str:
        """One line."""
        text = " ".join(str(self.error).split()) or type(self.error).__name__
        return text if isinstance(self.error, OSError) else f"{type(self.error).__name__}: {text}"


class Runner(Protocol):
    """Runs tasks and returns results in the order in which they finish."""

    @property
    def window(self) -> int:
        """Maximum number of tasks in flight; the rest wait in the driver (back-pressure)."""

    def submit(self, task: ContainerTask) -> None:
        """Start a task."""

    def next_done(self) -> TaskResult | TaskFailure:
        """Wait for a task to end.

        Raises:
            CacheError: the cache cannot be written: there is no point in going on.
        """


RunTask = Callable[[TaskContext, ContainerTask], TaskResult]


class InlineRunner:
    """Runs tasks one after the other in this process: the same function, the same bytes."""

    window = 1

    def __init__(
        self, context: TaskContext, *, max_retries: int, run_task: RunTask = run_task
    ) -> None:
        self._context = context
        self._run_task = run_task
        self._max_retries = max_retries
        self._waiting: deque[ContainerTask] = deque()

    def submit(self, task: ContainerTask) -> None:
        """Queue a task; it runs in `next_done`."""
        self._waiting.append(task)

    def next_done(self) -> TaskResult | TaskFailure:
        """Run the next task, again after an OSError, as Ray does."""
        task = self._waiting.popleft()
        for _ in range(self._max_retries):
            try:
                return self._run_task(self._context, task)
            except OSError:
                continue  # the last attempt below tells
        try:
            return self._run_task(self._context, task)
        except CacheError:
            raise
        except OSError as error:
            return TaskFailure(task=task, error=error)
