"""The `pass2d` command: read options, call one function, print, set the exit code.

Nothing heavy is imported here before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cache.errors import ConfigError
from cache.progress import format_bytes
from cli_cache import CacheOption, DatasetOption, JsonOption, cache_app
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
app.add_typer(cache_app, name="cache")


def _words(text: str | None) -> tuple[str, ...] | None:
    """'00, 08' -> ('00', '08'); None stays None."""
    if text is None:
        return None
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise ConfigError(f"{text!r}: a comma-separated list with at least one name is expected")
    return words


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
        names = _words(sequences)
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
        f"next: pass2d prepare {layout} --root {summary.out} --cache cache/"
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
        Path,
        typer.Option(
            "--cache", help="Cache folder; the data goes to nuscenes/.", resolve_path=True
        ),
    ] = Path("cache"),
    splits: Annotated[str, typer.Option(help="Any of train,val,test.")] = "train,val,test",
    scenes: Annotated[
        str | None, typer.Option("--scenes", "--sequences", help="Only these: scene-0061,103.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many scans.", min=1)] = None,
    image_size: Annotated[
        str, typer.Option(help="Width x height of the stored pictures, or original.")
    ] = "400x240",
    sweeps: Annotated[
        int, typer.Option(help="Past lidar sweeps to add to each scan.", min=0, max=10)
    ] = 0,
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
    """Prepare nuScenes-lidarseg: six cameras per scan, labels, voxel hashes, counts."""
    from pipeline.datasets.nuscenes import check_nuscenes, list_nuscenes
    from pipeline.options import PrepareConfig, image_size_hw

    console = Console()
    with clear_errors(console):
        chosen_splits, chosen = _words(splits) or (), _words(scenes)
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


@app.command("train")
def train_command(
    cache_root: CacheOption,
    run_root: Annotated[Path, typer.Option("--run", help="Folder of this run.", resolve_path=True)],
    recipe: Annotated[
        str, typer.Option(help="Name of a recipe (see --list-recipes) or a TOML file.")
    ] = "2dpass-small",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a setting, e.g. optimizer.learning_rate=0.1. Repeatable."
        ),
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="full (published), lattice (cached hashes stay exact), none.")
    ] = None,
    baseline_only: Annotated[
        bool, typer.Option("--baseline-only", help="Train the 3D network alone, without pictures.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --run.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, order and augmentation.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network from a prepared cache."""
    from train.loop import run
    from train.recipe import load_recipe, without_images

    console = Console()
    with clear_errors(console):
        short = {"augment.mode": augment, "seed": seed, "device": device}
        changes = [f"{key}={value}" for key, value in short.items() if value is not None]
        chosen = load_recipe(recipe, [*(overrides or []), *changes])
        if baseline_only:
            chosen = without_images(chosen)
        result = run(
            cache_root, chosen, run_root=run_root, resume=resume, progress=console, dataset=dataset
        )
        console.close()
        if os.environ.get("RANK", "0") != "0":
            pass  # of the processes that torchrun starts the first one speaks
        elif as_json:
            print_json(
                {
                    "run": str(result.run_root),
                    "best": str(result.best),
                    "last": str(result.last),
                    "epochs": result.epochs,
                    "steps": result.steps,
                    "best_miou": result.best_miou,
                    "is_complete": result.is_complete,
                    "stopped_by": result.stopped_by,
                }
            )
        else:
            score = "" if result.best_miou is None else f", best val mIoU {result.best_miou:.1%}"
            typer.echo(f"{result.epochs} epochs, {result.steps} steps{score}")
            typer.echo(f"best: {result.best}\nlast: {result.last}")
            if result.stopped_by in SIGNALS:
                typer.echo("stopped early and saved; the same command with --resume goes on")
        if result.stopped_by in SIGNALS:
            raise typer.Exit(SIGNALS[result.stopped_by])


SIGNALS = {"SIGINT": 130, "SIGTERM": 143}
"""Exit codes of a run that a signal ended."""

