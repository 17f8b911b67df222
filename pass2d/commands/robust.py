"""`pass2d robust`: a checkpoint on corruption sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pass2d.commands.console import Console, clear_errors, print_json, print_rich, words
from pass2d.commands.newest import chosen_network
from pass2d.commands.options import (
    DEFAULT_CACHE,
    CheckpointOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
    OutsideOption,
    VotesOption,
    any_place,
    local_place,
    outside_rule,
)
from pass2d.common.errors import ConfigError


def robust_command(
    checkpoint: CheckpointOption = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="SemanticKITTI-C (Yan et al., or Robo3D) or nuScenes-C as downloaded.",
            resolve_path=True,
        ),
    ] = None,
    cache_root: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            help="Cache with the data sets of `prepare --corrupt` (pass2d-C) beside the clean one; "
            "./cache if left out, and --root is, too.",
            parser=local_place,
            metavar="PATH",
        ),
    ] = None,
    clean: Annotated[
        str | None,
        typer.Option(
            "--clean",
            help="Prepared cache of the clean data set: the score without corruption for mRR, and "
            "labels that the set does not repeat.",
            parser=any_place,
            metavar="PATH|URL",
        ),
    ] = None,
    corruptions: Annotated[
        str | None, typer.Option(help="Only these, e.g. fog,snow; all if left out.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of summary.csv and of what is counted.", resolve_path=True)
    ] = Path("robust"),
    split: Annotated[
        str | None, typer.Option(help="With --cache: whose labelled scans; val if left out.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many scans of each, spread evenly.", min=1)
    ] = None,
    votes: VotesOption = "1",
    outside: OutsideOption = "nearest",
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a checkpoint on a corruption set: mIoU per corruption, mCE and mRR."""
    console = Console()
    with clear_errors(console):
        from pass2d.reports.robustness import report_json, report_tables, write_summary
        from pass2d.train.distributed.process_group import choose_device
        from pass2d.train.inference.votes import parse_votes
        from pass2d.train.robustness.cached import robust_cache
        from pass2d.train.robustness.published_sets import robust_folders

        if root is not None and cache_root is not None:
            raise ConfigError(
                "robust: give --root FOLDER (a published set) or --cache CACHE (pass2d-C), one of "
                "the two."
            )
        common: dict[str, Any] = {
            "dataset": dataset,
            "corruptions": words(corruptions),
            "limit": limit,
            "votes": parse_votes(votes),
            "outside": outside_rule(outside),
            "device": choose_device(device),
            "progress": console,
        }
        if root is None:
            if clean is not None:
                raise ConfigError("--clean belongs to --root: the cache has its clean data set.")
            network = chosen_network(checkpoint, console)
            place = cache_root or local_place(DEFAULT_CACHE)
            report = robust_cache(network, place, out, split=split or "val", **common)
        else:
            if split is not None:
                raise ConfigError("--split belongs to --cache: the published sets are of val.")
            network = chosen_network(checkpoint, console)
            report = robust_folders(network, root, out, clean=clean, **common)
        path = write_summary(report, out)
        console.say(f"summary: {path}")
        console.close()
        if as_json:
            print_json(report_json(report))
        else:
            print_rich(*report_tables(report))
        if report.failed:
            raise typer.Exit(1)
