"""`pass2d predict`: labels for raw point files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.console import Console, clear_errors, print_json
from commands.options import (
    CheckpointOption,
    DeviceOption,
    JsonOption,
    OutsideOption,
    VotesOption,
    outside_rule,
)


def predict_command(
    inputs: Annotated[
        Path,
        typer.Argument(
            help="A file of points (.bin, .npy, .pcd, .ply, .las, .laz), or a folder of them.",
            resolve_path=True,
        ),
    ],
    checkpoint: CheckpointOption,
    out: Annotated[
        Path, typer.Option(help="Folder for the .label files.", resolve_path=True)
    ] = Path("predictions"),
    png: Annotated[
        bool, typer.Option("--png", help="Draw each scan from above and as a range image.")
    ] = False,
    votes: VotesOption = "1",
    outside: OutsideOption = "nearest",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing results.")
    ] = False,
    columns: Annotated[
        int | None,
        typer.Option(help="float32 numbers per point of .bin files; found out if left out."),
    ] = None,
    columns_map: Annotated[
        str | None,
        typer.Option("--map", help="Columns by name or place: x=X,y=Y,z=Z,signal=intensity."),
    ] = None,
    unit: Annotated[
        str, typer.Option(help="Of the coordinates: m, cm, mm, ft, or metres per unit.")
    ] = "m",
    signal_scale: Annotated[float, typer.Option(help="Factor on the signal.")] = 1.0,
    z_offset: Annotated[
        float, typer.Option(help="Metres added to z, after the rotation: minus a sensor's height.")
    ] = 0.0,
    rotate: Annotated[
        str | None,
        typer.Option(help="yaw,pitch,roll in degrees or quaternion w,x,y,z; y up: 0,0,90."),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Label raw point files with a checkpoint alone; raw ids for every point."""
    from train.points.mapping import InputMapping, parse_columns, parse_rotation, parse_unit
    from train.predict import predict
    from train.team import choose_device
    from train.tta import parse_votes

    console = Console()
    with clear_errors(console):
        summary = predict(
            inputs,
            checkpoint,
            out,
            votes=parse_votes(votes),
            outside=outside_rule(outside),
            png=png,
            overwrite=overwrite,
            columns=columns,
            mapping=InputMapping(
                columns=parse_columns(columns_map),
                unit_m=parse_unit(unit),
                signal_scale=signal_scale,
                z_offset=z_offset,
                rotation=parse_rotation(rotate),
            ),
            device=choose_device(device),
            progress=console,
        )
        console.close()
        if as_json:
            print_json(
                {
                    "out": str(summary.out),
                    "scans": summary.scans,
                    "points": summary.points,
                    "class_points": dict(
                        zip(summary.names, summary.class_points.tolist(), strict=True)
                    ),
                    "seconds": summary.seconds,
                    "scans_per_s": summary.scans_per_s,
                    "failed": [
                        {"file": str(failed.points), "reason": failed.reason}
                        for failed in summary.failed
                    ],
                    "notes": list(summary.notes),
                }
            )
        else:
            typer.echo(
                f"{summary.out}: {summary.scans} scans, {summary.points:,} points labelled, "
                f"{summary.scans_per_s:.1f} scans/s"
            )
        if summary.failed:
            raise typer.Exit(1)
