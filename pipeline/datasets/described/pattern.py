"""Files that match a pattern with words in braces: "sequences/{sequence}/velodyne/{scan}.bin"."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pass2d.common.path_pattern import fill, path_expression


@dataclass(frozen=True, kw_only=True)
class Match:
    """A file and what the pattern's words are in its path."""

    path: str
    """Below the root."""
    words: dict[str, str]


@dataclass(kw_only=True)
class Folders:
    """The files below a root, with each folder read once."""

    root: Path
    closed: dict[str, str] = field(default_factory=dict)
    """Folders that cannot be read, and why."""
    _names: dict[str, tuple[frozenset[str], tuple[str, ...]]] = field(default_factory=dict)

    def matches(self, pattern: str) -> list[Match]:
        """All files of a pattern, sorted by path; hidden ones are left out."""
        return sorted(self._walk("", pattern.split("/"), {}), key=lambda match: match.path)

    def find(self, pattern: str, words: Mapping[str, str]) -> str | None:
        """The path of the file of a pattern whose words are known; None if it is not there.

        A ``*`` stands for any part of a name; the first file by name is taken.
        """
        filled = fill(pattern, words)
        folder, _, name = filled.rpartition("/")
        if "*" in folder:
            return next((match.path for match in self.matches(filled)), None)
        files, in_order = self._listed(folder)
        if "*" not in name:
            return filled if name in files else None
        found = next((one for one in in_order if fnmatch.fnmatchcase(one, _escape(name))), None)
        return None if found is None else f"{folder}/{found}".lstrip("/")

    def folders(self, pattern: str) -> Iterator[str]:
        """Paths of all folders of a pattern."""
        places: list[tuple[str, dict[str, str]]] = [("", {})]
        for part in pattern.split("/"):
            places = [
                (f"{folder}/{name}".lstrip("/"), {**words, **found.groupdict()})
                for folder, words in places
                for name in self._folders(folder)
                if (found := path_expression(part, words).fullmatch(name)) and name[0] != "."
            ]
        yield from (folder for folder, _ in places)

    def _walk(self, folder: str, parts: list[str], words: dict[str, str]) -> Iterator[Match]:
        part, rest = parts[0], parts[1:]
        expression = path_expression(part, words)
        files, in_order = self._listed(folder)
        folders = self._folders(folder)
        # A folder that has a file's name is listed: whoever reads it says what is wrong with it.
        misnamed = set(folders) if "." in part else set()
        for name in folders if rest else sorted({*in_order, *misnamed}):
            found = expression.fullmatch(name)
            if found is None or name.startswith("."):
                continue
            path = f"{folder}/{name}".lstrip("/")
            known = {**words, **found.groupdict()}
            if rest:
                yield from self._walk(path, rest, known)
            elif name in files or name in misnamed:
                yield Match(path=path, words=known)

    def _listed(self, folder: str) -> tuple[frozenset[str], tuple[str, ...]]:
        """Names of a folder that are no folders."""
        if folder not in self._names:
            self._read(folder)
        return self._names[folder]

    def _folders(self, folder: str) -> tuple[str, ...]:
        self._listed(folder)
        return self._names[f"{folder}/"][1]

    def _read(self, folder: str) -> None:
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else files).append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self.closed[folder] = (error.strerror or type(error).__name__).lower()
        self._names[folder] = frozenset(files), tuple(sorted(files))
        self._names[f"{folder}/"] = frozenset(folders), tuple(sorted(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _escape(name: str) -> str:
    """A name in which only ``*`` is a wildcard."""
    return name.replace("[", "[[]").replace("?", "[?]")
