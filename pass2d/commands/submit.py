"""`pass2d submit`: predictions in the form that the benchmarks' servers accept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pass2d.commands.console import Console, clear_errors, plain, print_json, print_line
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
    outside_rule,
    path_or_url,
)
from pass2d.common.text import counted

if TYPE_CHECKING:
    from pass2d.train.submission.benchmark import Benchmark
    from pass2d.train.submission.submit import SubmitSummary
    from pass2d.train.submission.verify import VerifyReport

SHOWN_PROBLEMS = 30


def submit_command(
    checkpoint: CheckpointOption = None,
    cache_root: Annotated[
        str | None,
        typer.Option(
            "--cache",
            help="Cache folder or its URL. Defaults to ./cache.",
            parser=path_or_url,
            metavar="PATH|URL",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Which split. The server expects test; use val or train for trials.")
    ] = "test",
    task: Annotated[
        str | None,
        typer.Option(
            help="SemanticKITTI: the server's task, single, multi (classes with motion) or mos "
            "(moving objects); predictions are reduced to its classes. Defaults to the network's "
            "own classes."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The zip file to write.", resolve_path=True)] = Path(
        "submission.zip"
    ),
    verify: Annotated[
        Path | None,
        typer.Option(
            "--verify",
            help="Only check this zip of any benchmark; with --cache, also against its scans.",
            resolve_path=True,
        ),
    ] = None,
    votes: VotesOption = "1",
    outside: OutsideOption = "nearest",
    description: Annotated[
        Path | None,
        typer.Option(
            help="SemanticKITTI: text file to include as description.txt.", resolve_path=True
        ),
    ] = None,
    meta: Annotated[
        str | None,
        typer.Option(
            help="nuScenes: flags of submission.json, e.g. use_camera=true. By default only "
            "use_lidar is true."
        ),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="Write a zip even if official scans are missing. The server will refuse it.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing zip.")
    ] = False,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write a submission for the benchmark's server as a zip, or check one.

    For a described data set: label files in the layout of its own labels. For others without a
    server: SEQUENCE/SCAN.label, uint32 raw ids.
    """
    console = Console()
    with clear_errors(console):
        if verify is not None:
            report = _verify(verify, cache_root, dataset, split, task, allow_partial, console)
            console.close()
            _show_report(report, as_json=as_json)
            return
        from pass2d.train.distributed.process_group import choose_device
        from pass2d.train.inference.votes import parse_votes
        from pass2d.train.submission.benchmark import parse_meta
        from pass2d.train.submission.submit import SubmitConfig, submit

        summary = submit(
            chosen_network(checkpoint, console),
            cache_root or path_or_url(DEFAULT_CACHE),
            out,
            benchmarks=_benchmarks(),
            config=SubmitConfig(
                split=split,
                task=task,
                votes=parse_votes(votes),
                outside=outside_rule(outside),
                description=description,
                meta=tuple(parse_meta(meta).items()) if meta else (),
                allow_partial=allow_partial,
                overwrite=overwrite,
            ),
            dataset=dataset,
            device=choose_device(device),
            progress=console,
        )
        console.close()
        _show_summary(summary, as_json=as_json)


def _benchmarks() -> tuple[Benchmark, ...]:
    from pass2d.pipeline.datasets.registry import DATASETS
    from pass2d.train.submission.benchmark import Benchmark

    return tuple(
        Benchmark(info=table.info, splits=table.splits, scan_counts=table.scan_counts)
        for table in (dataset.table for dataset in DATASETS.values())
        if table.info.facts.benchmark
    )


def _verify(
    path: Path,
    cache_root: Path | str | None,
    dataset: str | None,
    split: str,
    task: str | None,
    allow_partial: bool,
    console: Console,
) -> VerifyReport:
    from pass2d.train.submission.verify import verify_submission

    benchmarks, expected = _benchmarks(), None
    if cache_root is not None:
        from pass2d.cache.reader import CacheReader
        from pass2d.train.submission.benchmark import DescribedFiles, benchmark_of
        from pass2d.train.submission.scans import expected_points

        with CacheReader.open(cache_root, dataset=dataset) as reader:
            benchmark = benchmark_of(reader, benchmarks)
            expected = expected_points(reader, benchmark, split=split)
            if isinstance(benchmark, DescribedFiles):
                benchmarks = (benchmark,)
    return verify_submission(
        path,
        benchmarks,
        split=split,
        task=task,
        expected=expected,
        allow_partial=allow_partial,
        progress=console,
    )


def _show_report(report: VerifyReport, *, as_json: bool) -> None:
    """Print what a check found; exit code 1 unless the zip is sound."""
    if as_json:
        print_json({key: plain(value) for key, value in asdict(report).items()})
    else:
        for problem in report.problems[:SHOWN_PROBLEMS]:
            print_line(f"problem: {problem}")
        if (more := len(report.problems) - SHOWN_PROBLEMS) > 0:
            typer.echo(f"{counted(more, 'more problem')} (all: --json)")
        for note in report.notes:
            print_line(f"note: {note}")
        verdict = "sound" if report.is_sound else counted(len(report.problems), "problem")
        typer.echo(
            f"{report.path}: {report.benchmark or 'no'} submission, "
            f"task {report.task or 'unknown'}, split {report.split}, "
            f"{report.scans:,} scans, {report.points:,} points: {verdict}"
        )
    if not report.is_sound:
        raise typer.Exit(1)


def _show_summary(summary: SubmitSummary, *, as_json: bool) -> None:
    report = summary.report
    if as_json:
        print_json(
            {
                "out": str(summary.out),
                "benchmark": report.benchmark,
                "task": report.task,
                "split": report.split,
                "scans": report.scans,
                "points": report.points,
                "reused": summary.reused,
                "seconds": summary.seconds,
                "is_complete": summary.is_complete,
                "notes": list(summary.notes),
            }
        )
        return
    typer.echo(
        f"{summary.out}: {report.benchmark} submission, task {report.task}, split {report.split}, "
        f"{report.scans:,} scans, {report.points:,} points, verified entry by entry"
    )
    if not summary.is_complete:
        typer.echo("incomplete: the server will refuse it")
