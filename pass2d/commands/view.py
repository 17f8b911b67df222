"""`pass2d view`: look at scans, their labels, predictions and errors."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pass2d.commands.console import Console, clear_errors, print_json, words
from pass2d.commands.options import (
    DEFAULT_CACHE,
    CheckpointOption,
    DatasetOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
    path_or_url,
)
from pass2d.commands.view_inputs import labeller, newest_labeller, open_scans
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Progress, format_bytes

if TYPE_CHECKING:
    from pass2d.train.viewing.scan import Labeller, ViewItem, ViewScan, ViewSet

SHOWN, RECORDED = 1, 100
"""Scans that are taken when none is named: of pictures and page, of a recording."""
MANY_ON_A_PAGE = 60
"""A page holds its scans: about 2 MB each."""


def view_command(
    raw: Annotated[
        Path | None,
        typer.Argument(
            help="Raw data set, one of its sequences, point files, or a ROS recording (.mcap, "
            ".bag, .db3, a ROS 2 folder).",
            resolve_path=True,
        ),
    ] = None,
    location: Annotated[
        str | None,
        typer.Option(
            "--cache",
            help="Cache folder or its URL. Defaults to ./cache if no raw data is given.",
            parser=path_or_url,
            metavar="PATH|URL",
        ),
    ] = None,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    sequence: Annotated[
        str | None, typer.Option("--sequence", "--sequences", help="Only these sequences, e.g. 08.")
    ] = None,
    scan: Annotated[
        str | None, typer.Option(help="One scan: 08/000123, a nuScenes token or a file name.")
    ] = None,
    scans: Annotated[str | None, typer.Option(help="Scans by index: 7, 0:50 or 0:50:5.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Folder of .label files written by predict or submit.", resolve_path=True
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    no_checkpoint: Annotated[
        bool,
        typer.Option("--no-checkpoint", help="Show no prediction, even if a run has a network."),
    ] = False,
    png: Annotated[
        Path | None,
        typer.Option(help="Folder to write pictures of each scan to.", resolve_path=True),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write one HTML page with a 3D view; it needs no network.", resolve_path=True
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write a Rerun recording (.rrd) instead of opening a window.", resolve_path=True
        ),
    ] = None,
    moving: Annotated[
        bool,
        typer.Option("--moving", help="With --cache: show moving objects in colours of their own."),
    ] = False,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Data set whose layout and classes the raw files have, e.g. nuscenes. Detected by "
            "default; semkitti for plain point files."
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(help="For a recording: the topic of PointCloud2 to show, if it has several."),
    ] = None,
    columns: Annotated[
        int | None,
        typer.Option(help="Numbers per point in plain .bin files. Detected by default.", min=3),
    ] = None,
    dtype: DtypeOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show scans with labels, predictions and errors: in Rerun, as a 3D page or as PNG."""
    console = Console()
    with clear_errors(console):
        if scan is not None and scans is not None:
            raise ConfigError("--scan and --scans: give only one")
        if checkpoint is not None and no_checkpoint:
            raise ConfigError("--checkpoint and --no-checkpoint: give only one")
        _require_usable(device, save=save, html=html)
        is_recorded = save is not None or (png is None and html is None)
        if is_recorded:
            from pass2d.train.viewing.recording import rerun_package

            rerun_package()  # before any scan is read
        if location is None and raw is None:
            location = path_or_url(DEFAULT_CACHE)
        with open_scans(
            location,
            raw,
            dataset=dataset,
            split=split,
            sequences=words(sequence),
            layout=layout,
            columns=columns,
            dtype=dtype,
            moving=moving,
            topic=topic,
        ) as found:
            from pass2d.train.viewing.scan import choose_items, one_sequence

            for note in found.notes:
                console.say(note)
            if checkpoint is None and predictions is None and not no_checkpoint:
                label = newest_labeller(found, device=device, say=console.say)
            else:
                label = labeller(
                    found,
                    checkpoint=checkpoint,
                    predictions=predictions,
                    device=device,
                    say=console.say,
                )
            default = RECORDED if is_recorded else SHOWN
            items = choose_items(found.items, scan=scan, scans=scans, default=default)
            if is_recorded and scans is None:
                items = one_sequence(items)
            if scan is None and scans is None and len(items) < len(found.items):
                shown = f"{len(items)} of {len(found.items):,} scans, from {items[0].name}"
                console.say(
                    f"{shown}; choose with --scan NAME or --scans 0:50, or --scans : for all"
                )
            if html is not None and len(items) > MANY_ON_A_PAGE:
                console.say(
                    f"{len(items)} scans on one page: it will be large, about 2 MB per scan"
                )
            stream = _loaded(found, items, label, console)
            if is_recorded:
                stream = _recorded(stream, found, items, save)
            with closing(stream):  # if a picture fails, the recording is given up
                written = _write(stream, found, png=png, html=html)
            written += [save] if save is not None else []
        console.close()
        _report(written, [item.name for item in items], as_json=as_json)


def _require_usable(device: str, *, save: Path | None, html: Path | None) -> None:
    """Refuse a device and results that cannot be, whether or not anything is predicted."""
    from pass2d.common.html import require_page

    require_page(html)
    if save is not None and save.suffix != ".rrd":
        raise ConfigError(f"--save {save}: Rerun opens only files that end in .rrd")
    if device != "auto":
        from pass2d.train.distributed.process_group import choose_device

        choose_device(device)


def _loaded(
    found: ViewSet, items: tuple[ViewItem, ...], label: Labeller | None, progress: Progress
) -> Generator[ViewScan]:
    """Load and label scans ahead of time; says once how files were read, and what is odd."""
    progress.start("view", total=len(items), unit="scans")
    said: set[str] = set()
    from pass2d.common.prefetch import prefetch

    scans = prefetch(lambda item: item.load(), items) if label is None else label(items)
    for item, scan in zip(items, scans, strict=True):
        doubts = found.doubts(scan) if label is None else ""  # a network compares with its own
        for note in filter(None, (scan.note, doubts)):
            if note not in said:
                said.add(note)
                progress.say(f"{item.points or item.name}: {note}")
        yield scan
        progress.advance()


def _recorded(
    stream: Iterator[ViewScan], found: ViewSet, items: tuple[ViewItem, ...], save: Path | None
) -> Generator[ViewScan]:
    """Log the scans in Rerun as they pass by."""
    from pass2d.train.viewing.recording import recording

    with recording(found, items, save) as log:
        yield from log.passing(stream)


def _write(
    stream: Iterator[ViewScan], found: ViewSet, *, png: Path | None, html: Path | None
) -> list[Path]:
    """Draw all scans; returns the pictures and the page."""
    written: list[Path] = []
    if png is not None:
        from pass2d.train.viewing.panels import drawn

        stream = drawn(stream, png, found, written)
    if html is not None:
        from pass2d.train.viewing.page import write_view_page

        written += write_view_page(stream, html, found)
    for _ in stream:  # where no page takes them
        pass
    return written


def _report(written: list[Path], names: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "scans": names,
                "files": [{"path": str(path), "bytes": path.stat().st_size} for path in written],
            }
        )
        return
    for path in written:
        typer.echo(f"{path} ({format_bytes(path.stat().st_size)})")
