"""`pass2d eval`: the numbers of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.console import Console, clear_errors, print_json, print_rich, words
from commands.options import (
    CheckpointOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    OutsideOption,
    ReadCacheOption,
    VotesOption,
    outside_rule,
)


def eval_command(
    cache_root: ReadCacheOption,
    checkpoint: CheckpointOption,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    sequences: Annotated[str | None, typer.Option(help="Only these, e.g. 08.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many scans.", min=1)] = None,
    votes: VotesOption = "1",
    outside: OutsideOption = "nearest",
    device: DeviceOption = "auto",
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a self-contained page.", resolve_path=True)
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder for PNGs of the worst and best scan.", resolve_path=True),
    ] = None,
) -> None:
    """Evaluate a checkpoint: IoU per class, mIoU and accuracy by both protocols."""
    from train.eval_pictures import write_pictures
    from train.eval_report import report_json, report_tables, write_html
    from train.evaluate import evaluate
    from train.team import choose_device
    from train.tta import parse_votes

    console = Console()
    with clear_errors(console):
        plan, chosen_device = parse_votes(votes), choose_device(device)
        report = evaluate(
            checkpoint,
            cache_root,
            split=split,
            dataset=dataset,
            sequences=words(sequences),
            limit=limit,
            votes=plan,
            outside=outside_rule(outside),
            device=chosen_device,
            progress=console,
        )
        if html is not None:
            write_html(report, html)
            console.say(f"report: {html}")
        if pictures is not None:
            written = write_pictures(
                report, cache_root, pictures, dataset=dataset, votes=plan, device=chosen_device
            )
            console.say(f"pictures: {len(written)} in {pictures}")
        console.close()
        if as_json:
            print_json(report_json(report))
        else:
            print_rich(*report_tables(report))
