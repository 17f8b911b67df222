"""`pass2d predict`: labels for raw point files."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pass2d.commands.console import Console, clear_errors, print_json, words
from pass2d.commands.newest import chosen_network
from pass2d.commands.options import (
    BackendOption,
    CheckpointOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    OutsideOption,
    VotesOption,
    outside_rule,
)
from pass2d.commands.wording import typed_messages
from pass2d.common.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from pass2d.train.prediction.predict import PredictSummary, ScanResult


def predict_command(
    inputs: Annotated[
        str,
        typer.Argument(
            help="Point file (.bin, .npy, .npz, .pcd, .ply, .las, .laz, .pkl, .txt, .csv, .xyz, "
            "also .gz), a folder of them, or - to read paths from standard input, one per line. "
            "Or a ROS recording: .mcap, .bag, .db3, or a ROS 2 folder.",
            metavar="FILE|FOLDER|-",
        ),
    ],
    checkpoint: CheckpointOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results. For a recording: the copy, or a folder for it.",
            resolve_path=True,
            show_default="predictions",
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(
            help="For a recording: the topic of PointCloud2 to label, if it has several. Its "
            "points get the fields class_id and rgb; everything else is copied unchanged."
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Comma-separated: label (uint32 raw ids), npy (the same), ply (coloured points), "
            "bin (uint8 training ids, as the nuScenes server expects).",
        ),
    ] = "label",
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Also write NAME_confidence.npy, float32 in 0..1. For a recording: a field.",
        ),
    ] = False,
    png: Annotated[
        bool, typer.Option("--png", help="Also draw each scan from above and as a range image.")
    ] = False,
    votes: VotesOption = "1",
    outside: OutsideOption = "nearest",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Overwrite existing results. By default, results made from the same input with "
            "the same settings are kept; any other existing file is an error.",
        ),
    ] = False,
    columns: Annotated[
        int | None,
        typer.Option(help="Numbers per point in .bin files. Detected by default."),
    ] = None,
    dtype: DtypeOption = None,
    columns_map: Annotated[
        str | None,
        typer.Option("--map", help="Columns by name or index, e.g. x=X,y=Y,z=Z,signal=intensity."),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="Unit of the coordinates: m, cm, mm, ft, or metres per unit. Defaults to m. "
            "Without --map, --unit and the next four options, files are read as in the "
            "description of the training data, if it has one."
        ),
    ] = None,
    signal_scale: Annotated[
        float | None, typer.Option(help="Factor applied to the signal.")
    ] = None,
    z_offset: Annotated[
        float | None,
        typer.Option(help="Metres added to z after the rotation, e.g. minus the sensor's height."),
    ] = None,
    rotate: Annotated[
        str | None,
        typer.Option(
            help="Rotation: yaw,pitch,roll in degrees, or a quaternion w,x,y,z. For y up: 0,0,90."
        ),
    ] = None,
    recenter: Annotated[
        bool,
        typer.Option(
            "--recenter", help="Move the centre of each scan to x = y = 0 and its ground to z = 0."
        ),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Scans per pass through the network. Chosen for the device by default."),
    ] = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Label raw point files or a ROS recording: a raw id for every point, from a checkpoint.

    pass2d predict drive.mcap --topic /points --out labelled.mcap
    """
    console = Console()
    with clear_errors(console):
        from pass2d.commands.folder_poses import folder_poses
        from pass2d.commands.predict_bag import bag_target, print_bag, refuse_options
        from pass2d.points.bags.bag import is_bag
        from pass2d.points.mapping import (
            InputMapping,
            parse_columns,
            parse_rotation,
            parse_unit,
        )
        from pass2d.train.inference.votes import parse_votes
        from pass2d.train.prediction.bag import predict_bag
        from pass2d.train.prediction.predict import Outputs, Stream, predict

        is_stream = inputs == "-"
        source = Path(inputs).resolve()
        is_recording = not is_stream and is_bag(source)
        if topic is not None and not is_recording:
            raise ConfigError(f"--topic applies only to recordings (.mcap, .bag, .db3): {inputs}")
        given = (columns_map, unit, signal_scale, z_offset, rotate)
        is_mapped = recenter or any(option is not None for option in given)
        mapping = InputMapping(
            columns=parse_columns(columns_map),
            unit_m=parse_unit("m" if unit is None else unit),
            signal_scale=1.0 if signal_scale is None else signal_scale,
            z_offset=z_offset or 0.0,
            rotation=parse_rotation(rotate),
            recenter=recenter,
        )

        def tell(result: ScanResult) -> None:
            if as_json:
                typer.echo(json.dumps({"kind": "scan", **_scan_json(result)}))
            else:
                typer.echo(str(result.files[0]))
            sys.stdout.flush()

        default = Path("predictions").resolve()
        if is_recording:
            refuse_options(
                format=formats != "label",
                png=png,
                columns=columns is not None,
                dtype=dtype is not None,
            )
            target = bag_target(source, out, default)
            network = chosen_network(checkpoint, console)
            done = predict_bag(
                source,
                network,
                target,
                topic=topic,
                votes=parse_votes(votes),
                outside=outside_rule(outside),
                confidence=confidence,
                overwrite=overwrite,
                mapping=mapping if is_mapped else None,
                batch_size=batch_size,
                device=_checked_device(device, network),
                backend=backend,
                progress=console,
            )
            console.close()
            print_bag(done, as_json=as_json)
            return
        network = chosen_network(checkpoint, console)
        summary = predict(
            Stream() if is_stream else source,
            network,
            out or default,
            votes=parse_votes(votes),
            outside=outside_rule(outside),
            outputs=Outputs(formats=words(formats) or (), confidence=confidence, png=png),
            overwrite=overwrite,
            columns=columns,
            dtype=dtype,
            mapping=mapping if is_mapped else None,
            batch_size=batch_size,
            device=_checked_device(device, network),
            backend=backend,
            poses=folder_poses,
            progress=console,
            on_result=tell if is_stream else None,
        )
        console.close()
        if as_json and is_stream:
            summary_line = typed_messages({"kind": "summary", **_summary_json(summary)})
            typer.echo(json.dumps(summary_line))
        elif as_json:
            print_json(_summary_json(summary))
        else:
            typer.echo(_summary_line(summary), err=is_stream)
        if summary.failed:
            raise typer.Exit(1)


