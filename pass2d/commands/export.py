"""`pass2d export`: networks for other runtimes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from pass2d.commands.console import clear_errors, plain, print_json
from pass2d.commands.options import JsonOption


def export_command(
    checkpoint: Annotated[
        Path, typer.Argument(help="A .safetensors checkpoint.", resolve_path=True)
    ],
    onnx: Annotated[
        Path, typer.Option("--onnx", help="The .onnx file to write.", resolve_path=True)
    ],
    output: Annotated[
        str, typer.Option(help="What the graph returns per point: logits or probabilities.")
    ] = "logits",
    as_json: JsonOption = False,
) -> None:
    """Write a network as an ONNX file. Only for networks without sparse convolutions (VaViT)."""
    with clear_errors():
        from pass2d.train.exporting.export import export_onnx

        # What is no such word is refused there.
        word = cast(Literal["logits", "probabilities"], output)
        report = export_onnx(checkpoint, onnx, output=word)
        if as_json:
            print_json({key: plain(value) for key, value in asdict(report).items()})
            return
        typer.echo(
            f"{report.out}: {report.architecture}, {report.n_classes} classes, "
            f"{report.n_parameters:,} parameters, {report.nbytes / 1e6:.1f} MB, opset "
            f"{report.opset}; returns {report.output}, which differ from torch's by at most "
            f"{report.largest_difference:.1g}"
        )
