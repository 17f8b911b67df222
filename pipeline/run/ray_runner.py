"""Tasks in Ray workers: one CPU each, retried when a worker dies, no data through Ray.

Whatever happens to Ray, `prepare` does not hang: it waits for the driver (`ray_driver.py`) for a
limited time, and does the rest in this process if its own Ray is lost.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from pass2d.common.errors import CacheError
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.pipeline.run.ray_driver import (
    Alive,
    Done,
    Imported,
    Lost,
    NumberedTask,
    Order,
    Started,
    Stop,
)
from pass2d.pipeline.run.ray_processes import DRIVER, RayProcesses, ray_folder
from pass2d.pipeline.run.runners import InlineRunner, TaskFailure
from pass2d.pipeline.run.tasks import ContainerTask, TaskContext, TaskResult

_CONNECT_SECONDS = 10.0
_IMPORT_S = 180.0
"""A first import from a cold network disk takes a minute."""
START_S = 90.0
_SILENT_S = 60.0
"""A driver that runs says something every few seconds."""
_LEAVE_S = 10.0
"""So long it may take to cancel tasks on a cluster that is not ours."""
_SETTINGS = b"\x04"
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)
"""Ray speaks gRPC, whose first frame either way is HTTP/2's SETTINGS, type 4 (RFC 9113, 3.4)."""


class RayLostError(Exception):
    """Ray did not start, or it is gone; the message says why."""


class RaySession:
    """A Ray that this run is connected to.

    Args:
        config: workers, or the address of a cluster.

    Raises:
        CacheError: there is no connection.
    """

    def __init__(
        self, config: PrepareConfig, *, driver: str = DRIVER, start_s: float = START_S
    ) -> None:
        self.config = config
        self.is_ours = config.ray_address is None
        self.log: Path | None = None
        """What a Ray of ours said last, once it is lost."""
        self.is_told = False
        """Whether the loss has been reported to the user."""
        self._patience_s, self._start_s = _IMPORT_S, start_s
        self._is_closing = False
        self._lost = ""
        self._ended = threading.Event()
        self._heard: queue.SimpleQueue[object] = queue.SimpleQueue()
        folder = ray_folder()
        self._processes = RayProcesses(folder, driver=driver, is_ours=self.is_ours)
        threading.Thread(target=self._listen, name="pass2d-ray", daemon=True).start()
        try:
            self.send(Order(config=config, folder=str(folder)))
            self.cpus = self._started().cpus
        except BaseException as error:  # Ctrl-C while it starts, too
            self.close()
            if isinstance(error, RayLostError):
                raise no_connection(config, str(error), self.log) from error
            raise

    def send(self, message: object) -> None:
        """Tell the driver.

        Raises:
            RayLostError: it is gone.
        """
        try:
            self._processes.channel.send(message)
        except OSError as error:
            self._ended.wait()  # it may have given a reason
            raise RayLostError(self._lost) from error

    def next_message(self) -> object:
        """Wait for the driver's next word.

        Raises:
            RayLostError: there will be none; nothing of a Ray of ours is left.
        """
        message = self._heard.get()
        while isinstance(message, Alive):
            message = self._heard.get()
        if isinstance(message, Lost):
            self._heard.put(message)  # for whoever asks again
            raise RayLostError(message.reason)
        return message

    def close(self) -> None:
        """Leave Ray; one of ours ends."""
        self._is_closing = True
        if not self.is_ours and not self._ended.is_set():
            with contextlib.suppress(RayLostError):
                self.send(Stop())
                self._ended.wait(_LEAVE_S)
        self._processes.end()

    def _started(self) -> Started:
        while not isinstance(message := self.next_message(), Started):
            pass
        return message

    def _listen(self) -> None:
        """A thread: takes the driver's words until it ends, gives up or keeps silent too long."""
        try:
            while not self._lost:
                if not self._processes.channel.poll(self._patience_s):
                    self._lost = f"no heartbeat for {self._patience_s:.0f} s"
                    break
                message = self._processes.channel.recv()
                if isinstance(message, Lost):
                    self._lost = message.reason
                    break
                if isinstance(message, Imported | Started):
                    self._patience_s = _SILENT_S if isinstance(message, Started) else self._start_s
                self._heard.put(message)
        except (EOFError, OSError):
            self._lost = "its driver has ended"
        if self.is_ours and not self._is_closing:
            self.log = self._processes.keep_log()
        self._processes.end()
        self._processes.channel.close()
        self._heard.put(Lost(reason=self._lost))
        self._ended.set()


