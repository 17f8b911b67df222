"""The `pass2d` command: one line per sub-command; each has its file in `commands/`.

Nothing heavy is imported here before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cache.place import is_url
from commands.cache import cache_app
from commands.console import INTERRUPTED, TERMINATED
from commands.doctor import doctor_command
from commands.evaluate import eval_command
from commands.inspect import inspect_command
from commands.predict import predict_command
from commands.prepare import prepare_app
from commands.published import import_command
from commands.robust import robust_command
from commands.stats import stats_command
from commands.submit import submit_command
from commands.train import train_command
from commands.view import view_command

PACKAGES = ("cache", "cli", "commands", "corruptions", "pass2d_models", "pipeline", "train")
"""Ours: what cannot be imported of these is a bug, of others a broken installation."""


class _Pass2D(TyperGroup):
    """Lists the commands in the order of their use; refuses URLs where only a path will do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [word for arg in args for word in (arg.split("=", 1) if arg[:2] == "--" else [arg])]
        for option, value in pairwise(words):
            if is_url(value) and option in LOCAL_ONLY:
                typer.echo(
                    f"error: {option} {value}: expected a path on a local disk "
                    "(of all files only a cache may be at a URL).",
                    err=True,
                )
                raise typer.Exit(1)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


ORDER = (
    *("prepare", "stats", "inspect", "train", "eval", "predict", "view", "submit", "robust"),
    *("import", "cache", "doctor"),
)

LOCAL_ONLY = (
    *("--root", "--out", "--html", "--png", "--save", "--pictures", "--predictions"),
    *("--checkpoint", "--verify", "--description"),
)
"""Options whose value is a path and never a URL."""

app = typer.Typer(
    name="pass2d",
    cls=_Pass2D,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"pass2d {version('pass2d')}")
        except PackageNotFoundError:
            typer.echo("pass2d, not installed: a checkout")
        raise typer.Exit


@app.callback()
def pass2d(
    version: Annotated[  # its callback does the work
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """LiDAR semantic segmentation: prepare once, then train, evaluate and predict."""


app.add_typer(prepare_app, name="prepare")
app.command("stats")(stats_command)
app.command("inspect")(inspect_command)
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("predict")(predict_command)
app.command("robust")(robust_command)
app.command("submit")(submit_command)
app.command("view")(view_command)
app.command("import")(import_command)
app.add_typer(cache_app, name="cache")
app.command("doctor")(doctor_command)


def main() -> None:
    """Entry point of the `pass2d` script."""
    _open_closed_outputs()
    _show_any_text()
    # Torch's threads spin while they wait: on busy cores a step took several times the CPU.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app(prog_name="pass2d")
    except ImportError as error:
        if (error.name or "").split(".")[0] in PACKAGES:
            raise
        sys.exit(f"error: a package cannot be imported: {error}. `pass2d doctor` says what to do")
    except SystemExit as end:
        if isinstance(end.code, int) and _has_threads_in_the_way(end.code):
            _leave_at_once(end.code)
        raise


def _open_closed_outputs() -> None:
    """Give Python streams to write to where the shell closed them (`2>&-`)."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8"))


def _show_any_text() -> None:
    """Print names that are no Unicode, and any character where the locale lacks it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _has_threads_in_the_way(code: int) -> bool:
    """Whether destroying the interpreter could abort the process, or take a minute.

    After Ctrl-C threads may still wait for a store that does not answer, and those of Ray crash;
    gloo's when they let go of a last tensor just then (github.com/pytorch/pytorch/pull/179291);
    Rerun's wait for a file that cannot be written.
    """
    is_one_of_many = os.environ.get("WORLD_SIZE", "1") != "1"
    return (
        code in (INTERRUPTED, TERMINATED)
        or (code != 0 and "rerun" in sys.modules)
        or ("torch" in sys.modules and is_one_of_many)
    )


def _leave_at_once(code: int) -> None:
    """End without destroying the interpreter."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
