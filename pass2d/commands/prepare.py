"""`pass2d prepare ...`: raw data sets and synthetic worlds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pass2d.cache.urls import dataset_location
from pass2d.commands.console import (
    Console,
    clear_errors,
    print_json,
    print_line,
    words,
)
from pass2d.commands.options import (
    DEFAULT_CACHE,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
    path_or_url,
)
from pass2d.commands.synth import synth_command
from pass2d.common.errors import ConfigError
from pass2d.common.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pass2d.corruptions.registry import Variant
    from pass2d.pipeline.datasets.roots import FoundRoot
    from pass2d.pipeline.problem import Problem
    from pass2d.pipeline.run.options import PrepareConfig
    from pass2d.pipeline.source import SourceListing

prepare_app = typer.Typer(no_args_is_help=True, help="Prepare a raw data set as a cache.")
prepare_app.command("synth")(synth_command)

SplitsOption = Annotated[str, typer.Option(help="Splits to prepare, comma-separated.")]
LimitOption = Annotated[int | None, typer.Option(help="Prepare at most this many scans.", min=1)]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="Ray workers; 0 works without Ray. Defaults to one per CPU where that is faster, "
        "else to 0. With --ray-address: tasks at a time."
    ),
]
RayAddressOption = Annotated[
    str | None, typer.Option(help="Ray cluster to join, e.g. auto or host:6379.")
]
ProfileOption = Annotated[str, typer.Option(help="speed, or size (smaller, but slower to read).")]
CorruptOption = Annotated[
    str | None,
    typer.Option(
        help="Also prepare corrupted data sets (pass2d-C), e.g. fog:heavy,snow, or all (8 "
        "corruptions in 3 severities)."
    ),
]
DropInvalidOption = Annotated[
    bool,
    typer.Option(
        "--drop-invalid",
        help="Drop NaN and infinite points, which organised clouds contain. By default, a file "
        "with such points is an error.",
    ),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Read all files and name every faulty one. Writes nothing.")
]
PngOption = Annotated[
    Path | None,
    typer.Option(
        "--png",
        help="With --check: folder for pictures of projected points, per sequence and camera.",
        resolve_path=True,
    ),
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Show what would be done and why. Writes nothing.")
]


@prepare_app.command("semkitti")
def semkitti_command(
    root: Annotated[
        Path | None,
        typer.Option(
            help="SemanticKITTI, its dataset/ or its sequences/. Defaults to PASS2D_SEMKITTI, or "
            "to a usual place such as dataset/SemanticKITTI.",
            resolve_path=True,
        ),
    ] = None,
    cache_root: Annotated[
        str,
        typer.Option(
            "--cache",
            help="Cache folder or its URL, e.g. s3://bucket/prefix. Data goes to its semkitti/.",
            parser=path_or_url,
            metavar="PATH|URL",
        ),
    ] = DEFAULT_CACHE,
    splits: SplitsOption = "train,val,test",
    sequences: Annotated[str | None, typer.Option(help="Only these sequences, e.g. 00,08.")] = None,
    limit: LimitOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    profile: ProfileOption = "speed",
    drop_invalid: DropInvalidOption = False,
    corrupt: CorruptOption = None,
    check: CheckOption = False,
    png: PngOption = None,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare SemanticKITTI: projections, labels, pictures, voxel hashes, counts."""
    from pass2d.pipeline.datasets.semkitti import check_semkitti, find_semkitti, list_semkitti
    from pass2d.pipeline.run.options import PrepareConfig

    console = Console()
    with clear_errors(console):
        chosen_splits, chosen = words(splits) or (), words(sequences)
        variants = _variants(corrupt)
        _require_check(png, check=check)
        config = PrepareConfig(workers=workers, ray_address=ray_address, profile=profile)
        location = root or _found(find_semkitti, console)
        if check:
            found = check_semkitti(
                location,
                splits=chosen_splits,
                sequences=chosen,
                limit=limit,
                drop_invalid=drop_invalid,
                png=png,
                progress=console,
            )
            console.close()
            _show_problems(found, as_json=as_json)
            return
        listing = list_semkitti(location, splits=chosen_splits, sequences=chosen, limit=limit)
        listing = _dropping(listing) if drop_invalid else listing
        _prepare(listing, cache_root, config, console, variants, plan=plan, as_json=as_json)