VotesOption = Annotated[
    str,
    typer.Option(help="Test-time augmentation: a number (published: 12), or lattice (8, exact)."),
]
OutsideOption = Annotated[
    str,
    typer.Option(help="Points outside the volume: nearest (predicted point's label) or ignore."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
CheckpointOption = Annotated[
    Path, typer.Option("--checkpoint", help="A .safetensors checkpoint.", resolve_path=True)
]


def _outside(word: str) -> Literal["nearest", "ignore"]:
    if word == "nearest":
        return "nearest"
    if word == "ignore":
        return "ignore"
    raise ConfigError(f"--outside must be nearest or ignore, got {word!r}")


@app.command("eval")
def eval_command(
    cache_root: CacheOption,
    checkpoint: CheckpointOption,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    sequences: Annotated[str | None, typer.Option(help="Only these, e.g. 08.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many scans.", min=1)] = None,
    votes: VotesOption = "1",
    outside: OutsideOption = "nearest",
    device: DeviceOption = "auto",
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a self-contained page.", resolve_path=True)
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder for PNGs of the worst and best scan.", resolve_path=True),
    ] = None,
) -> None:
    """Evaluate a checkpoint: IoU per class, mIoU and accuracy by both protocols."""
    from train.eval_pictures import write_pictures
    from train.eval_report import report_json, report_tables, write_html
    from train.evaluate import evaluate
    from train.team import choose_device
    from train.tta import parse_votes

    console = Console()
    with clear_errors(console):
        plan, chosen_device = parse_votes(votes), choose_device(device)
        report = evaluate(
            checkpoint,
            cache_root,
            split=split,
            dataset=dataset,
            sequences=_words(sequences),
            limit=limit,
            votes=plan,
            outside=_outside(outside),
            device=chosen_device,
            progress=console,
        )
        if html is not None:
            write_html(report, html)
            console.say(f"report: {html}")
        if pictures is not None:
            written = write_pictures(
                report, cache_root, pictures, dataset=dataset, votes=plan, device=chosen_device
            )
            console.say(f"pictures: {len(written)} in {pictures}")
        console.close()
        if as_json:
            print_json(report_json(report))
        else:
            print_rich(*report_tables(report))


@app.command("predict")
def predict_command(
    inputs: Annotated[
        Path, typer.Argument(help="A .bin file, or a folder of them.", resolve_path=True)
    ],
    checkpoint: CheckpointOption,
    out: Annotated[
        Path, typer.Option(help="Folder for the .label files.", resolve_path=True)
    ] = Path("predictions"),
    png: Annotated[
        bool, typer.Option("--png", help="Draw each scan from above and as a range image.")
    ] = False,
    votes: VotesOption = "1",
    outside: OutsideOption = "nearest",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing results.")
    ] = False,
    columns: Annotated[
        int | None, typer.Option(help="float32 numbers per point; the checkpoint's if left out.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Label raw point files with a checkpoint alone; raw ids for every point."""
    from train.predict import predict
    from train.team import choose_device
    from train.tta import parse_votes

    console = Console()
    with clear_errors(console):
        summary = predict(
            inputs,
            checkpoint,
            out,
            votes=parse_votes(votes),
            outside=_outside(outside),
            png=png,
            overwrite=overwrite,
            columns=columns,
            device=choose_device(device),
            progress=console,
        )
        console.close()
        if as_json:
            print_json(
                {
                    "out": str(summary.out),
                    "scans": summary.scans,
                    "points": summary.points,
                    "class_points": dict(
                        zip(summary.names, summary.class_points.tolist(), strict=True)
                    ),
                    "seconds": summary.seconds,
                    "scans_per_s": summary.scans_per_s,
                    "failed": [
                        {"file": str(failed.points), "reason": failed.reason}
                        for failed in summary.failed
                    ],
                    "notes": list(summary.notes),
                }
            )
        else:
            typer.echo(
                f"{summary.out}: {summary.scans} scans, {summary.points:,} points labelled, "
                f"{summary.scans_per_s:.1f} scans/s"
            )
        if summary.failed:
            raise typer.Exit(1)


@app.command("import")
def import_command(
    checkpoint: Annotated[
        Path, typer.Argument(help="A published .ckpt or .pt file.", resolve_path=True)
    ],
    out: Annotated[Path, typer.Option(help="The new .safetensors file.", resolve_path=True)],
    as_json: JsonOption = False,
) -> None:
    """Turn a published checkpoint into ours; nothing that the file says is executed."""
    from pipeline.datasets.known import known_datasets
    from train.import_published import import_checkpoint

    with clear_errors():
        report = import_checkpoint(checkpoint, out, datasets=known_datasets())
        if as_json:
            print_json({key: _plain(value) for key, value in asdict(report).items()})
            return
        settings = ", ".join(f"{key} {value}" for key, value in report.settings.items())
        typer.echo(
            f"{report.out}: {report.architecture} ({settings}) for {report.dataset}, "
            f"{report.n_classes} classes, {report.n_parameters:,} parameters for inference\n"
            f"{report.n_tensors} tensors converted, {len(report.set_aside)} set aside"
            f"{': ' if report.set_aside else ''}{', '.join(report.set_aside)}\n"
            f"{report.card}: the card, to read"
        )


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def main() -> None:
    """Entry point of the `pass2d` script."""
    # spconv asks torch a question whose answer torch announces to every user, once a run.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    # Torch's threads spin while they wait: on busy cores a step took several times the CPU.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()


if __name__ == "__main__":
    main()
