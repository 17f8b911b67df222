"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from pass2d.cache.urls import absolute_location, is_url
from pass2d.commands.wording import in_options
from pass2d.common.errors import ConfigError

DEFAULT_CACHE = "cache"
"""Default of --cache: the folder that `prepare` writes."""


def local_folder(text: str | Path) -> Path:
    """Read --cache where only a local folder is possible: a URL is refused."""
    _require_word("--cache", text)
    if is_url(str(text)):
        raise _refused(f"--cache {text}: this command needs a local folder. Copy the cache to one.")
    with _resolving("--cache", text):
        return Path(text).resolve()


def run_folder(text: str) -> Path:
    """Read --run: a local folder; a URL is refused, not treated as a path."""
    _require_word("--run", text)
    if is_url(text):
        raise _refused(f"--run {text}: a run must be on a local disk. Choose a folder.")
    with _resolving("--run", text):
        return Path(text).resolve()


def path_or_url(text: str | Path) -> str:
    """Read --cache where a URL is possible too: a path is made absolute."""
    _require_word("--cache", text)
    with _resolving("--cache", text):
        return absolute_location(str(text))


@contextmanager
def _resolving(option: str, text: str | Path) -> Iterator[None]:
    """Report what is wrong with a path, while it is made absolute, as one line."""
    try:
        yield
    except ConfigError as error:
        raise _refused(str(error)) from error
    except (OSError, RuntimeError) as error:  # no current folder, no home; links in a circle
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _refused(f"{option} {text}: {reason}. Give an absolute path.") from error


def _require_word(option: str, text: str | Path) -> None:
    """Refuse "", as from an unset variable, which would be the current folder."""
    if not str(text).strip():
        raise _refused(f"{option} is empty: give a folder, or leave the option out.")


def _refused(text: str) -> typer.Exit:
    """Report what is wrong with an option, unless it is being completed in the shell."""
    if "_PASS2D_COMPLETE" not in os.environ:
        typer.echo(in_options(f"error: {text}"), err=True)
    return typer.Exit(1)


CacheOption = Annotated[
    str,
    typer.Option(
        "--cache",
        help="Cache folder or its URL, e.g. s3://bucket/prefix.",
        parser=path_or_url,
        metavar="PATH|URL",
    ),
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Which data set, if the cache holds several.")
]


def _local_cache(text: str | None) -> None:
    if text is not None:
        if not text.strip() or is_url(text):
            raise typer.BadParameter(f"found {text!r}, expected a folder on a local disk")
        with _resolving("--local-cache", text):
            os.environ["PASS2D_LOCAL_CACHE"] = str(Path(text).expanduser().resolve())


def _local_cache_gb(size: float | None) -> None:
    if size is not None:
        os.environ["PASS2D_LOCAL_CACHE_GB"] = repr(size)


# Both are passed on in the environment to processes and workers.
LocalCacheOption = Annotated[
    str | None,
    typer.Option(
        "--local-cache",
        help="For a cache at a URL: folder for local copies. Also PASS2D_LOCAL_CACHE.",
        callback=_local_cache,
        metavar="DIR",
    ),
]
LocalCacheSizeOption = Annotated[
    float | None,
    typer.Option(
        "--local-cache-gb",
        help="Size limit of that folder in GB. Also PASS2D_LOCAL_CACHE_GB; defaults to 50.",
        callback=_local_cache_gb,
        min=0.000001,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
VotesOption = Annotated[
    str,
    typer.Option(
        help="Test-time augmentation: number of random votes (published: 12), lattice (8 exact "
        "ones), flips-rotations-scales (36 fixed ones) or flips-scales (10 fixed ones)."
    ),
]
OutsideOption = Annotated[
    str,
    typer.Option(
        help="Points outside the volume: nearest (label of the nearest predicted point) or ignore."
    ),
]
NprocOption = Annotated[
    int,
    typer.Option(
        min=1, help="Processes on this machine: one per GPU, or at most one per CPU core."
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Number type of .bin files: float32, float64, float32be or float64be (big endian). "
        "Detected by default.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="auto (the GPU if there is one), cpu, cuda or cuda:N.")
]
BackendOption = Annotated[
    str,
    typer.Option(
        help="Backend of the sparse convolutions: auto (suits the device), native, spconv, triton."
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="A .safetensors checkpoint. Defaults to the best network of the newest run in runs/.",
        resolve_path=True,
    ),
]


def outside_rule(word: str) -> Literal["nearest", "ignore"]:
    """Read --outside.

    Raises:
        ConfigError: another word.
    """
    if word == "nearest":
        return "nearest"
    if word == "ignore":
        return "ignore"
    raise ConfigError(f"--outside must be nearest or ignore, got {word!r}")
