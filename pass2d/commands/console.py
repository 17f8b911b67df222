"""The output of the `pass2d` command: progress, tables, JSON, one-line errors.

Results go to standard output, messages and progress to standard error, so that `--json` can be
piped.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pass2d.commands.signals import SIGNALS, Signals
from pass2d.commands.wording import in_options, typed_messages
from pass2d.common.errors import ConfigError, Pass2DError, ReportedByOtherProcessError
from pass2d.common.progress import format_bytes, format_seconds
from pass2d.common.text import one_line, printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

PLAIN_SECONDS = (5.0, 60.0)
"""On a pipe, shortest time between progress lines: at first, and in a phase of many minutes."""


def _to_stderr(line: str) -> None:
    typer.echo(line, err=True)


class Console:
    """Shows progress: a moving bar on a terminal, plain lines on a pipe.

    Args:
        clock: monotonic seconds.
        write: writes a line to standard error.
        signals: receives Ctrl-C and SIGTERM.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] = _to_stderr,
        signals: Signals = SIGNALS,
    ) -> None:
        self._clock, self._line, self.signals = clock, write, signals
        self._is_terminal = sys.stderr.isatty()
        self._bars: RichBars | None = None
        self._task: TaskID | None = None
        self._title, self._unit, self._total = "", "", 0
        self._done, self._nbytes = 0, 0
        self._started = self._last_line = self._clock()

    def start(self, title: str, *, total: int, unit: str) -> None:
        """Begin a phase and close the last one. ``total`` 0: the number is unknown."""
        self.signals.raise_swallowed()
        self.close()
        self._title, self._unit, self._total, self._done, self._nbytes = title, unit, total, 0, 0
        self._started = self._last_line = self._clock()
        if self._is_terminal:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[news]}", markup=False),
            )
            self._bars = Progress(
                *columns, console=RichConsole(stderr=True, emoji=False), transient=True
            )
            self._bars.start()
            self._task = self._bars.add_task(title, total=total or None, news="")

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        """Count work that is done."""
        self.signals.raise_swallowed()
        self._done += count
        self._nbytes += nbytes
        now = self._clock()
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self._done, news=self._news())
        elif now - self._last_line >= self._pause(now) or self._done == self._total:
            self._last_line = now
            self._line(f"{self._title}: {self._news()}")

    def _pause(self, now: float) -> float:
        """Seconds between two lines: a log of hours stays short."""
        shortest, longest = PLAIN_SECONDS
        return min(longest, max(shortest, 0.1 * (now - self._started)))

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        text = one_line(in_options(text))
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._line(text)

    def close(self) -> None:
        """Remove the bar and leave its last state as a line."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._task = None
            self._line(f"{self._title}: {self._news()}")

    def _news(self) -> str:
        seconds = max(self._clock() - self._started, 1e-9)
        rate = self._done / seconds
        of_all = f"/{self._total}" if self._total else ""
        parts = [f"{self._done}{of_all} {self._unit}", f"{rate:.1f} {self._unit}/s"]
        if self._nbytes:
            parts.append(format_bytes(self._nbytes))
        if 0 < self._done < self._total:
            parts.append(f"ETA {format_seconds((self._total - self._done) / rate)}")
        return ", ".join(parts)


REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EACCES: "check the permissions or choose another folder",
    errno.EPERM: "check the permissions or choose another folder",
    errno.EROFS: "choose a folder on a writable disk",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a folder is expected there",
    errno.EISDIR: "a file is expected there",
    errno.EIO: "the disk reported an error: check it",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EEXIST: "something with that name already exists",
    errno.EFBIG: "a limit (ulimit -f) or the file system allows no file of that size",
    errno.ENOMEM: "free some memory",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "the links form a loop: check the path",
}
"""What to do about an error of the operating system, if anything special is."""
MEMORY_HINT = (
    "Reduce the amount of work at a time (train: a smaller batch_size with accumulate; predict: "
    "--batch-size; fewer processes or workers), or use a machine with more memory."
)
GPU_HINT = (
    "Run `pass2d doctor` to test it, and see the driver's log (dmesg: Xid). Training continues "
    "with --resume."
)


def _deciding(console: Console | None) -> AbstractContextManager[None]:
    if console is None:
        return SIGNALS.deciding()
    return console.signals.deciding(before=console.close)


@contextmanager
def clear_errors(console: Console | None = None, *, is_silent: bool = False) -> Iterator[None]:
    """Turn errors that a user can fix into one line and exit code 1; a signal into its exit code.

    Silent if another process reports the same error.

    Raises:
        typer.Exit: after the error has been printed.
    """
    try:
        with _deciding(console):
            yield
    except ReportedByOtherProcessError as error:
        raise typer.Exit(error.code) from error
    except Pass2DError as error:
        _stop(console, "" if is_silent else f"error: {error}", 1, error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno not in REMEDIES and not (error.errno and error.filename):
            raise
        _stop(console, f"error: {_os_fault(error)}", 1, error)
    except (MemoryError, RuntimeError) as error:
        # pathlib raises its own RuntimeError for a loop of links, up to Python 3.12.
        if isinstance(loop := error.__context__, OSError) and loop.errno == errno.ELOOP:
            _stop(console, f"error: {_os_fault(loop)}", 1, error)
        if _is_gpu_fault(error):
            fault = str(error).splitlines()[0]
            _stop(console, f"error: the GPU failed: {fault}. {GPU_HINT}", 1, error)
        if not _is_out_of_memory(error):
            raise
        found = str(error).rpartition("DefaultCPUAllocator: ")[2].partition(". ")[0]
        found = found or "nothing is left"
        _stop(console, f"error: out of memory: {found}. {MEMORY_HINT}", 1, error)
    finally:
        if console is not None:
            console.close()


@contextmanager
def ended_by() -> Iterator[None]:
    """End the program with the exit code that a command requests outside of its framework.

    Raises:
        SystemExit: with that code.
    """
    try:
        yield
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from end


def _os_fault(error: OSError) -> str:
    """What the operating system refused, and what to do about it."""
    remedy = REMEDIES.get(error.errno or 0, "check this path and its disk")
    if error.filename:
        return f"{error.filename}: {error.strerror}: {remedy}"
    if error.errno == errno.ENOENT and not _has_folder():
        return _NO_FOLDER
    return f"{error.strerror}: {remedy}"


_NO_FOLDER = "the current folder: No such file or directory: it is gone, change to another one"


def require_current_folder() -> None:
    """End a command where the current folder was deleted: MKL, of torch, would end the process.

    Raises:
        typer.Exit: after the error has been printed.
    """
    if not _has_folder():
        typer.echo(f"error: {_NO_FOLDER}", err=True)
        raise typer.Exit(1)


def _has_folder() -> bool:
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def _is_gpu_fault(error: Exception) -> bool:
    """Torch's exception, without importing torch for the check."""
    return any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__)


