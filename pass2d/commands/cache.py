"""`pass2d cache ...`: maintain a prepared data set."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pass2d.cache.urls import dataset_location
from pass2d.commands.cache_location import located
from pass2d.commands.console import Console, clear_errors, print_json, print_line
from pass2d.commands.options import (
    DEFAULT_CACHE,
    CacheOption,
    DatasetOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
)
from pass2d.common.errors import CacheError, ConfigError
from pass2d.common.progress import format_bytes

if TYPE_CHECKING:
    from pass2d.cache.care.status import StatusReport
    from pass2d.cache.inspection.profiles import ProfileAdvice
    from pass2d.cache.manifest import Manifest

_SHOWN = 20
"""Number of paths of one kind that `status` prints."""

cache_app = typer.Typer(no_args_is_help=True, help="Verify, repair, clean up and describe a cache.")


@cache_app.command("verify")
def verify_command(
    cache_root: CacheOption = DEFAULT_CACHE,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    rebuild_percent: Annotated[
        float,
        typer.Option("--rebuild", help="Also rebuild this percentage of the shards and compare."),
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Check every byte and report damage by shard, field and scan. Writes nothing."""
    from pass2d.cache.care.damage import Damage
    from pass2d.cache.care.verify import verify
    from pass2d.pipeline.repair.rebuild_shards import rebuild_and_compare

    console = Console()
    with clear_errors(console):
        if not 0 <= rebuild_percent <= 100:
            raise ConfigError(f"--rebuild must be 0 to 100 percent, got {rebuild_percent:g}")
        with located(cache_root, dataset) as location:
            report = verify(
                location.root,
                console,
                rebuild=rebuild_and_compare(location.root) if rebuild_percent else None,
                rebuild_share=rebuild_percent / 100,
                presence=location.presence,
            )
            orphans = () if location.staged is None else location.staged.orphans
            strangers = () if location.staged is None else location.staged.strangers
        more = tuple(
            f"{name}: left by an unfinished run; `pass2d cache gc` removes it" for name in orphans
        )
        text = "not part of a prepared data set"
        others = (Damage(kind="extra", path=name, text=text) for name in strangers)
        report = replace(report, notes=(*report.notes, *more), damages=(*report.damages, *others))
        console.close()
        if as_json:
            print_json(asdict(report))
        else:
            for damage in report.damages:
                print_line(f"damage: {damage}")
            for note in report.notes:
                print_line(f"note: {note}")
            typer.echo(
                f"{report.scans:,} scans, {report.shards:,} shards, {report.files:,} files, "
                f"{format_bytes(report.nbytes)} read, {report.rebuilt} shards rebuilt: "
                + (
                    "no damage"
                    if report.is_sound
                    else f"{len(report.damages)} damaged parts; run `pass2d cache repair`"
                )
            )
        if not report.is_sound:
            raise typer.Exit(1)


