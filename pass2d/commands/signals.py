"""Ctrl-C and SIGTERM in every command: the first ends it in order, the second at once.

Libraries may swallow a KeyboardInterrupt, or turn it into an error of their own. So the signal is
recorded here, and it alone decides the last line and the exit code. A thread listens too, and ends
the process if the main thread is stuck in a library and runs no handler.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pass2d.common.errors import TerminatedError

EXIT_CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit codes of a command that a signal ended."""
_SAID = "interrupted: finished work is kept"
_ECHO_S = 0.3
"""A second signal within this time is an echo: torchrun forwards what a terminal sends too."""
_ENDING_S = 30.0
"""Time that a command has to end in order."""
_TICK_S = 0.5


class Signals:
    """Which signal arrived, and how far the command has ended.

    Args:
        leave: ends the process with an exit code, at once.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        leave: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leave, self._clock = leave, clock
        self._first: signal.Signals | None = None
        self._first_s = 0.0
        self._is_ending = False
        self._has_said = False
        self._is_over = False

    @property
    def exit_code(self) -> int:
        """Exit code of the signal that arrived; 0 if none did."""
        return 0 if self._first is None else EXIT_CODES[self._first]

    def catch(self) -> None:
        """Install the handlers; signals that are ignored (e.g. by nohup) stay ignored."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in EXIT_CODES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.receive)
        name = "pass2d-signals"
        threading.Thread(target=self._listen, args=(reading,), name=name, daemon=True).start()

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: it is the first.
            TerminatedError: likewise, for SIGTERM.
        """
        came = signal.Signals(number)
        if self._is_over:
            self._first = self._first or came
            self._end_at_once()
        elif self._first is None:
            self._first, self._first_s = came, self._clock()
            raise KeyboardInterrupt if came == signal.SIGINT else TerminatedError
        elif self._clock() - self._first_s > _ECHO_S:
            self._end_at_once()

    def raise_swallowed(self) -> None:
        """Raise a swallowed signal again; called regularly during work.

        Raises:
            KeyboardInterrupt: a signal arrived, and the command has not ended.
        """
        is_main = threading.current_thread() is threading.main_thread()
        if self._first is not None and not self._is_ending and is_main:
            raise KeyboardInterrupt if self._first == signal.SIGINT else TerminatedError

    @contextmanager
    def deciding(self, before: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Treat any exception from the block after a signal as the interrupt.

        Args:
            before: called before that is said.

        Raises:
            SystemExit: with the signal's code.
        """
        try:
            yield
        except BaseException as error:
            code = self.exit_code
            if not code and isinstance(error, KeyboardInterrupt):
                is_terminated = isinstance(error, TerminatedError)
                code = EXIT_CODES[signal.SIGTERM if is_terminated else signal.SIGINT]
            if not code:
                raise
            self._is_ending = True
            before()
            self._say(sys.stderr.write)
            raise SystemExit(code) from error

    def _say(self, write: Callable[[str], object]) -> None:
        """Report the interrupt once; of several processes on a machine, only the first does."""
        is_main = os.environ.get("LOCAL_RANK", "0") == "0"
        if is_main and not self._has_said:
            self._has_said = self._first is not None
            with suppress(OSError, ValueError):
                write(_SAID + "\n")

    def over(self) -> None:
        """The command has ended: nothing is left that a signal could interrupt in order."""
        self._is_over = True

    def _end_at_once(self) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
        self._say(lambda line: os.write(2, line.encode()))  # others may hold the lock of sys.stderr
        self._leave(self.exit_code)

    def _listen(self, descriptor: int) -> None:
        """The thread: receives signals at once, whatever the main thread does."""
        heard_s: float | None = None
        number = signal.SIGTERM
        timeout: float | None = None
        while True:
            ready, _, _ = select.select([descriptor], [], [], timeout)
            timeout = _TICK_S
            now = self._clock()
            numbers = [n for n in os.read(descriptor, 64) if self._is_ours(n)] if ready else []
            if numbers and heard_s is None:
                heard_s, number = now, signal.Signals(numbers[0])
            elif numbers and heard_s is not None and now - heard_s > _ECHO_S:
                break
            since = self._first_s if self._first is not None else heard_s
            if since is not None and now - since > _ENDING_S:
                break
        self._first = self._first or number
        self._end_at_once()

    def _is_ours(self, number: int) -> bool:
        """Whether no other handler, such as a training run's, takes this signal at present."""
        return number in EXIT_CODES and signal.getsignal(number) == self.receive


SIGNALS = Signals()
"""Of this process."""
