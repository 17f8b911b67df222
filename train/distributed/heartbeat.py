"""Heartbeats between the processes of a run, so that losing one ends them all.

A collective operation waits for every process. If one is killed, fails or loses its machine, the
others would wait for half an hour. So a thread in each process sends a heartbeat every second and
checks that of the next process; the first to fail leaves a note that ends the others. Only one of
them reports the error.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from torch.distributed import Store  # type: ignore[attr-defined]  # not in its __all__

from pass2d.common.errors import Pass2DError, ReportedByOtherProcessError
from pass2d.train.distributed.launch import LOST_CODE, RESUME_HINT, is_launched

_TICK_S = 1.0
_GRACE_S = 3.0
"""How long a process may take to end by itself once another has failed."""
_LINGER_S = 5.0
"""How long the process that hosts the store stays so that the others can read the note."""
_FAILED, _BEAT, _LEFT = "pass2d/failed", "pass2d/beat/", "pass2d/left/"


class LostProcessError(Pass2DError):
    """Another process of the group is gone."""


class Heartbeat:
    """The thread that sends this process's heartbeat and watches the next one's.

    Args:
        store: A connection of its own: no operation on it ever waits.
        rank: Of this process.
        world: Processes.
        hosts_store: Whether the store ends with this process.
        lost_after_s: Seconds without a heartbeat after which a process counts as lost.
        say: Receives the reason why the processes end, at most once in all of them together.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        world: int,
        hosts_store: bool,
        lost_after_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._hosts_store, self._say = hosts_store, say
        self._patience = max(2, round(lost_after_s / _TICK_S))
        self._told = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pass2d-heartbeat", daemon=True)
        store.set(_BEAT + str(rank), "0")

    def start(self) -> None:
        """Start; all processes must have created their `Heartbeat` before."""
        self._thread.start()

    def close(self) -> None:
        """End the watch: every process is past its work, or this one has failed."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def farewell(self, error: BaseException) -> BaseException:
        """The exception to raise for an error that ends this process.

        Returns:
            The error itself if this process reports it to the user; else one that is silent.
        """
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        if isinstance(error, LostProcessError):
            if is_launched():
                return ReportedByOtherProcessError(LOST_CODE)  # the launcher sees who died
            self._until(lambda: self._store.check([_FAILED]), _GRACE_S)
        self._told = self._claim()
        self._leave()
        return error if self._told else ReportedByOtherProcessError(code)

    def linger(self) -> None:
        """Stay until all others have read this one's note, if the store ends with this process."""
        if self._hosts_store and self._told:
            left = [_LEFT + str(rank) for rank in range(self._world) if rank != self._rank]
            self._until(lambda: self._store.check(left), _LINGER_S)

    def _watch(self) -> None:
        """The thread: ticks, not a clock, count the silence, as all may be suspended together."""
        following = (self._rank + 1) % self._world
        beat, seen, silent = 0, b"", 0
        while not self._closed.wait(_TICK_S):
            beat += 1
            try:
                self._store.set(_BEAT + str(self._rank), str(beat))
                has_failed = self._store.check([_FAILED])
                is_there = self._store.check([_BEAT + str(following)])
                now = self._store.get(_BEAT + str(following)) if is_there else str(beat).encode()
            except RuntimeError:
                if not self._closed.wait(_GRACE_S):
                    self._end("the process that connects all others is gone")
                return
            silent = silent + 1 if now == seen else 0
            seen = now
            if has_failed:
                self._leave()
                if not self._closed.wait(_GRACE_S):
                    self._end("")
                return
            if silent >= self._patience:
                self._end(
                    f"process {following} of {self._world} has sent no heartbeat for "
                    f"{silent * _TICK_S:.0f} s: it hangs or its machine is down"
                )
                return

    def _end(self, reason: str) -> None:
        """End this process from its thread: the main thread may be stuck inside a library."""
        self._told = bool(reason) and self._claim()
        self._leave()
        if self._told and not is_launched():
            self._say(f"error: {reason}. All processes end. {RESUME_HINT}")
        sys.stderr.flush()
        self.linger()
        os._exit(LOST_CODE if is_launched() else 1)

    def _claim(self) -> bool:
        """Whether this process is the first to fail, and so the one that reports the error."""
        try:
            return self._store.compare_set(_FAILED, "", str(self._rank)) == str(self._rank).encode()
        except RuntimeError:
            return int(os.environ.get("LOCAL_RANK", "0")) == 0  # one per machine, then

    def _leave(self) -> None:
        try:
            self._store.set(_LEFT + str(self._rank), "")
        except RuntimeError:
            return

    @staticmethod
    def _until(condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and not condition():
                time.sleep(0.05)
        except RuntimeError:
            return
