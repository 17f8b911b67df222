"""The process that is connected to Ray: takes tasks from the run and reports their results.

When parts of Ray are lost, Ray ends its driver's process, or hangs in it. So the driver is a
separate process; the run waits for its messages for a limited time, and then continues without it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass2d.common.errors import CacheError
from pass2d.common.processes import usable_cores
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.pipeline.run.ray_guard import children, end_with_parent, is_running
from pass2d.pipeline.run.tasks import ContainerTask, TaskContext, TaskResult, run_task
from pass2d.pipeline.source import ScanSource

if TYPE_CHECKING:
    from ray import ObjectRef

ALIVE_S = 5.0
"""The driver says so often at least that it lives and that Ray answers."""
_PARTS = ("gcs_server", "raylet")
"""Processes of a local Ray without which no task ever ends."""
_WATCH_S = 0.5
_SETTLE_S = 3.0
"""A lost worker may be the first sign that all of Ray is lost."""
_PROBE_S = 60.0
_WORKER_BYTES = 400 << 20
_OBJECT_STORE_BYTES = 80 << 20
"""Results are a few hundred bytes and travel inline; Ray asks for 75 MB at least."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the driver is to do first: connect."""

    config: PrepareConfig
    folder: str
    """For the files of a local Ray."""


@dataclass(frozen=True, kw_only=True)
class NumberedTask:
    """A task and how the driver is to name it."""

    number: int
    task: ContainerTask


class Stop:
    """The run wants no more: cancel what is in flight and leave the cluster."""


class Imported:
    """Ray's package is loaded."""


class Alive:
    """The driver waits for tasks, and Ray answers."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """Ray takes tasks."""

    cpus: int
    """Of all nodes."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Ray did not start, or it is gone."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """A task has ended."""

    number: int
    outcome: TaskResult | BaseException