def _is_out_of_memory(error: Exception) -> bool:
    """Out of memory in Python, on a GPU, or in torch on a CPU; checked without importing them."""
    is_named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or is_named or "DefaultCPUAllocator" in str(error)


def _stop(console: Console | None, text: str, code: int, cause: BaseException) -> None:
    if console is not None:
        console.close()
    if text:
        typer.echo(one_line(in_options(text)), err=True)
    raise typer.Exit(code) from cause


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document; numbers that JSON lacks (NaN) are an error."""
    typer.echo(json.dumps(typed_messages(document), indent=2, allow_nan=False))


def print_rich(*renderables: object) -> None:
    """Print tables: as wide as the terminal, 120 columns on a pipe.

    Contents of files are plain text: no markup, no terminal control sequences.
    """
    from rich.console import Console as RichConsole
    from rich.segment import Segment, Segments
    from rich.text import Text

    screen = RichConsole(
        width=None if sys.stdout.isatty() else 120, markup=False, emoji=False, highlight=False
    )
    for renderable in renderables:
        shown = renderable
        if isinstance(renderable, Text):
            shown = Text(in_options(renderable.plain), renderable.style)
        parts = (
            part if part.control else Segment(printable(part.text), part.style)
            for part in screen.render(shown)  # type: ignore[arg-type]  # anything rich shows
        )
        screen.print(Segments(parts), end="")


def print_line(text: str) -> None:
    """Print one line of a result, which may contain text from files."""
    typer.echo(one_line(in_options(text)))


def words(text: str | None) -> tuple[str, ...] | None:
    """'00, 08' -> ('00', '08'); None stays None.

    Raises:
        ConfigError: there is no name.
    """
    if text is None:
        return None
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise ConfigError(f"{text!r}: expected a comma-separated list with at least one name")
    return words


def plain(value: object) -> object:
    """A field of a result as JSON can hold it."""
    return str(value) if isinstance(value, Path) else value