def no_connection(config: PrepareConfig, reason: str, log: Path | None = None) -> CacheError:
    """The error of a Ray that does not start, or of a cluster that does not answer."""
    if config.ray_address is None:
        where = "" if log is None else f" Ray's own words: {log}"
        return CacheError(f"Ray does not start ({reason}). Use `workers=0` to work without.{where}")
    token = ""
    if "RAY_AUTH_MODE" not in os.environ:
        token = "; RAY_AUTH_MODE=token if it asks for a token, as by `ray start`"
    return CacheError(
        f"cannot connect to {config.ray_address} ({reason}). Check `ray_address`{token}; or use "
        "`workers=0` to run without Ray."
    )


class RayRunner:
    """Sends tasks to Ray, and runs them in this process where a Ray of ours is lost.

    Args:
        session: of `connected`.
        context: of all tasks.
        say: is told that Ray is lost.
    """

    def __init__(
        self, session: RaySession, context: TaskContext, *, say: Callable[[str], None]
    ) -> None:
        config = session.config
        self.window = 2 * session.cpus
        if config.ray_address is not None and config.workers is not None:
            self.window = config.workers
        self._session, self._say = session, say
        self._flying: dict[int, ContainerTask] = {}
        self._count = 0
        self._inline = InlineRunner(context, max_retries=config.max_retries)
        self._is_inline = False
        self._send(context)

    def submit(self, task: ContainerTask) -> None:
        """Start a task."""
        self._count += 1
        self._flying[self._count] = task
        if self._is_inline:
            self._inline.submit(task)
        else:
            self._send(NumberedTask(number=self._count, task=task))

    def next_done(self) -> TaskResult | TaskFailure:
        """Wait for any task to end.

        Raises:
            CacheError: of the task; or a cluster that is not ours is lost.
        """
        if not self._is_inline:
            try:
                message = self._session.next_message()
            except RayLostError as error:
                self._go_on_inline(error)
            else:
                assert isinstance(message, Done)
                return self._outcome(message)
        return self._inline.next_done()

    def _outcome(self, done: Done) -> TaskResult | TaskFailure:
        task = self._flying.pop(done.number)
        if isinstance(done.outcome, CacheError):
            raise done.outcome
        if isinstance(done.outcome, BaseException):
            return TaskFailure(task=task, error=done.outcome)
        return done.outcome

    def _send(self, message: object) -> None:
        try:
            self._session.send(message)
        except RayLostError as error:
            self._go_on_inline(error)

    def _go_on_inline(self, error: RayLostError) -> None:
        """Tasks that were cut off left nothing that is visible: they run again.

        Raises:
            CacheError: it is a cluster that is not ours: its workers may still be at work.
        """
        log = "" if self._session.log is None else f" Ray's own words: {self._session.log}"
        if not self._session.is_ours:
            raise CacheError(
                f"{self._session.config.ray_address}: the connection was lost ({error}). Run "
                f"again, it continues from here.{log}"
            ) from error
        if not self._session.is_told:
            self._session.is_told = True
            self._say(
                f"Ray is lost ({error}): the rest is done without it, as by `workers=0`.{log}"
            )
        self._is_inline = True
        self.window = 1
        for task in self._flying.values():
            self._inline.submit(task)


_session: ContextVar[RaySession | None] = ContextVar("_session", default=None)


@contextlib.contextmanager
def connected(
    config: PrepareConfig, *, driver: str = DRIVER, start_s: float = START_S
) -> Iterator[RaySession]:
    """Connect to Ray: the given cluster, or a new local one; within another such block, its Ray.

    A process that is connected to a Ray already has its tasks done there.

    Args:
        config: of the run.
        driver: the program in Python that runs Ray.
        start_s: seconds of silence after which a Ray that starts counts as lost.

    Raises:
        CacheError: there is no connection.
    """
    outer = _session.get()
    if outer is not None:
        yield outer
        return
    if config.ray_address is not None:
        try:
            _require_answer(config.ray_address)
        except (OSError, ValueError) as error:
            raise no_connection(config, str(error)) from error
    elif (address := _own_address()) is not None:
        config = replace(config, ray_address=address, workers=None)
    session = RaySession(config, driver=driver, start_s=start_s)
    token = _session.set(session)
    try:
        yield session
    finally:
        _session.reset(token)
        session.close()


def _own_address() -> str | None:
    """Of the Ray that this process is connected to."""
    if "ray" not in sys.modules:
        return None
    import ray

    return ray.get_runtime_context().gcs_address if ray.is_initialized() else None


def _require_answer(address: str) -> None:
    """Ray itself tries for minutes before it reports that nothing, or not Ray, listens."""
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
            raise ValueError("what listens there is not Ray")
