"""`pass2d prepare ...`: raw data sets and synthetic worlds."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.errors import ConfigError
from cache.place import dataset_place
from cache.progress import format_bytes
from commands.console import Console, clear_errors, print_json, words
from commands.options import JsonOption, LocalCacheOption, LocalCacheSizeOption, any_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corruptions.registry import Variant
    from pipeline.options import PrepareConfig
    from pipeline.problem import Problem
    from pipeline.source import SourceListing

prepare_app = typer.Typer(no_args_is_help=True, help="Turn a raw data set into a cache.")

SplitsOption = Annotated[str, typer.Option(help="Any of train,val,test.")]
LimitOption = Annotated[int | None, typer.Option(help="At most so many scans.", min=1)]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="Ray workers, one per CPU if left out; 0: no Ray. With --ray-address: tasks at a time."
    ),
]
RayAddressOption = Annotated[
    str | None, typer.Option(help="Join this Ray cluster, e.g. auto or host:6379.")
]
ProfileOption = Annotated[str, typer.Option(help="speed, or size: smaller, slower to read.")]
CorruptOption = Annotated[
    str | None,
    typer.Option(
        help="Also make corrupted data sets (pass2d-C), e.g. fog:heavy,snow; all: 8 corruptions "
        "in 3 severities."
    ),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Read all files, name every faulty one, write nothing.")
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Say what would run and why, write nothing.")
]


def _default_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@prepare_app.command("synth")
def synth_command(
    out: Annotated[
        Path, typer.Option(help="New or empty folder, or one to go on with.", resolve_path=True)
    ],
    preset: Annotated[
        str, typer.Option(help="full (sizes of the real data set), small or tiny.")
    ] = "full",
    layout: Annotated[
        str, typer.Option(help="semkitti, or nuscenes: 32 beams, six cameras, tables.")
    ] = "semkitti",
    seed: Annotated[int, typer.Option(help="Every street and noise value follows from it.")] = 0,
    scans: Annotated[
        int | None, typer.Option(help="Scans per sequence; preset's if left out.")
    ] = None,
    sequences: Annotated[
        str | None,
        typer.Option(
            "--sequences",
            "--scenes",
            help="E.g. 00,01,08,11 or scene-0061,scene-0103; preset's if left out.",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; 0 works inside this one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a ray-cast street world with labels, in the layout of SemanticKITTI or nuScenes."""
    console = Console()
    with clear_errors(console):
        chosen = {"scans": scans, "workers": _default_workers() if workers is None else workers}
        changes: dict[str, Any] = {k: value for k, value in chosen.items() if value is not None}
        names = words(sequences)
        if layout == "semkitti":
            from pipeline.synth.config import preset as semkitti_preset
            from pipeline.synth.generate import generate

            changes |= {} if names is None else {"sequences": names}
            summary = generate(out, semkitti_preset(preset, seed=seed, **changes), console)
        elif layout == "nuscenes":
            from pipeline.synth.nuscenes_config import nuscenes_preset
            from pipeline.synth.nuscenes_generate import generate_nuscenes

            changes |= {} if names is None else {"scenes": names}
            summary = generate_nuscenes(out, nuscenes_preset(preset, seed=seed, **changes), console)
        else:
            raise ConfigError(f"--layout: found {layout!r}, expected semkitti or nuscenes.")
    if as_json:
        print_json(
            {
                "out": str(summary.out),
                "scans_written": summary.scans_written,
                "scans_kept": summary.scans_kept,
                "points": summary.points,
                "bytes": summary.nbytes,
            }
        )
        return
    typer.echo(
        f"{summary.out}: {summary.scans_written} scans written, {summary.scans_kept} kept, "
        f"{summary.points:,} points, {format_bytes(summary.nbytes)}\n"
        f"next: pass2d prepare {layout} --root {shlex.quote(str(summary.out))} --cache cache/"
    )


