"""The `pass2d` command: one line per sub-command; each has its file in `pass2d/commands/`.

Nothing heavy is imported here before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pass2d.cache.urls import is_url
from pass2d.commands.cache import cache_app
from pass2d.commands.describe import describe_command
from pass2d.commands.doctor.command import doctor_command
from pass2d.commands.evaluate import eval_command
from pass2d.commands.export import export_command
from pass2d.commands.import_ import import_command
from pass2d.commands.inspect import inspect_command
from pass2d.commands.predict import predict_command
from pass2d.commands.prepare import prepare_app
from pass2d.commands.robust import robust_command
from pass2d.commands.signals import SIGNALS
from pass2d.commands.stats import stats_command
from pass2d.commands.submit import submit_command
from pass2d.commands.train import train_command
from pass2d.commands.view import view_command


class _Pass2D(TyperGroup):
    """Lists the commands in the order of their use; refuses URLs where only a path will do.

    From the first word on a signal decides how the command ends, not what libraries make of it.
    """

    def make_context(self, *args: Any, **options: Any) -> Any:
        with SIGNALS.deciding():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        try:
            with SIGNALS.deciding():
                return super().invoke(ctx)
        except typer.BadParameter as error:
            # What may not be read is no wrong use of the command.
            fault = _UNREADABLE.search(error.message)
            if fault is None:
                raise
            from pass2d.common.files import NO_PERMISSION

            typer.echo(f"error: {fault[1]}: {NO_PERMISSION}.", err=True)
            raise typer.Exit(1) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [word for arg in args for word in (arg.split("=", 1) if arg[:2] == "--" else [arg])]
        for option, value in pairwise(["", *words]):
            if not value:  # taken for a path, it would be the current folder
                what = option if option[:2] == "--" else f"the argument after {option or 'pass2d'}"
                typer.echo(
                    f"error: {what} is empty: give a value, or leave it out. Is a shell variable "
                    "unset?",
                    err=True,
                )
                raise typer.Exit(1)
            if is_url(value) and option in LOCAL_ONLY:
                typer.echo(
                    f"error: {option} {value}: expected a path on a local disk "
                    "(only a cache may be at a URL).",
                    err=True,
                )
                raise typer.Exit(1)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


_UNREADABLE = re.compile(r"'(.*)' is not readable\.$", re.DOTALL)

ORDER = (
    "describe",
    *("prepare", "stats", "inspect", "train", "eval", "predict", "view", "submit", "robust"),
    *("import", "export", "cache", "doctor"),
)

LOCAL_ONLY = (
    *("--root", "--out", "--html", "--png", "--save", "--pictures", "--predictions"),
    *("--checkpoint", "--onnx", "--verify", "--description"),
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


app.command("describe")(describe_command)
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
app.command("export")(export_command)
app.add_typer(cache_app, name="cache")
app.command("doctor")(doctor_command)