@prepare_app.command("nuscenes")
def nuscenes_command(
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder with v1.0-*/, samples/ and lidarseg/. Defaults to PASS2D_NUSCENES, or to "
            "a usual place such as dataset/nuscenes.",
            resolve_path=True,
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            help="v1.0-mini, v1.0-trainval or v1.0-test. Needed only if there are several."
        ),
    ] = None,
    cache_root: Annotated[
        str,
        typer.Option(
            "--cache",
            help="Cache folder or its URL, e.g. s3://bucket/prefix. Data goes to its nuscenes/.",
            parser=path_or_url,
            metavar="PATH|URL",
        ),
    ] = DEFAULT_CACHE,
    splits: SplitsOption = "train,val,test",
    scenes: Annotated[
        str | None,
        typer.Option("--scenes", "--sequences", help="Only these scenes, e.g. scene-0061,103."),
    ] = None,
    limit: LimitOption = None,
    image_size: Annotated[
        str, typer.Option(help="Size of the stored pictures as WIDTHxHEIGHT, or original.")
    ] = "400x240",
    sweeps: Annotated[
        int, typer.Option(help="Past lidar sweeps to add to each scan.", min=0, max=10)
    ] = 0,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    profile: ProfileOption = "speed",
    drop_invalid: DropInvalidOption = False,
    corrupt: CorruptOption = None,
    check: CheckOption = False,
    png: PngOption = None,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare nuScenes-lidarseg: six cameras per scan, labels, voxel hashes, counts."""
    from pass2d.pipeline.datasets.nuscenes import check_nuscenes, find_nuscenes, list_nuscenes
    from pass2d.pipeline.run.options import PrepareConfig, image_size_hw

    console = Console()
    with clear_errors(console):
        chosen_splits, chosen = words(splits) or (), words(scenes)
        variants = _variants(corrupt)
        _require_check(png, check=check)
        config = PrepareConfig(workers=workers, ray_address=ray_address, profile=profile)
        location = root or _found(find_nuscenes, console)
        if check:
            found = check_nuscenes(
                location,
                version=version,
                splits=chosen_splits,
                scenes=chosen,
                limit=limit,
                sweeps=sweeps,
                drop_invalid=drop_invalid,
                png=png,
                progress=console,
            )
            console.close()
            _show_problems(found, as_json=as_json)
            return
        listing = list_nuscenes(
            location,
            version=version,
            splits=chosen_splits,
            scenes=chosen,
            limit=limit,
            stored_hw=image_size_hw(image_size),
            sweeps=sweeps,
            progress=console,
        )
        listing = _dropping(listing) if drop_invalid else listing
        _prepare(listing, cache_root, config, console, variants, plan=plan, as_json=as_json)


def _dropping(listing: SourceListing) -> SourceListing:
    """The listing whose points of NaN are dropped."""
    return replace(listing, info=replace(listing.info, drops_invalid=True))


def _found(find: Callable[[], FoundRoot], console: Console) -> Path:
    """The root where none is given; said before the work."""
    found = find()
    console.say(f"root: {found.root} ({found.reason})")
    return found.root


def _require_check(png: Path | None, *, check: bool) -> None:
    if png is not None and not check:
        raise ConfigError(f"--png {png}: only --check draws pictures. Add --check.")


def _show_problems(problems: list[Problem], *, as_json: bool) -> None:
    """Print what a check found; exit code 1 if a file must be mended."""
    from pass2d.pipeline.run.describe import problems_json

    faults = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        print_json(problems_json(problems))
    else:
        for problem in problems:
            print_line(f"{problem.severity}: {problem}")
        warnings = sum(problem.severity == "warning" for problem in problems)
        notes = len(problems) - len(faults) - warnings
        unlikely = f", {warnings} warnings" if warnings else ""
        typer.echo(
            f"{len(faults)} errors{unlikely}, {notes} notes" if problems else "no problems found"
        )
    if faults:
        raise typer.Exit(1)


def _variants(corrupt: str | None) -> tuple[Variant, ...]:
    """Read --corrupt, before anything that takes long."""
    from pass2d.corruptions.registry import parse_variants

    return () if corrupt is None else parse_variants(corrupt)


def _prepare(
    listing: SourceListing,
    cache_root: str,
    config: PrepareConfig,
    console: Console,
    variants: Sequence[Variant],
    *,
    plan: bool,
    as_json: bool,
) -> None:
    """Prepare the clean data set, then a corrupted one per corruption and severity."""
    from pass2d.pipeline.corrupted import corrupted_listings
    from pass2d.pipeline.prepare import plan as plan_listing
    from pass2d.pipeline.prepare import prepare_all
    from pass2d.pipeline.run.describe import plan_json, plan_lines, summary_json, summary_lines

    listings = [listing, *corrupted_listings(listing, variants)]
    if plan:
        places = [dataset_location(cache_root, li.info.name) for li in listings]
        plans = {
            li.info.name: plan_listing(li, location, config)
            for li, location in zip(listings, places, strict=True)
        }
        documents = [{"dataset": name, **plan_json(planned)} for name, planned in plans.items()]
        headings = {name: [f"{name}:"] if variants else [] for name in plans}
        texts = [
            "\n".join(map(one_line, [*headings[name], *plan_lines(planned)]))
            for name, planned in plans.items()
        ]
    else:
        summaries = prepare_all(listings, cache_root, config, console)
        console.close()
        documents = [summary_json(summary) for summary in summaries]
        texts = ["\n".join(map(one_line, summary_lines(summary))) for summary in summaries]
    if as_json:
        print_json({"datasets": documents} if variants else documents[0])
    else:
        typer.echo("\n\n".join(texts))
    if not plan and any(summary.failed for summary in summaries):
        raise typer.Exit(1)
