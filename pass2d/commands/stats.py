"""`pass2d stats`: what a cache holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pass2d.commands.console import clear_errors, print_json, print_rich
from pass2d.commands.options import (
    DEFAULT_CACHE,
    CacheOption,
    DatasetOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
)


def stats_command(
    cache_root: CacheOption = DEFAULT_CACHE,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    moving: Annotated[
        bool, typer.Option("--moving", help="Count moving and static objects separately.")
    ] = False,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write an HTML page with plots.", resolve_path=True)
    ] = None,
) -> None:
    """Show points per class, split and range, and the class weights of training."""
    from pass2d.cache.reader import CacheReader
    from pass2d.cache.statistics import dataset_statistics
    from pass2d.common.html import require_page
    from pass2d.reports.report import report_json, report_tables, write_html

    with clear_errors():
        require_page(html)
        reader = CacheReader.open(cache_root, dataset=dataset)
        if moving:
            reader.tell_motion()
        statistics = dataset_statistics(reader.scans, reader.info)
        if html is not None:
            write_html(statistics, html)
            typer.echo(f"plots: {html}", err=True)
        if as_json:
            print_json(report_json(statistics))
        else:
            print_rich(*report_tables(statistics))
