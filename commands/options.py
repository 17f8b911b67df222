"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cache.errors import ConfigError

CacheOption = Annotated[
    Path,
    typer.Option("--cache", help="Cache folder; holds one folder per data set.", resolve_path=True),
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
