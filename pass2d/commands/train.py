"""`pass2d train`: a network from a cache."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pass2d.commands.console import Console, clear_errors, plain, print_json, print_rich
from pass2d.commands.options import (
    DEFAULT_CACHE,
    CacheOption,
    DatasetOption,
    JsonOption,
    LocalCacheOption,
    LocalCacheSizeOption,
    NprocOption,
    run_folder,
)
from pass2d.commands.processes import start_processes
from pass2d.commands.signals import EXIT_CODES
from pass2d.common.text import counted

if TYPE_CHECKING:
    from pass2d.train.loop import TrainResult


_MEMORY = (
    "GPU memory of the recipes is not measured. Where one does not fit, halve --set batch_size= "
    "and double --set accumulate=: a step sees as many scans."
)


def _list_recipes(is_asked: bool) -> None:
    if not is_asked:
        return
    from rich.table import Table

    from pass2d.train.recipes.files import recipe_names, recipe_summary

    table = Table("recipe", "what", caption=_MEMORY)
    for name in recipe_names():
        table.add_row(name, recipe_summary(name))
    with clear_errors():
        print_rich(table)
    raise typer.Exit


def _recipe_names() -> list[str]:
    from pass2d.train.recipes.files import recipe_names

    return list(recipe_names())


def train_command(
    context: typer.Context,
    cache_root: CacheOption = DEFAULT_CACHE,
    run_root: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Local folder of this run. Defaults to a new one, runs/RECIPE-DATE-TIME.",
            parser=run_folder,
            metavar="FOLDER",
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="A recipe's name (see --list-recipes) or a TOML file.",
            autocompletion=_recipe_names,
        ),
    ] = "2dpass-small",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a setting, e.g. optimizer.learning_rate=0.1. May be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="full (published), noise (full, with half of the scans in bad weather), lattice "
            "(symmetries that keep the cached hashes exact) or none."
        ),
    ] = None,
    baseline_only: Annotated[
        bool, typer.Option("--baseline-only", help="Train the 3D network alone, without pictures.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume the run in --run, or the newest one with these settings in runs/. Starts "
            "a new run if there is none.",
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Random seed of weights, order and augmentation.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto (the GPU if there is one), cpu, cuda or cuda:N.")
    ] = None,
    dataset: DatasetOption = None,
    local_cache: LocalCacheOption = None,
    local_cache_gb: LocalCacheSizeOption = None,
    nproc: NprocOption = 1,
    as_json: JsonOption = False,
    list_recipes: Annotated[  # its callback ends the command
        bool,
        typer.Option(
            "--list-recipes",
            help="List the recipes and exit.",
            is_eager=True,
            callback=_list_recipes,
        ),
    ] = False,
) -> None:
    """Train a network from a prepared cache."""
    start_processes(context, nproc)
    from pass2d.common.progress import Silent
    from pass2d.train.distributed.process_group import is_follower
    from pass2d.train.loop import run
    from pass2d.train.recipes.recipe import load_recipe, without_images

    console = Console()
    with clear_errors(console, is_silent=is_follower()):
        short = {"augment.mode": augment, "seed": seed, "device": device}
        changes = [f"{key}={value}" for key, value in short.items() if value is not None]
        voice = Silent() if is_follower() else console
        chosen = load_recipe(recipe, [*(overrides or []), *changes], progress=voice)
        if baseline_only:
            chosen = without_images(chosen)
    with clear_errors(console):
        result = run(
            cache_root, chosen, run_root=run_root, resume=resume, progress=console, dataset=dataset
        )
        console.close()
        if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one speaks
            _say_result(result, as_json=as_json)
            if result.stopped_by in signal.Signals.__members__:
                typer.echo(
                    f"stopped early by {result.stopped_by} and saved; run the same command with "
                    "--resume to continue",
                    err=True,
                )
        if result.stopped_by in signal.Signals.__members__:
            raise typer.Exit(EXIT_CODES[signal.Signals[result.stopped_by]])


def _say_result(result: TrainResult, *, as_json: bool) -> None:
    if as_json:
        print_json({key: plain(value) for key, value in asdict(result).items()})
        return
    score = "" if result.best_miou is None else f", best val mIoU {result.best_miou:.1%}"
    typer.echo(f"{counted(result.epochs, 'epoch')}, {counted(result.steps, 'step')}{score}")
    typer.echo(f"best: {result.best}\nlast: {result.last}")
