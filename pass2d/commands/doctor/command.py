"""`pass2d doctor`: whether pass2d works on this machine, and how to fix what does not."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from pass2d.commands.console import Console, clear_errors, print_json, print_rich
from pass2d.commands.options import (
    DatasetOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
    path_or_url,
)
from pass2d.commands.wording import in_options
from pass2d.common.errors import ConfigError

if TYPE_CHECKING:
    from pass2d.commands.doctor.finding import Finding

STYLES = {"ok": "green", "warning": "yellow", "broken": "red"}


def doctor_command(
    context: typer.Context,
    location: Annotated[
        str | None,
        typer.Option(
            "--cache",
            help="Also check this cache (folder or URL) and measure its disk.",
            parser=path_or_url,
            metavar="PATH|URL",
        ),
    ] = None,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte of the cache instead of a sample.")
    ] = False,
    start_ray: Annotated[
        bool, typer.Option("--ray", help="Also start Ray with one worker, then stop it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check Python, torch, CUDA, spconv, Ray, disk and a cache. Exits with 1 if one is broken."""
    from pass2d.commands.doctor.examine import examine
    from pass2d.commands.doctor.process import ask

    console = Console()
    with clear_errors(console):
        if location is None and (full or dataset is not None):
            raise ConfigError("--full and --dataset apply to a cache: give it with --cache")
        found: list[Finding] = []
        try:
            for one in examine(
                location,
                dataset=dataset,
                full=full,
                start_ray=start_ray,
                progress=console,
                ask=context.obj or ask,  # whoever calls the command may bring the probes' answers
            ):
                told = replace(one, found=in_options(one.found), remedy=in_options(one.remedy))
                found.append(told)
        except KeyboardInterrupt:  # what is known is worth knowing
            console.close()
            if not as_json:
                _show(found)
            raise
        console.close()
        worst = [name for name in ("broken", "warning") if any(f.state == name for f in found)]
        if as_json:
            print_json({"state": [*worst, "ok"][0], "findings": [asdict(f) for f in found]})
        else:
            _show(found)
        if "broken" in worst:
            raise typer.Exit(1)


def _show(found: list[Finding]) -> None:
    counts = {state: sum(f.state == state for f in found) for state in STYLES}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # what is broken here may be what draws tables
        for finding in found:
            typer.echo(f"{finding.state}: {finding.name}: {finding.found}")
            typer.echo(f"  -> {finding.remedy}" if finding.remedy else "", nl=bool(finding.remedy))
        typer.echo(summary)
        return
    table = Table(show_lines=False)
    table.add_column("check")
    table.add_column("state")
    table.add_column("found; what to do", overflow="fold")
    for finding in found:
        text = Text(finding.found)
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", style="italic")
        table.add_row(Text(finding.name), Text(finding.state, style=STYLES[finding.state]), text)
    print_rich(table)
    typer.echo(summary)
