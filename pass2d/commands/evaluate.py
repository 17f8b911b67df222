"""`pass2d eval`: the scores of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pass2d.commands.console import Console, clear_errors, print_json, print_rich, words
from pass2d.commands.newest import chosen_network
from pass2d.commands.options import (
    DEFAULT_CACHE,
    BackendOption,
    CacheOption,
    CheckpointOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
    NprocOption,
    OutsideOption,
    VotesOption,
    outside_rule,
)
from pass2d.commands.processes import start_processes
from pass2d.common.progress import Silent


def eval_command(
    context: typer.Context,
    cache_root: CacheOption = DEFAULT_CACHE,
    checkpoint: CheckpointOption = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    sequences: Annotated[str | None, typer.Option(help="Only these sequences, e.g. 08.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Evaluate at most this many scans.", min=1)
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="For networks with moving classes: multi (classes with motion), single (without), "
            "mos (moving objects), or several, e.g. mos,single; the first is shown in detail. "
            "Defaults to all."
        ),
    ] = None,
    votes: VotesOption = "1",
    outside: OutsideOption = "nearest",
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    nproc: NprocOption = 1,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a self-contained HTML page.", resolve_path=True)
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures of the best and the worst scan.", resolve_path=True),
    ] = None,
) -> None:
    """Evaluate a checkpoint: IoU per class, mIoU and accuracy by both protocols."""
    start_processes(context, nproc)
    from pass2d.reports.report import report_json, report_tables, write_html
    from pass2d.train.checkpoints.trained import trained_network
    from pass2d.train.distributed.process_group import from_main, is_follower, joined_group
    from pass2d.train.evaluation.evaluate import evaluate
    from pass2d.train.evaluation.pictures import write_pictures
    from pass2d.train.inference.votes import parse_votes

    console = Console()
    with clear_errors(console, is_silent=is_follower()):
        plan, rule = parse_votes(votes), outside_rule(outside)
        _require_places(html, pictures)
    with clear_errors(console), joined_group(device, progress=console) as group:
        # Of the first one's choice: a run may end between two looks.
        path = from_main(chosen_network(checkpoint, console) if group.is_main else None, group)
        network = trained_network(path, group.device, backend=backend)
        report = evaluate(
            network,
            cache_root,
            split=split,
            dataset=dataset,
            sequences=words(sequences),
            limit=limit,
            tasks=words(task),
            votes=plan,
            outside=rule,
            group=group,
            progress=console if group.is_main else Silent(),
        )
        if not group.is_main:
            return
        try:
            if html is not None:
                write_html(report, html)
                console.say(f"report: {html}")
            if pictures is not None:
                written = write_pictures(
                    report, cache_root, pictures, dataset=dataset, network=network, votes=plan
                )
                console.say(f"pictures: {len(written)} in {pictures}")
        finally:  # hours of work are not lost with a full disk
            console.close()
            if as_json:
                print_json(report_json(report))
            else:
                print_rich(*report_tables(report))


def _require_places(html: Path | None, pictures: Path | None) -> None:
    """Refuse, before the work and not after it, where no file can be written.

    Raises:
        ConfigError, DataError: Naming the place.
    """
    from pass2d.common.html import require_page

    require_page(html)
    if pictures is not None:
        from pass2d.common.files import make_folder

        make_folder(pictures, "pictures")
