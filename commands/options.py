"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cache.errors import ConfigError
from cache.place import absolute_place, is_url


def run_place(text: str) -> Path:
    """Read --run: a local folder; a URL is refused, not taken for a path."""
    if is_url(text):
        typer.echo(f"error: --run {text}: a run lies on a local disk. Choose a folder.", err=True)
        raise typer.Exit(1)
    return Path(text).resolve()


def any_place(text: str | Path) -> str:
    """Read --cache where a URL will do, too: a path is made absolute."""
    return absolute_place(str(text))


ReadCacheOption = Annotated[
    str,
    typer.Option(
        "--cache",
        help="Cache folder, or the URL of one, e.g. s3://bucket/prefix.",
        parser=any_place,
        metavar="PATH|URL",
    ),
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Data set in the cache, if it holds several.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
VotesOption = Annotated[
    str,
    typer.Option(help="Test-time augmentation: a number (published: 12), or lattice (8, exact)."),
]
OutsideOption = Annotated[
    str,
    typer.Option(help="Points outside the volume: nearest (predicted point's label) or ignore."),
]
NprocOption = Annotated[
    int,
    typer.Option(
        min=1, help="Processes on this machine, one per GPU; on a CPU as many as it has cores for."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
CheckpointOption = Annotated[
    Path, typer.Option("--checkpoint", help="A .safetensors checkpoint.", resolve_path=True)
]


def outside_rule(word: str) -> Literal["nearest", "ignore"]:
    """Read --outside."""
    if word == "nearest":
        return "nearest"
    if word == "ignore":
        return "ignore"
    raise ConfigError(f"--outside must be nearest or ignore, got {word!r}")
