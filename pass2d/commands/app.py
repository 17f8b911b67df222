"""The `pass2d` command: one line per sub-command; each has its file in `pass2d/commands/`.

Nothing heavy is imported here before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import getdoc
from itertools import pairwise
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from pass2d.cache.urls import is_url
from pass2d.commands.cache import cache_app
from pass2d.commands.console import require_current_folder
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

COMMANDS: dict[str, typer.Typer | Callable[..., None]] = {
    "describe": describe_command,
    "prepare": prepare_app,
    "stats": stats_command,
    "inspect": inspect_command,
    "train": train_command,
    "eval": eval_command,
    "predict": predict_command,
    "view": view_command,
    "submit": submit_command,
    "robust": robust_command,
    "import": import_command,
    "export": export_command,
    "cache": cache_app,
    "doctor": doctor_command,
}
"""Word -> a function, or an app of several; in the order of their use."""


class _Pass2D(TyperGroup):
    """Builds the options of the command that is used; refuses URLs where a path is needed.

    After a signal, it alone decides how the command ends, whatever libraries make of it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, command in COMMANDS.items():
            text = command.info.help if isinstance(command, typer.Typer) else getdoc(command)
            self.add_command(TyperCommand(name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            if "--help" not in args:
                require_current_folder()
            command = _with_options(name)
        return name, command, rest

    def make_context(self, *args: Any, **options: Any) -> Any:
        with SIGNALS.deciding():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        try:
            with SIGNALS.deciding():
                return super().invoke(ctx)
        except typer.BadParameter as error:
            # A missing permission is not wrong usage of the command.
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


def _with_options(name: str) -> Any:
    """A command with its options, which are slow to build: for all commands as slow as typer."""
    app, command = typer.Typer(), COMMANDS[name]
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)
    return typer.main.get_group(app).commands[name]


_UNREADABLE = re.compile(r"'(.*)' is not readable\.$", re.DOTALL)

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
