"""Recipe files: the names that come with pass2d, and the table in a file; loads no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass2d.common.errors import ConfigError
from pass2d.common.files import NO_PERMISSION, read_whole
from pass2d.common.plain import require_known
from pass2d.common.progress import Progress, Silent
from pass2d.train.recipes.renames import renamed_settings

RECIPES = Path(__file__).parent
_LONGEST_NAME = 1000
EXTENDS = "extends"
"""Key of a recipe file that names the recipe whose settings it changes."""


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with pass2d."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def recipe_summary(name: str) -> str:
    """What the comment at the top of such a recipe says, as one line."""
    words = []
    for line in (RECIPES / f"{name}.toml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.removeprefix("#").strip())
    return " ".join(words)


def read_table(
    name_or_path: str, *, below: tuple[Path, ...] = (), progress: Progress | None = None
) -> dict[str, Any]:
    """A recipe's table merged into that of the recipe it extends, with current names.

    Args:
        name_or_path: the recipe.
        below: those that extend it.
        progress: receives old names.

    Raises:
        ConfigError: it cannot be read.
    """
    progress = progress or Silent()
    path = Path(name_or_path)
    if path.suffix != ".toml":
        require_known(name_or_path, recipe_names(), where="recipe", what="name")
        path = RECIPES / f"{name_or_path}.toml"
    if path.resolve() in (other.resolve() for other in below):
        raise ConfigError(f"{path}: {EXTENDS} itself by way of {below[-1]}")
    try:
        table = tomllib.loads(read_whole(path).decode("utf-8-sig"))
    except PermissionError as error:
        raise ConfigError(f"{path}: {NO_PERMISSION}.") from error
    except OSError as error:
        raise ConfigError(f"{path}: the recipe cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no TOML, no text, a number without end
        reason = "nested too deeply" if isinstance(error, RecursionError) else f"{error!s:.200}"
        raise ConfigError(f"{path}: not a TOML file: {reason}") from error
    table, notes = renamed_settings(table)
    for note in notes:
        progress.say(f"{path}: {note}")
    base = table.pop(EXTENDS, None)
    if base is None:
        return table
    return _merged(_base_table(path, base, below=below, progress=progress), table)


def _base_table(
    path: Path, base: Any, *, below: tuple[Path, ...], progress: Progress
) -> dict[str, Any]:
    if not isinstance(base, str):
        raise ConfigError(
            f"{path}: {EXTENDS} must name another recipe, got a {type(base).__name__}"
        )
    if len(base) > _LONGEST_NAME or "\0" in base:
        raise ConfigError(f"{path}: {EXTENDS} must name another recipe, got {base[:60]!r}")
    name = str(path.parent / base) if base.endswith(".toml") else base
    table = read_table(name, below=(*below, path), progress=progress)
    table.pop("name", None)
    return table


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        is_table = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(old, value) if is_table else value  # type: ignore[arg-type]
    return merged
