"""`pass2d prepare synth`: a synthetic world in the layout of a data set."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from pass2d.commands.console import Console, clear_errors, print_json, words
from pass2d.commands.options import JsonOption
from pass2d.common.processes import require_few, usable_cores
from pass2d.common.progress import format_bytes


def synth_command(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write to: new, empty, or of an interrupted run.", resolve_path=True
        ),
    ],
    preset: Annotated[
        str,
        typer.Option(
            help="full (as large as real scans), small or tiny; SemanticKITTI only: demo, or "
            "movers (half of the traffic is stationary)."
        ),
    ] = "full",
    layout: Annotated[
        str, typer.Option(help="semkitti, or nuscenes (32 beams, six cameras, tables).")
    ] = "semkitti",
    seed: Annotated[int, typer.Option(help="Random seed: the same seed gives the same bytes.")] = 0,
    scans: Annotated[
        int | None, typer.Option(help="Scans per sequence. Defaults to the preset's.")
    ] = None,
    sequences: Annotated[
        str | None,
        typer.Option(
            "--sequences",
            "--scenes",
            help="E.g. 00,01,08,11 or scene-0061,scene-0103. Defaults to the preset's.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes; 0 works in this process. Defaults to one per CPU."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Generate a ray-cast street world with labels in the layout of SemanticKITTI or nuScenes."""
    from pass2d.common.plain import require_known
    from pass2d.synth.layouts import LAYOUTS

    console = Console()
    with clear_errors(console):
        require_few(workers or 0, "workers")
        chosen = {"scans": scans, "workers": usable_cores() if workers is None else workers}
        changes: dict[str, Any] = {k: value for k, value in chosen.items() if value is not None}
        names = words(sequences)
        require_known(layout, tuple(LAYOUTS), where="--layout", what="layout")
        world = LAYOUTS[layout]
        changes |= {} if names is None else {world.parts: names}
        summary = world.generate(out, world.preset(preset, seed=seed, **changes), console)
    if as_json:
        print_json(
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
        f"next: pass2d prepare {layout} --root {shlex.quote(str(summary.out))} --cache cache/"
    )