def _checked_device(device: str, network: Path) -> torch.device | str:
    """The device, before any file is looked at; an exported network needs no torch to know it."""
    from pass2d.train.checkpoints.onnx_file import is_onnx

    if is_onnx(network):
        return device
    from pass2d.train.distributed.process_group import choose_device

    return choose_device(device)


def _summary_line(summary: PredictSummary) -> str:
    kept = f", {summary.kept} kept" if summary.kept else ""
    failed = f", {len(summary.failed)} FAILED" if summary.failed else ""
    return (
        f"{summary.out}: {summary.scans} scans, {summary.points:,} points labelled, "
        f"{summary.scans_per_s:.1f} scans/s{kept}{failed}"
    )


def _scan_json(result: ScanResult) -> dict[str, Any]:
    return {
        "input": str(result.points),
        "files": [str(file) for file in result.files],
        "points": result.n,
        "kept": result.n is None,
    }


def _summary_json(summary: PredictSummary) -> dict[str, Any]:
    return {
        "out": str(summary.out),
        "scans": summary.scans,
        "kept": summary.kept,
        "points": summary.points,
        "class_points": dict(zip(summary.names, summary.class_points.tolist(), strict=True)),
        "seconds": summary.seconds,
        "scans_per_s": summary.scans_per_s,
        "failed": [{"file": str(one.points), "reason": one.reason} for one in summary.failed],
        "notes": list(summary.notes),
        "warnings": [asdict(one) for one in summary.warnings],
    }
