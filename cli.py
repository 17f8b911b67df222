"""The `pass2d` command: read options, call one function, print, set the exit code.

Nothing heavy is imported here before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cache.errors import ConfigError
from cli_cache import CacheOption, DatasetOption, JsonOption, cache_app
from cli_console import Console, clear_errors, print_json, print_rich, words
from cli_prepare import prepare_app

if TYPE_CHECKING:
    from train.loop import TrainResult

app = typer.Typer(
    name="pass2d",
    help="LiDAR semantic segmentation: prepare once, then train, evaluate and predict.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(prepare_app, name="prepare")
app.add_typer(cache_app, name="cache")


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
        if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one speaks
            _say_result(result, as_json=as_json)
        if result.stopped_by in SIGNALS:
            raise typer.Exit(SIGNALS[result.stopped_by])


def _say_result(result: TrainResult, *, as_json: bool) -> None:
    if as_json:
        print_json({key: _plain(value) for key, value in asdict(result).items()})
        return
    score = "" if result.best_miou is None else f", best val mIoU {result.best_miou:.1%}"
    typer.echo(f"{result.epochs} epochs, {result.steps} steps{score}")
    typer.echo(f"best: {result.best}\nlast: {result.last}")
    if result.stopped_by in SIGNALS:
        typer.echo("stopped early and saved; the same command with --resume goes on")


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
            sequences=words(sequences),
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
