"""Tasks in Ray workers: one CPU each, retried when a worker dies, no data through Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import CacheError
from pipeline.options import PrepareConfig
from pipeline.ray_processes import end_marked, marking, own_sigterm, uninterrupted
from pipeline.runners import TaskFailure
from pipeline.tasks import StageTask, TaskContext, TaskResult, run_task

if TYPE_CHECKING:
    from ray import ObjectRef

CODE_ROOT = Path(__file__).resolve().parents[1]
_WORKER_BYTES = 400 << 20
_CONNECT_SECONDS = 10.0
_SETTINGS = b"\x04"
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)
"""Ray speaks gRPC, whose first frame either way is HTTP/2's SETTINGS, type 4 (RFC 9113, 3.4)."""
_OBJECT_STORE_BYTES = 80 << 20
"""Results are a few hundred bytes and travel inline; Ray asks for 75 MB at least."""


class RayRunner:
    """Submits tasks to the Ray that this process is connected to."""

    def __init__(self, context: TaskContext, config: PrepareConfig) -> None:
        import ray

        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self.window = 2 * max(1, int(sum(node.get("CPU", 0) for node in alive)))
        if config.ray_address is not None and config.workers is not None:
            self.window = config.workers
        self._context = ray.put(context)
        self._task = ray.remote(run_task)
        self._max_retries = config.max_retries
        # A task that asks for more than any node has would wait for ever.
        self._memory_limit = int(0.9 * max(node.get("memory", 0.0) for node in alive))
        self._flying: dict[ObjectRef[Any], StageTask] = {}

    def submit(self, task: StageTask) -> None:
        """Start a task."""
        memory = min(peak_bytes(task), self._memory_limit)
        remote = self._task.options(
            num_cpus=1,
            memory=memory,
            max_retries=self._max_retries,
            retry_exceptions=[OSError],
            scheduling_strategy="SPREAD",
        )
        self._flying[remote.remote(self._context, task)] = task

    def next_done(self) -> TaskResult | TaskFailure:
        """Wait for any task to end.

        Raises:
            CacheError: of the task.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        done, _ = ray.wait(list(self._flying), num_returns=1)
        task = self._flying.pop(done[0])
        try:
            result: TaskResult = ray.get(done[0])
        except CacheError as error:
            raise CacheError(_own_message(error)) from error
        except RayTaskError as error:
            return TaskFailure(task=task, error=_cause(error))
        except RayError as error:
            return TaskFailure(task=task, error=self._lost(error))
        return result

    def _lost(self, error: Exception) -> OSError:
        """The worker died more often than it is tried again: out of memory, or a lost node."""
        kind = " ".join(str(error).split())[:120] or type(error).__name__
        return OSError(
            f"its worker was lost in each of {self._max_retries + 1} attempts (killed, perhaps for "
            f"lack of memory; Ray: {kind}). Run again with fewer --workers."
        )

    def cancel(self) -> None:
        """Stop what is in flight; attempts that are cut off are never visible."""
        import ray

        for reference in self._flying:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=True)


def _cause(error: Any) -> BaseException:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _own_message(error: CacheError) -> str:
    # Ray's copy of a task's error carries the worker's traceback as its text.
    return str(getattr(error, "cause", error))


def peak_bytes(task: StageTask) -> int:
    """Memory of a task: its shard's arrays, their padded copy and what is decoded from."""
    files = [path for scan in task.job.scans for path in _files(task, scan)]
    sizes = []
    for path in files:
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size)
    # Lidar: raw, kept and encoded points; camera: PNG holds about 60 % of the pixels' bytes.
    return _WORKER_BYTES + 3 * sum(sizes)


def _files(task: StageTask, scan: Any) -> list[Path]:
    if task.stage == "camera":
        return [path for path in scan.images if path is not None]
    return [scan.points]


@contextlib.contextmanager
def connected(config: PrepareConfig) -> Iterator[bool]:
    """Connect to Ray: the given cluster, the one this process has already, or a new local one.

    Yields whether it is a local one that ends with this context.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield False
        return
    # Its news (authentication mode, ports) would stand between our own lines.
    logging.getLogger("ray").setLevel(logging.ERROR)
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    with marking() as mark:
        try:
            with own_sigterm():
                _start(config, common)
        except (OSError, RuntimeError, ValueError) as error:
            _end(mark)
            raise _no_connection(config, error) from error
        except BaseException:  # Ctrl-C while it starts
            _end(mark)
            raise
    try:
        yield config.ray_address is None
    except ConnectionError as error:
        raise CacheError(
            f"{config.ray_address or 'the local Ray'}: the connection was lost ({_line(error)}). "
            "Run again, it goes on from here."
        ) from error
    finally:
        _end(mark)


def _no_connection(config: PrepareConfig, error: Exception) -> CacheError:
    token = ""
    if config.ray_address is not None and "RAY_AUTH_MODE" not in os.environ:
        token = "; RAY_AUTH_MODE=token if it asks for a token, as by `ray start`"
    return CacheError(
        f"cannot connect to {config.ray_address or 'a local Ray'} ({_line(error)}). Check "
        f"--ray-address{token}; or use --workers 0 to run without Ray."
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _start(config: PrepareConfig, common: dict[str, Any]) -> None:
    import ray

    # Workers search the driver's folder first: a data folder ./cache or a file ./train.py there
    # would hide our packages.
    with contextlib.chdir(CODE_ROOT):
        if config.ray_address is not None:
            _require_answer(config.ray_address)
            ray.init(address=config.ray_address, **common)
        else:
            ray.init(
                address="local",  # else Ray joins the cluster that RAY_ADDRESS names
                num_cpus=config.workers or len(os.sched_getaffinity(0)),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **common,
            )


def _end(mark: bytes) -> None:
    import ray

    with uninterrupted():
        ray.shutdown()
        end_marked(mark)


def _require_answer(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody, or somebody else, listens."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if ":" not in address:  # a word such as "auto", for which Ray looks on this machine
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("that is not host:port")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS) as line:
        if os.environ.get("RAY_USE_TLS") == "1":
            return
        line.sendall(_HTTP2_HELLO)
        if line.recv(9)[3:4] != _SETTINGS:
            raise ValueError("who listens there is not Ray")
