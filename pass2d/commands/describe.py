"""`pass2d describe`: a description of a folder, proposed."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from pass2d.commands.console import Console, clear_errors, print_json, print_line
from pass2d.commands.options import JsonOption
from pass2d.common.errors import DataError


def describe_command(
    folder: Annotated[Path, typer.Argument(help="Folder of scans, in any layout.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File for the description. By default it is printed."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Propose a description of a folder of scans, for `prepare folder`."""
    from pass2d.common.files import written_whole
    from pass2d.pipeline.datasets.proposal.propose import propose

    console = Console()
    with clear_errors(console):
        if out is not None and (out.exists() or out.is_symlink()):
            raise DataError(f"{out}: already exists. Move it away, or choose another name.")
        proposal = propose(folder)
        if out is not None:
            with written_whole(out, "the description") as aside:
                aside.write_text(proposal.text, encoding="utf-8")
        if as_json:
            print_json(
                {
                    "description": proposal.text,
                    "found": proposal.found,
                    "guessed": proposal.guessed,
                    "unknown": proposal.unknown,
                }
            )
            return
        for kind in ("found", "guessed", "unknown"):
            for note in getattr(proposal, kind):
                # A description on standard output may be piped: notes go to standard error.
                (console.say if out is None else print_line)(f"{kind}: {note}")
        if out is None:
            typer.echo(proposal.text, nl=False)
            return
        print_line(
            f"{out}: check the lines marked ?, then: pass2d prepare folder --describe "
            f"{quote(str(out))} --root {quote(str(folder))} --check"
        )
