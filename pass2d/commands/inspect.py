"""`pass2d inspect`: what a cache or a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from pass2d.cache.urls import is_url
from pass2d.commands.console import clear_errors, print_json, print_rich
from pass2d.commands.options import (
    DEFAULT_CACHE,
    DatasetOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
    path_or_url,
)
from pass2d.commands.wording import in_options
from pass2d.common.errors import CacheError, ConfigError


def inspect_command(
    argument: Annotated[
        str | None,
        typer.Argument(
            help="Cache folder or its URL, or a .safetensors checkpoint. Defaults to ./cache.",
            parser=path_or_url,
            metavar="CACHE|URL|CHECKPOINT",
        ),
    ] = None,
    option: Annotated[
        str | None,
        typer.Option(
            "--cache",
            help="The cache; the same as the argument.",
            parser=path_or_url,
            metavar="PATH|URL",
        ),
    ] = None,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    scan: Annotated[
        str | None, typer.Option(help="Show this scan in detail: 08/000123, or a nuScenes token.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a cache holds (splits, sequences, sizes, settings, scans) or a checkpoint card."""
    with clear_errors():
        if argument and option:
            raise ConfigError(
                "two locations given: name one cache or checkpoint, e.g. pass2d inspect cache/"
            )
        location = argument or option or path_or_url(DEFAULT_CACHE)
        if not is_url(location) and Path(location).is_file():
            if scan is not None or dataset is not None:
                raise ConfigError(
                    f"{location}: --scan and --dataset apply to caches, not to a checkpoint"
                )
            _show_checkpoint(Path(location), as_json=as_json)
            return
        if not _show_cache(location, dataset, scan, as_json=as_json):
            raise typer.Exit(1)


def _show_checkpoint(path: Path, *, as_json: bool) -> None:
    from pass2d.reports.card import card_json, card_tables

    if as_json:
        print_json(card_json(path))
    else:
        print_rich(*card_tables(path))


def _show_cache(location: str, dataset: str | None, scan: str | None, *, as_json: bool) -> bool:
    """Show the data sets; False when a chunk of the scan is damaged or a data set unreadable."""
    from pass2d.cache.inspection.scan import find_scan, scan_detail
    from pass2d.cache.inspection.summary import summarize_dataset
    from pass2d.cache.reader import CacheReader
    from pass2d.reports.inspect import scan_json, scan_tables, summary_json, summary_tables

    shown: list[dict[str, Any]] = []
    is_sound = True
    chosen = _datasets(location, dataset)
    if scan is not None and len(chosen) > 1:
        names = ", ".join(str(name) for name in chosen)
        raise ConfigError(f"{location}: holds {names}. Choose one with --dataset to use --scan.")
    for name in chosen:
        try:
            reader = CacheReader.open(location, dataset=name)
        except CacheError as error:
            if len(chosen) == 1:
                raise
            typer.echo(in_options(f"error: {error}"), err=True)
            is_sound = False
            continue
        with reader:
            summary = summarize_dataset(reader, location=location)
            detail = None if scan is None else scan_detail(reader, find_scan(reader, scan))
            is_sound = is_sound and (detail is None or detail.is_sound)
            document = summary_json(summary)
            if detail is not None:
                document["scan"] = scan_json(detail)
            shown.append(document)
            if not as_json:
                tables = summary_tables(summary) if detail is None else []
                tables += [] if detail is None else scan_tables(detail, reader.info.labels)
                print_rich(*tables)
    if as_json:
        print_json({"place": location, "kind": "cache", "datasets": shown})
    return is_sound


def _datasets(location: str, dataset: str | None) -> list[str | None]:
    """Names of the data sets to show; [None] leaves the choice, or the error, to the reader."""
    from pass2d.cache.datasets import dataset_folders

    if dataset is not None or is_url(location):
        return [dataset]
    folders = dataset_folders(Path(location))
    if not folders and (found := sorted(Path(location).glob("checkpoints/*.safetensors"))):
        raise CacheError(
            f"{location}: the folder of a run, not a cache. Try: "
            f"pass2d inspect {quote(str(found[0]))}"
        )
    return [folder.name for folder in folders] if len(folders) > 1 else [None]
