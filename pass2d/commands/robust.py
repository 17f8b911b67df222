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
    DtypeOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
    OutsideOption,
    VotesOption,
    local_folder,
    outside_rule,
    path_or_url,
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
            help="Cache with the clean data set and those of `prepare --corrupt` (pass2d-C). "
            "Defaults to ./cache unless --root is given.",
            parser=local_folder,
            metavar="PATH",
        ),
    ] = None,
    clean: Annotated[
        str | None,
        typer.Option(
            "--clean",
            help="With --root: prepared cache of the clean data set. Gives the clean score for "
            "mRR, and labels that the corrupted set lacks.",
            parser=path_or_url,
            metavar="PATH|URL",
        ),
    ] = None,
    corruptions: Annotated[
        str | None, typer.Option(help="Only these corruptions, e.g. fog,snow. Defaults to all.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for summary.csv and intermediate counts.", resolve_path=True),
    ] = Path("robust"),
    split: Annotated[
        str | None, typer.Option(help="With --cache: which split. Defaults to val.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Use at most this many scans per corruption, evenly spaced.", min=1),
    ] = None,
    columns: Annotated[
        int | None,
        typer.Option(
            help="With --root: numbers per point in .bin files. Detected by default.", min=3
        ),
    ] = None,
    dtype: DtypeOption = None,
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
        from pass2d.reports.report import report_json, report_tables
        from pass2d.reports.robustness import require_own_summary, write_summary
        from pass2d.train.distributed.process_group import choose_device
        from pass2d.train.inference.votes import parse_votes
        from pass2d.train.robustness.cached import robust_cache
        from pass2d.train.robustness.published_sets import robust_folders

        if root is not None and cache_root is not None:
            raise ConfigError(
                "--root and --cache: give only one, --root FOLDER (a published set) or --cache "
                "CACHE (pass2d-C)."
            )
        require_own_summary(out)
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
                raise ConfigError(
                    "--clean applies only with --root: a cache holds its own clean data set."
                )
            if columns is not None or dtype is not None:
                raise ConfigError("--columns and --dtype apply only with --root (.bin files).")
            network = chosen_network(checkpoint, console)
            location = cache_root or local_folder(DEFAULT_CACHE)
            report = robust_cache(network, location, out, split=split or "val", **common)
        else:
            if split is not None:
                raise ConfigError(
                    "--split applies only with --cache: the published sets contain only val."
                )
            network = chosen_network(checkpoint, console)
            report = robust_folders(
                network, root, out, clean=clean, columns=columns, dtype=dtype, **common
            )
        path = write_summary(report, out)
        console.say(f"summary: {path}")
        console.close()
        if as_json:
            print_json(report_json(report))
        else:
            print_rich(*report_tables(report))
        if report.failed:
            raise typer.Exit(1)
