"""`pass2d import`: checkpoints of the published code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pass2d.commands.console import clear_errors, plain, print_json
from pass2d.commands.options import JsonOption


def import_command(
    checkpoint: Annotated[
        Path, typer.Argument(help="A published .ckpt or .pt file.", resolve_path=True)
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.", resolve_path=True)],
    as_json: JsonOption = False,
) -> None:
    """Convert a published checkpoint to pass2d's format. No code in the file is executed."""
    from pass2d.pipeline.datasets.registry import DATASETS
    from pass2d.train.checkpoints.published.importer import import_checkpoint

    with clear_errors():
        report = import_checkpoint(checkpoint, out, datasets=DATASETS.infos())
        if as_json:
            print_json({key: plain(value) for key, value in asdict(report).items()})
            return
        settings = ", ".join(f"{key} {value}" for key, value in report.settings.items())
        typer.echo(
            f"{report.out}: {report.architecture} ({settings}) for {report.dataset}, "
            f"{report.n_classes} classes, {report.n_parameters:,} parameters for inference\n"
            f"{report.n_tensors} tensors converted, {len(report.set_aside)} set aside"
            f"{': ' if report.set_aside else ''}{', '.join(report.set_aside)}\n"
            f"{report.card}: the card as JSON"
        )
