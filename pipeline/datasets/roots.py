"""Finds a raw data set without --root: by an environment variable, else in usual locations."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pass2d.cache.urls import is_url
from pass2d.common.errors import ConfigError
from pass2d.common.files import may_not_look, other_than_folder
from pass2d.pipeline.datasets.table import DatasetTable

Locate = Callable[[Path], Path | None]
"""The actual data folder of a root (links resolved); None if it is not one of its roots."""


@dataclass(frozen=True, kw_only=True)
class FoundRoot:
    """The root of a raw data set that was found."""

    root: Path
    reason: str
    """Why this one, as readable text."""


def find_root(
    table: DatasetTable,
    locate: Locate,
    *,
    sign: str,
    environment: Mapping[str, str] = os.environ,
    here: Path | None = None,
) -> FoundRoot:
    """Find a raw data set for which no root is given.

    Args:
        table: names the data set and its usual places.
        locate: whether a folder is a root of it.
        sign: what such a folder holds, for the message.
        environment: the variable PASS2D_NAME goes before all places.
        here: the folder below which they are; the current one when None.

    Raises:
        ConfigError: the variable names no data set, or it is in none of the usual locations.
    """
    variable = f"PASS2D_{table.info.name.upper()}"
    if (value := environment.get(variable)) is not None:
        return FoundRoot(root=_named_root(variable, value), reason=f"from {variable}")
    here = Path.cwd() if here is None else here
    there = list(dict.fromkeys(_entries(here, table.usual_roots)))
    found: dict[Path, Path] = {}  # of two ways to the same data the first one counts
    for folder in there:
        if other_than_folder(folder) is None and (data := locate(folder)) is not None:
            found.setdefault(data, folder)
    if not found:
        raise ConfigError(_nowhere(table, variable, sign, here, there))
    root, *others = found.values()
    reason = "this folder holds it" if root == here else "found below the current folder"
    if others:
        also = ", ".join(_shown(folder, here) for folder in others)
        reason = f"the first usual location with it; also {also}: `root` chooses"
    return FoundRoot(root=root.resolve(), reason=reason)


def _named_root(variable: str, value: str) -> Path:
    remedy = "Set it to the data set's folder, unset it, or give `root`."
    if not value.strip():
        raise ConfigError(f"{variable} is set, but empty. {remedy}")
    if is_url(value):
        raise ConfigError(f"{variable}={value}: expected a folder on a local disk. {remedy}")
    root = Path(os.path.expanduser(value))  # noqa: PTH111  of no known user it stays as it is
    if (what := other_than_folder(root)) is not None:
        raise ConfigError(f"{variable}={value}: {what}. {remedy}")
    return root.resolve()


def _entries(here: Path, places: tuple[str, ...]) -> Iterator[Path]:
    """What is there of those paths, in their order."""
    for place in places:
        found = [here]
        for part in PurePosixPath(place).parts:
            found = [folder / name for folder in found for name in _alike(folder, part)]
        yield from found


def _alike(folder: Path, wanted: str) -> list[str]:
    """Names in a folder that differ from the wanted one at most in case, "-" and "_"."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir(folder)  # noqa: PTH208  names only
    return sorted(name for name in names if _plain(name) == _plain(wanted))


def _plain(name: str) -> str:
    return re.sub("[-_ ]", "", name).casefold()


def _nowhere(table: DatasetTable, variable: str, sign: str, here: Path, there: list[Path]) -> str:
    name = table.info.name
    places = ", ".join("itself" if place == "." else place for place in table.usual_roots)
    text = (
        f"`root` is not given, {variable} is not set, and no usual location below {here} holds "
        f"{name} ({sign}); looked in {places}, in any case."
    )
    if empty := [_shown(path, here) + _state(path) for path in there if path != here]:
        text += f" Found, but without it: {', '.join(empty)}."
    return f"{text} Name it: `prepare_{name}(root=FOLDER)`; or first export {variable}=FOLDER"


def _state(path: Path) -> str:
    what = other_than_folder(path)
    if what is None and may_not_look(path):
        what = "no permission to read it"
    return "" if what is None else f" ({what})"


def _shown(folder: Path, here: Path) -> str:
    return "the current folder" if folder == here else str(folder.relative_to(here))
