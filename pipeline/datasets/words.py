"""Help of the command line for each data set, read from its TOML alone to keep `--help` fast."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CommandWords:
    """The table ``command`` of a data set's TOML."""

    name: str
    title: str
    help: str
    root: str
    """What --root takes."""
    usual_root: str
    """A place where it often lies."""
    sequences: str
    """An example of --sequences."""
    options: tuple[str, ...] = ()
    """Of the reader's own options those that it has."""


def table_files() -> tuple[Path, ...]:
    """The TOML files of all data sets, first the one that says `is_default`."""
    files = Path(__file__).parent.glob("*.toml")
    return tuple(sorted(files, key=lambda file: (not read_once(file).get("is_default"), file.name)))


def read_table(file: Path) -> dict[str, Any]:
    """A TOML file; one that says ``like`` starts from the one of that name beside it.

    Raises:
        OSError, UnicodeDecodeError, TOMLDecodeError: it cannot be read, or is no TOML.
    """
    import tomllib  # not for `--help`

    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    like = raw.pop("like", None)
    return raw if like is None else _merged(read_table(file.with_name(f"{like}.toml")), raw)


read_once = functools.cache(read_table)
"""The same, of files that do not change meanwhile."""


def _merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Tables key by key; what is no table is replaced."""
    both = {key for key in more if isinstance(more[key], dict) and isinstance(base.get(key), dict)}
    return {**base, **more, **{key: _merged(base[key], more[key]) for key in both}}


def command_words(file: Path) -> CommandWords:
    """Read them from a file that `load_table` takes."""
    raw = read_once(file)
    title, words = raw["facts"]["title"], raw.get("command", {})
    return CommandWords(
        name=raw["name"],
        title=title,
        help=words.get("help", f"Prepare {title}."),
        root=words.get("root", f"Folder of {title}."),
        usual_root=next(iter(raw.get("usual_roots", ())), f"dataset/{raw['name']}"),
        sequences=words.get("sequences", "00,08"),
        options=tuple(words.get("options", ())),
    )


def words_by_name(files: Sequence[Path]) -> dict[str, CommandWords]:
    """Of several files."""
    return {words.name: words for words in map(command_words, files)}
