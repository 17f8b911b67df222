"""The `pass2d` command: read options, call one function, print, set the exit code.

Nothing heavy is imported here before a command needs it: `--help` answers at once. Results go to
standard output, news and progress to standard error, so that `--json` can be piped.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.errors import ConfigError, DataError, Pass2DError

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

app = typer.Typer(
    name="pass2d",
    help="LiDAR semantic segmentation: prepare once, then train, evaluate and predict.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
prepare_app = typer.Typer(no_args_is_help=True, help="Turn a raw data set into a cache.")
app.add_typer(prepare_app, name="prepare")

PLAIN_SECONDS = 5.0
"""On a pipe, a line about progress at most this often."""


class Console:
    """Shows progress: a moving bar on a terminal, plain lines on a pipe."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._bars: RichBars | None = None
        self._task: TaskID | None = None
        self._title, self._unit, self._total = "", "", 0
        self._done, self._nbytes = 0, 0
        self._started = self._last_line = time.monotonic()

    def start(self, title: str, *, total: int, unit: str) -> None:
        """Begin a phase; the last one is closed."""
        self.close()
        self._title, self._unit, self._total, self._done, self._nbytes = title, unit, total, 0, 0
        self._started = self._last_line = time.monotonic()
        if self._is_terminal:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[news]}"),
            )
            self._bars = Progress(*columns, console=RichConsole(stderr=True), transient=True)
            self._bars.start()
            self._task = self._bars.add_task(title, total=total, news="")

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        """Count work that is done."""
        self._done += count
        self._nbytes += nbytes
        now = time.monotonic()
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self._done, news=self._news())
        elif now - self._last_line >= PLAIN_SECONDS or self._done == self._total:
            self._last_line = now
            self._line(f"{self._title}: {self._news()}")

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._line(text)

    def close(self) -> None:
        """Take the bar away and leave its last state as a line."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._task = None
            self._line(f"{self._title}: {self._news()}")

    def _news(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = self._done / seconds
        parts = [f"{self._done}/{self._total} {self._unit}", f"{rate:.1f} {self._unit}/s"]
        if self._nbytes:
            parts.append(format_bytes(self._nbytes))
        if 0 < self._done < self._total:
            parts.append(f"ETA {format_seconds((self._total - self._done) / rate)}")
        return ", ".join(parts)

    def _line(self, text: str) -> None:
        typer.echo(text, err=True)


def format_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """3725 -> '1:02:05'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


MENDABLE = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EACCES: "check the permissions or choose another folder",
    errno.EPERM: "check the permissions or choose another folder",
    errno.EROFS: "choose a folder on a writable disk",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a folder is expected there",
    errno.EISDIR: "a file is expected there",
    errno.EIO: "the disk reports a fault: check it",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EEXIST: "something of that name is already there",
}
"""What to do about an error of the operating system; others are bugs and show their traceback."""


@contextmanager
def clear_errors(console: Console | None = None) -> Iterator[None]:
    """Turn what a user can mend into one line and exit code 1; Ctrl-C into exit code 130."""
    try:
        yield
    except Pass2DError as error:
        _stop(console, f"error: {error}", 1, error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _stop(console, f"error: {where}{error.strerror}: {MENDABLE[error.errno]}", 1, error)
    except KeyboardInterrupt as error:
        _stop(console, "interrupted: what was finished is kept", 130, error)
    finally:
        if console is not None:
            console.close()


def _stop(console: Console | None, text: str, code: int, cause: BaseException) -> None:
    if console is not None:
        console.close()
    typer.echo(" ".join(text.split("\n")), err=True)
    raise typer.Exit(code) from cause


def _print_json(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def _print_rich(*renderables: object) -> None:
    from rich.console import Console as RichConsole

    screen = RichConsole(width=None if sys.stdout.isatty() else 120)
    for renderable in renderables:
        screen.print(renderable)


def _words(text: str | None) -> tuple[str, ...] | None:
    """'00, 08' -> ('00', '08'); None stays None."""
    if text is None:
        return None
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise ConfigError(f"{text!r}: a comma-separated list with at least one name is expected")
    return words


CacheOption = Annotated[
    Path,
    typer.Option("--cache", help="Cache folder; holds one folder per data set.", resolve_path=True),
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Data set in the cache, if it holds several.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _default_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@prepare_app.command("synth")
def synth_command(
    out: Annotated[
        Path, typer.Option(help="New or empty folder, or one to go on with.", resolve_path=True)
    ],
    preset: Annotated[
        str, typer.Option(help="full (120k points, 1241x376), small or tiny.")
    ] = "full",
    seed: Annotated[int, typer.Option(help="Every street and noise value follows from it.")] = 0,
    scans: Annotated[
        int | None, typer.Option(help="Scans per sequence; preset's if left out.")
    ] = None,
    sequences: Annotated[
        str | None, typer.Option(help="E.g. 00,01,08,11; preset's if left out.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; 0 works inside this one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a ray-cast street world with labels, in SemanticKITTI's layout."""
    from pipeline.synth import config as synth_config
    from pipeline.synth.generate import generate

    console = Console()
    with clear_errors(console):
        chosen = {"scans": scans, "sequences": _words(sequences)}
        config = synth_config.preset(
            preset,
            seed=seed,
            workers=_default_workers() if workers is None else workers,
            **{key: value for key, value in chosen.items() if value is not None},
        )
        summary = generate(out, config, console)
    if as_json:
        _print_json(
            {
                "out": str(summary.out),
                "scans_written": summary.scans_written,
                "scans_kept": summary.scans_kept,
                "points": summary.points,
                "bytes": summary.nbytes,
            }
        )
        return
    typer.echo(
        f"{summary.out}: {summary.scans_written} scans written, {summary.scans_kept} kept, "
        f"{summary.points:,} points, {format_bytes(summary.nbytes)}\n"
        f"next: pass2d prepare semkitti --root {summary.out} --cache cache/"
    )


@app.command("stats")
def stats_command(
    cache_root: CacheOption,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with plots.", resolve_path=True)
    ] = None,
) -> None:
    """Count classes, points, ranges; show the class weights of training."""
    from cache.reader import CacheReader
    from cache.statistics import dataset_statistics
    from pipeline.report import report_json, report_tables
    from pipeline.report_html import write_html

    with clear_errors():
        reader = CacheReader.open(cache_root, dataset=dataset)
        statistics = dataset_statistics(reader.scans, reader.info)
        if html is not None:
            write_html(statistics, html)
            typer.echo(f"plots: {html}", err=True)
        if as_json:
            _print_json(report_json(statistics))
        else:
            _print_rich(*report_tables(statistics))


def main() -> None:
    """Entry point of the `pass2d` script."""
    app()


if __name__ == "__main__":
    main()