@prepare_app.command("semkitti")
def semkitti_command(
    root: Annotated[
        Path,
        typer.Option(help="SemanticKITTI, its dataset/ or its sequences/.", resolve_path=True),
    ],
    cache_root: Annotated[
        str,
        typer.Option(
            "--cache",
            help="Cache folder, or a URL such as s3://bucket/prefix; the data goes to semkitti/.",
            parser=any_place,
            metavar="PATH|URL",
        ),
    ] = "cache",
    splits: SplitsOption = "train,val,test",
    sequences: Annotated[str | None, typer.Option(help="Only these, e.g. 00,08.")] = None,
    limit: LimitOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    profile: ProfileOption = "speed",
    corrupt: CorruptOption = None,
    check: CheckOption = False,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare SemanticKITTI: projections, labels, pictures, voxel hashes, counts."""
    from pipeline.datasets.semkitti import check_semkitti, list_semkitti
    from pipeline.options import PrepareConfig

    console = Console()
    with clear_errors(console):
        chosen_splits, chosen = words(splits) or (), words(sequences)
        variants = _variants(corrupt)
        if check:
            found = check_semkitti(
                root, splits=chosen_splits, sequences=chosen, limit=limit, progress=console
            )
            console.close()
            _show_problems(found, as_json=as_json)
            return
        config = PrepareConfig(workers=workers, ray_address=ray_address, profile=profile)
        listing = list_semkitti(root, splits=chosen_splits, sequences=chosen, limit=limit)
        _prepare(listing, cache_root, config, console, variants, plan=plan, as_json=as_json)


@prepare_app.command("nuscenes")
def nuscenes_command(
    root: Annotated[
        Path,
        typer.Option(help="Holds v1.0-*/, samples/ and lidarseg/.", resolve_path=True),
    ],
    version: Annotated[
        str | None,
        typer.Option(
            help="v1.0-mini, v1.0-trainval or v1.0-test; not needed if only one is there."
        ),
    ] = None,
    cache_root: Annotated[
        str,
        typer.Option(
            "--cache",
            help="Cache folder, or a URL such as s3://bucket/prefix; the data goes to nuscenes/.",
            parser=any_place,
            metavar="PATH|URL",
        ),
    ] = "cache",
    splits: SplitsOption = "train,val,test",
    scenes: Annotated[
        str | None, typer.Option("--scenes", "--sequences", help="Only these: scene-0061,103.")
    ] = None,
    limit: LimitOption = None,
    image_size: Annotated[
        str, typer.Option(help="Width x height of the stored pictures, or original.")
    ] = "400x240",
    sweeps: Annotated[
        int, typer.Option(help="Past lidar sweeps to add to each scan.", min=0, max=10)
    ] = 0,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    profile: ProfileOption = "speed",
    corrupt: CorruptOption = None,
    check: CheckOption = False,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare nuScenes-lidarseg: six cameras per scan, labels, voxel hashes, counts."""
    from pipeline.datasets.nuscenes import check_nuscenes, list_nuscenes
    from pipeline.options import PrepareConfig, image_size_hw

    console = Console()
    with clear_errors(console):
        chosen_splits, chosen = words(splits) or (), words(scenes)
        variants = _variants(corrupt)
        if check:
            found = check_nuscenes(
                root,
                version=version,
                splits=chosen_splits,
                scenes=chosen,
                limit=limit,
                sweeps=sweeps,
                progress=console,
            )
            console.close()
            _show_problems(found, as_json=as_json)
            return
        config = PrepareConfig(workers=workers, ray_address=ray_address, profile=profile)
        listing = list_nuscenes(
            root,
            version=version,
            splits=chosen_splits,
            scenes=chosen,
            limit=limit,
            stored_hw=image_size_hw(image_size),
            sweeps=sweeps,
            progress=console,
        )
        _prepare(listing, cache_root, config, console, variants, plan=plan, as_json=as_json)


def _show_problems(problems: list[Problem], *, as_json: bool) -> None:
    """Print what a check found; exit code 1 if a file must be mended."""
    from pipeline.describe import problems_json

    faults = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        print_json(problems_json(problems))
    else:
        for problem in problems:
            typer.echo(f"{problem.severity}: {problem}")
        notes = len(problems) - len(faults)
        typer.echo(
            f"{len(faults)} files to mend, {notes} notes" if problems else "no problems found"
        )
    if faults:
        raise typer.Exit(1)


def _variants(corrupt: str | None) -> tuple[Variant, ...]:
    """Read --corrupt, before anything that takes long."""
    from corruptions.registry import parse_variants

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
    from pipeline.corrupted import corrupted_listings
    from pipeline.describe import plan_json, plan_lines, summary_json, summary_lines
    from pipeline.prepare import plan as plan_listing
    from pipeline.prepare import prepare_all

    listings = [listing, *corrupted_listings(listing, variants)]
    if plan:
        places = [dataset_place(cache_root, li.info.name) for li in listings]
        plans = {
            li.info.name: plan_listing(li, place, config)
            for li, place in zip(listings, places, strict=True)
        }
        documents = [{"dataset": name, **plan_json(planned)} for name, planned in plans.items()]
        texts = [
            "\n".join([f"{name}:", *plan_lines(planned)] if variants else plan_lines(planned))
            for name, planned in plans.items()
        ]
    else:
        summaries = prepare_all(listings, cache_root, config, console)
        console.close()
        documents = [summary_json(summary) for summary in summaries]
        texts = ["\n".join(summary_lines(summary)) for summary in summaries]
    if as_json:
        print_json({"datasets": documents} if variants else documents[0])
    else:
        typer.echo("\n\n".join(texts))
    if not plan and any(summary.failed for summary in summaries):
        raise typer.Exit(1)
