"""The `pass2d` command: read options, call one function, print, set the exit code.

Nothing heavy is imported here before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache.errors import ConfigError
from cache.progress import format_bytes
from cli_console import Console, clear_errors, print_json, print_rich

if TYPE_CHECKING:
    from pipeline.options import PrepareConfig
    from pipeline.problem import Problem
    from pipeline.source import SourceListing

app = typer.Typer(
    name="pass2d",
    help="LiDAR semantic segmentation: prepare once, then train, evaluate and predict.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
prepare_app = typer.Typer(no_args_is_help=True, help="Turn a raw data set into a cache.")
app.add_typer(prepare_app, name="prepare")


def _words(text: str | None) -> tuple[str, ...] | None:
    """'00, 08' -> ('00', '08'); None stays None."""
    if text is None:
        return None
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise ConfigError(f"{text!r}: a comma-separated list with at least one name is expected")
    return words


CacheOption = Annotated[
    Path,
    typer.Option("--cache", help="Cache folder; holds one folder per data set.", resolve_path=True),
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Data set in the cache, if it holds several.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _default_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@prepare_app.command("synth")
def synth_command(
    out: Annotated[
        Path, typer.Option(help="New or empty folder, or one to go on with.", resolve_path=True)
    ],
    preset: Annotated[
        str, typer.Option(help="full (120k points, 1241x376), small or tiny.")
    ] = "full",
    seed: Annotated[int, typer.Option(help="Every street and noise value follows from it.")] = 0,
    scans: Annotated[
        int | None, typer.Option(help="Scans per sequence; preset's if left out.")
    ] = None,
    sequences: Annotated[
        str | None, typer.Option(help="E.g. 00,01,08,11; preset's if left out.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; 0 works inside this one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a ray-cast street world with labels, in SemanticKITTI's layout."""
    from pipeline.synth import config as synth_config
    from pipeline.synth.generate import generate

    console = Console()
    with clear_errors(console):
        chosen = {"scans": scans, "sequences": _words(sequences)}
        config = synth_config.preset(
            preset,
            seed=seed,
            workers=_default_workers() if workers is None else workers,
            **{key: value for key, value in chosen.items() if value is not None},
        )
        summary = generate(out, config, console)
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
        f"next: pass2d prepare semkitti --root {summary.out} --cache cache/"
    )


@prepare_app.command("semkitti")
def semkitti_command(
    root: Annotated[
        Path,
        typer.Option(help="SemanticKITTI, its dataset/ or its sequences/.", resolve_path=True),
    ],
    cache_root: Annotated[
        Path,
        typer.Option(
            "--cache", help="Cache folder; the data goes to semkitti/.", resolve_path=True
        ),
    ] = Path("cache"),
    splits: Annotated[str, typer.Option(help="Any of train,val,test.")] = "train,val,test",
    sequences: Annotated[str | None, typer.Option(help="Only these, e.g. 00,08.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many scans.", min=1)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray workers, one per CPU if left out; 0: no Ray.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Join this Ray cluster, e.g. auto or host:6379.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="speed, or size: smaller, slower to read.")
    ] = "speed",
    check: Annotated[
        bool, typer.Option("--check", help="Read all files, name every faulty one, write nothing.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would run and why, write nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare SemanticKITTI: projections, labels, pictures, voxel hashes, counts."""
    from pipeline.datasets.semkitti import check_semkitti, list_semkitti
    from pipeline.options import PrepareConfig

    console = Console()
    with clear_errors(console):
        chosen_splits, chosen = _words(splits) or (), _words(sequences)
        if check:
            found = check_semkitti(
                root, splits=chosen_splits, sequences=chosen, limit=limit, progress=console
            )
            console.close()
            _show_problems(found, as_json=as_json)
            return
        config = PrepareConfig(workers=workers, ray_address=ray_address, profile=profile)
        listing = list_semkitti(root, splits=chosen_splits, sequences=chosen, limit=limit)
        _prepare(
            listing, cache_root / listing.info.name, config, console, plan=plan, as_json=as_json
        )


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


def _prepare(
    listing: SourceListing,
    dataset_root: Path,
    config: PrepareConfig,
    console: Console,
    *,
    plan: bool,
    as_json: bool,
) -> None:
    from pipeline.describe import plan_json, plan_lines, summary_json, summary_lines
    from pipeline.prepare import plan as plan_listing
    from pipeline.prepare import prepare

    if plan:
        planned = plan_listing(listing, dataset_root, config)
        if as_json:
            print_json(plan_json(planned))
        else:
            typer.echo("\n".join(plan_lines(planned)))
        return
    summary = prepare(listing, dataset_root, config, console)
    console.close()
    if as_json:
        print_json(summary_json(summary))
    else:
        typer.echo("\n".join(summary_lines(summary)))
    if summary.failed:
        raise typer.Exit(1)


@app.command("stats")
def stats_command(
    cache_root: CacheOption,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with plots.", resolve_path=True)
    ] = None,
) -> None:
    """Count classes, points, ranges; show the class weights of training."""
    from cache.reader import CacheReader
    from cache.statistics import dataset_statistics
    from pipeline.report import report_json, report_tables
    from pipeline.report_html import write_html

    with clear_errors():
        reader = CacheReader.open(cache_root, dataset=dataset)
        statistics = dataset_statistics(reader.scans, reader.info)
        if html is not None:
            write_html(statistics, html)
            typer.echo(f"plots: {html}", err=True)
        if as_json:
            print_json(report_json(statistics))
        else:
            print_rich(*report_tables(statistics))


def main() -> None:
    """Entry point of the `pass2d` script."""
    app()


if __name__ == "__main__":
    main()
