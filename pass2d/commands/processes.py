"""`--nproc`: the same command in several processes of this machine."""

from __future__ import annotations

import os

import typer

from pass2d.commands.console import Console, clear_errors
from pass2d.common.errors import ConfigError


def start_processes(context: typer.Context, nproc: int) -> None:
    """Run the command of a context in several processes, then exit as they did.

    Returns at once for a single process, and in the started processes.

    Raises:
        typer.Exit: when all have ended.
    """
    from pass2d.train.distributed.launch import is_launched, launch

    if nproc == 1 or is_launched():
        return
    console = Console()
    with clear_errors(console):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                f"--nproc {nproc}: torchrun has started {os.environ['WORLD_SIZE']} processes "
                "already. Use only one of --nproc and torchrun."
            )
        outcome = launch(command_line(context), nproc=nproc, say=console.say)
    if outcome.error:
        console.say(f"error: {outcome.error}")
    raise typer.Exit(outcome.code)


def command_line(context: typer.Context) -> list[str]:
    """The arguments that give a context, its command first; for commands of options alone."""
    words = [context.info_name or ""]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if value is None or value == option.get_default(context):
            continue
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [word for item in values for word in (option.opts[0], str(item))]
    return words