class _Driver:
    """Talks to the run on one side and to Ray on the other."""

    def __init__(self, channel: Connection, order: Order) -> None:
        self._channel, self._order = channel, order
        self._is_ours = order.config.ray_address is None
        self._writing = threading.Lock()
        self._flying: dict[int, ObjectRef[Any]] = {}
        self._context: Any = None
        self._memory_limit = 0

    def run(self) -> None:
        """Connect, then serve until the run stops."""
        try:
            import ray  # noqa: F401  # seconds; then the run's patience with Ray's start begins

            self._tell(Imported())
            self._connect()
        except Exception as error:  # noqa: BLE001  # Ray's are of any class
            self._tell(Lost(reason=_line(error)))
            return
        self._serve()

    def watch(self) -> None:
        """A thread: end at once where a part of the local Ray has ended; Ray would wait for it."""
        seen: dict[int, str] = {}
        while True:
            time.sleep(_WATCH_S)
            started = children(os.getpid())
            seen |= {pid: name for pid, name in started.items() if name in _PARTS}
            for pid, name in seen.items():
                if not is_running(pid):
                    self._tell(Lost(reason=f"its process {name} has ended"))
                    os._exit(1)

    def _connect(self) -> None:
        import ray

        common: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": False,
        }
        config = self._order.config
        if config.ray_address is not None:
            ray.init(address=config.ray_address, **common)
        else:
            has_shm = os.access("/dev/shm", os.W_OK)
            ray.init(
                address="local",  # else Ray joins the cluster that RAY_ADDRESS names
                num_cpus=config.workers or usable_cores(),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=self._order.folder,
                _plasma_directory=None if has_shm else self._order.folder,
                **common,
            )
            probe: Any = ray.remote(_start_worker)
            ray.get(probe.remote(), timeout=_PROBE_S)
        alive = _alive_nodes()
        # A task that asks for more than any node has would wait for ever.
        self._memory_limit = int(0.9 * max(node.get("memory", 0.0) for node in alive))
        cpus = max(1, int(sum(node.get("CPU", 0) for node in alive)))
        self._tell(Started(cpus=cpus))

    def _serve(self) -> None:
        import ray

        while True:
            if not self._channel.poll(ALIVE_S):
                if not _alive_nodes():
                    self._tell(Lost(reason="none of its nodes is alive"))
                    return
                self._tell(Alive(), if_free=True)
                continue
            message = self._channel.recv()
            if isinstance(message, TaskContext):
                self._context = ray.put(message)
            elif isinstance(message, NumberedTask):
                self._submit(message)
            elif isinstance(message, Stop):
                for reference in tuple(self._flying.values()):
                    with contextlib.suppress(ray.exceptions.RayError):
                        ray.cancel(reference, force=True)
                ray.shutdown()
                return

    def _submit(self, numbered: NumberedTask) -> None:
        import ray

        config = self._order.config
        remote: Any = ray.remote(run_task).options(
            num_cpus=1,
            memory=min(peak_bytes(numbered.task), self._memory_limit),
            max_retries=config.max_retries,
            retry_exceptions=[OSError],
            scheduling_strategy="SPREAD",
        )
        reference = remote.remote(self._context, numbered.task)
        self._flying[numbered.number] = reference
        reference.future().add_done_callback(lambda future: self._done(numbered.number, future))

    def _done(self, number: int, future: Future[Any]) -> None:
        """Ray's thread: tell how a task ended."""
        from ray.exceptions import RayError, RayTaskError

        self._flying.pop(number, None)
        error = future.exception()
        if error is None:
            self._tell(Done(number=number, outcome=future.result()))
            return
        if isinstance(error, CacheError):
            # Ray's copy of a task's error carries the worker's traceback as its text.
            error = CacheError(str(getattr(error, "cause", error)))
        elif isinstance(error, RayTaskError):
            cause = getattr(error, "cause", None)
            error = cause if isinstance(cause, BaseException) else error
        elif isinstance(error, RayError):
            time.sleep(_SETTLE_S if self._is_ours else 0)  # `watch` may end this process
            error = OSError(
                f"its worker was lost in each of {self._order.config.max_retries + 1} attempts "
                f"(killed, perhaps for lack of memory; Ray: {_line(error)[:120]}). Run again with "
                "fewer `workers`."
            )
        self._tell(Done(number=number, outcome=_portable(error)))

    def _tell(self, message: object, *, if_free: bool = False) -> None:
        """Send to the run; ``if_free``: not if another thread is sending."""
        if not self._writing.acquire(blocking=not if_free):
            return
        try:
            self._channel.send(message)
        except OSError:
            os._exit(1)  # the run is gone
        finally:
            self._writing.release()


def _start_worker() -> int:
    """The first task: does any worker start, and does it find this code?"""
    return os.getpid()


def _alive_nodes() -> list[dict[str, float]]:
    """Resources of each node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _portable(error: BaseException) -> BaseException:
    """An error as another process can have it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # whatever the class of an error makes of it
        return RuntimeError(f"{type(error).__name__}: {_line(error)}")
    return error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def peak_bytes(task: ContainerTask) -> int:
    """Memory of a task: its shard's arrays, their padded copy and what is decoded from."""
    files = [path for scan in task.job.scans for path in _files(task, scan)]
    sizes = []
    for path in files:
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size)
    # Lidar: raw, kept and encoded points; camera: PNG holds about 60 % of the pixels' bytes.
    return _WORKER_BYTES + 3 * sum(sizes)


def _files(task: ContainerTask, scan: ScanSource) -> list[Path]:
    if task.container == "camera":
        return [path for path in scan.images if path is not None]
    return [scan.points]


def main() -> None:
    """Serve the run that holds the other end of the channel in ``sys.argv[1]``."""
    end_with_parent()
    channel = Connection(int(sys.argv[1]))
    os.set_inheritable(channel.fileno(), False)
    order: Order = channel.recv()
    driver = _Driver(channel, order)
    if order.config.ray_address is None:
        threading.Thread(target=driver.watch, daemon=True).start()
    driver.run()
    os._exit(0)  # Ray's own end may hang; the guard ends what is left