@cache_app.command("repair")
def repair_command(
    cache_root: CacheOption = DEFAULT_CACHE,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify, then rebuild only what is damaged."""
    from pass2d.pipeline.repair.repair import repair

    console = Console()
    with clear_errors(console):
        with located(cache_root, dataset) as location:
            report = repair(location.root, console, presence=location.presence)
            if location.staged is not None:
                location.staged.send_back()
                others = (
                    f"{name}: not a file of pass2d; if it is yours, move it elsewhere"
                    for name in location.staged.strangers
                )
                report = replace(report, unrepaired=(*report.unrepaired, *others))
        console.close()
        if as_json:
            print_json(asdict(report))
        else:
            for line in report.repaired:
                print_line(f"repaired: {line}")
            for line in report.unrepaired:
                print_line(f"not repaired: {line}")
            if report.before.is_sound and not report.unrepaired:
                typer.echo("no damage")
        if report.unrepaired:
            raise typer.Exit(1)


@cache_app.command("gc")
def gc_command(
    cache_root: CacheOption = DEFAULT_CACHE,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    keep: Annotated[
        int, typer.Option(help="How many of the newest generations to keep.", min=1)
    ] = 1,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also remove the shards of interrupted runs.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be removed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove files that no kept generation uses."""
    from pass2d.cache.care.gc import collect_garbage

    with clear_errors():
        with located(cache_root, dataset, with_records=False) as location:
            if location.staged is not None:
                report = location.staged.collect_garbage(
                    keep=keep, unfinished=unfinished, dry_run=dry_run
                )
            else:
                report = collect_garbage(
                    location.root, keep=keep, unfinished=unfinished, dry_run=dry_run
                )
        if as_json:
            print_json(asdict(report))
            return
        verb = "would remove" if dry_run else "removed"
        for path in report.removed:
            typer.echo(f"{verb}: {path}")
        for line in report.kept:
            print_line(f"kept: {line}")
        typer.echo(f"{verb} {len(report.removed)} files and folders, {format_bytes(report.nbytes)}")


@cache_app.command("status")
def status_command(
    cache_root: CacheOption = DEFAULT_CACHE,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    hash_contents: Annotated[
        bool,
        typer.Option("--hash", help="Compare the contents of source files whose time differs."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a cache holds, and whether its source files have changed or are gone."""
    from pass2d.cache.care.status import status

    with clear_errors():
        with located(cache_root, dataset, with_records=False) as location:
            report = status(location.root, hash_contents=hash_contents)
            if location.staged is not None:
                report = replace(report, dataset_root=location.staged.store.url)
        if as_json:
            print_json({**asdict(report), "dataset_root": str(report.dataset_root)})
            return
        scans = ", ".join(f"{split} {count:,}" for split, count in report.scans.items())
        older = report.generations - 1
        typer.echo(
            f"{report.dataset_root}: {report.dataset}, format {report.format_version}, "
            f"generation {report.generation}"
            f"{f' ({older} older on disk)' if older > 0 else ''}\n"
            f"scans: {scans}; sequences {', '.join(report.sequences)}; failed {report.failed}"
        )
        for found in report.containers:
            typer.echo(
                f"{found.container}: {found.shards} shards, {format_bytes(found.nbytes)}, "
                f"code version {', '.join(map(str, found.code_versions)) or '-'}, "
                f"profile {', '.join(found.profiles) or '-'}"
            )
        for word in ("changed", "touched", "vanished", "missing_shards"):
            paths = getattr(report, word)
            for path in paths[:_SHOWN]:
                typer.echo(f"{word.replace('_', ' ')}: {path}")
            if len(paths) > _SHOWN:
                typer.echo(f"{word.replace('_', ' ')}: {len(paths) - _SHOWN:,} more, see --json")
        typer.echo(f"{report.sources:,} source files compared: {_advice(report)}")


def _advice(report: StatusReport) -> str:
    """What to do, given the state of the sources."""
    if report.is_current:
        return "unchanged since prepare"
    gone = report.vanished_sequences
    if gone == report.sequences:
        return (
            "none of the scans is where it was. If the data set was moved, run `pass2d prepare` "
            "with the new --root: files are recognised by their content"
        )
    if gone:
        kept = f"It keeps the prepared scans of sequences {', '.join(gone)}"
        return (
            f"run `pass2d prepare` again. {kept}, whose source files are gone (a new --cache "
            "would not have them)"
        )
    return "run `pass2d prepare` again"


@cache_app.command("plan")
def plan_command(
    cache_root: CacheOption = DEFAULT_CACHE,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Root of the raw data set. By default searched for as by `prepare`.",
            resolve_path=True,
        ),
    ] = None,
    dataset: DatasetOption = None,
    profile: Annotated[
        str | None, typer.Option(help="speed, size or raw. Defaults to the cache's own.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="nuScenes: which version, if the root holds several.")
    ] = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what `prepare` would do for this root with the cache's settings, and why."""
    from pass2d.pipeline.datasets.relist import list_again, profile_of
    from pass2d.pipeline.prepare import plan
    from pass2d.pipeline.run.describe import plan_json, plan_lines
    from pass2d.pipeline.run.options import PrepareConfig

    console = Console()
    with clear_errors(console):
        if profile is not None:
            PrepareConfig(profile=profile)
        if root is None:
            root = _usual_root(cache_root, dataset, console)
        where, manifest = _planned_on(cache_root, dataset, root)
        listing = list_again(root, manifest, version=version, progress=console)
        config = PrepareConfig(profile=profile or profile_of(manifest))
        planned = plan(listing, where or dataset_location(cache_root, listing.info.name), config)
        console.close()
        if as_json:
            print_json(plan_json(planned))
        else:
            for line in plan_lines(planned):
                print_line(line)


def _usual_root(cache_root: str, dataset: str | None, console: Console) -> Path:
    """The root of the cache's raw data set, if the user does not give it."""
    from pass2d.cache.layout import Layout
    from pass2d.cache.manifest import load_manifest
    from pass2d.pipeline.datasets.registry import DATASETS

    with located(cache_root, dataset, with_records=False) as location:
        found = DATASETS.of(load_manifest(Layout(root=location.root)).info).find()
    console.say(f"root: {found.root} ({found.reason})")
    return found.root


def _planned_on(
    cache_root: str, dataset: str | None, root: Path
) -> tuple[Path | str | None, Manifest | None]:
    """The chosen data set and its manifest; None if nothing is prepared."""
    from pass2d.cache.layout import Layout
    from pass2d.cache.manifest import load_manifest
    from pass2d.pipeline.datasets.registry import DATASETS

    found = DATASETS.at(root)
    names = () if found is None else (found.table.info.name,)
    for wanted in (dataset,) if dataset else (*names, None):
        try:
            with located(cache_root, wanted, with_records=False) as location:
                manifest = load_manifest(Layout(root=location.root))
                url = None if location.staged is None else location.staged.store.url
            return url or location.root, manifest
        except CacheError:
            if dataset:
                raise
    return None, None


@cache_app.command("bench")
def bench_command(
    cache_root: CacheOption = DEFAULT_CACHE,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    scans: Annotated[
        int, typer.Option("--limit", help="Read at most this many scans.", min=1)
    ] = 64,
    rounds: Annotated[int, typer.Option(help="How often to read each scan.", min=2)] = 5,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast this cache can be read here, and say which profile suits the machine."""
    from pass2d.cache.inspection.benchmark import measure_reader

    console = Console()
    with clear_errors(console):
        report = measure_reader(
            cache_root, dataset=dataset, scans=scans, rounds=rounds, progress=console
        )
        console.close()
        if as_json:
            print_json(asdict(report))
            return
        for entry in report.ways:
            checked = "checked" if entry.is_checked else "unchecked"
            rate = entry.stored_bytes * entry.scans_per_s
            typer.echo(
                f"{entry.fields:9} {checked:9} first {entry.first_ms:6.2f} ms, "
                f"warm {entry.warm_ms:6.2f} ms per scan, {entry.scans_per_s:,.0f} scans/s, "
                f"{format_bytes(round(rate))}/s"
            )
        rates = ", ".join(f"{r.scans_per_s:,.0f} with {r.threads}" for r in report.threads)
        typer.echo(f"scans/s for training by number of reading threads: {rates}")
        if report.advice is not None:
            _print_advice(report.advice)


def _print_advice(advice: ProfileAdvice) -> None:
    for cost in advice.costs:
        typer.echo(
            f"profile {cost.profile:6} {cost.cpu_ms:6.2f} ms of CPU, "
            f"{format_bytes(round(cost.stored_bytes))} per training scan"
        )
    typer.echo(
        f"profile for this machine: {advice.best} "
        f"(disk: {format_bytes(round(advice.disk_bytes_per_s))}/s)"
    )
