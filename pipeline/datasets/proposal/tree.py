"""The files below a folder, and the patterns that their paths follow."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from string import ascii_lowercase
from typing import TypeVar

from pass2d.common.errors import DataError
from pass2d.common.files import other_than_folder
from pass2d.common.path_pattern import placeholders
from pass2d.pipeline.datasets.described.pattern import Match
from pass2d.pipeline.datasets.described.splits import SPLIT_FOLDERS
from pass2d.pipeline.datasets.proposal.notes import Notes
from pass2d.points.packed import PACKED, file_bytes

MOST_FILES = 200_000
_LOOKED_AT = 8
_DIGITS = re.compile(r"\d+")
_FEW_KINDS = 4
_WORDS = {"{split}", "{sequence}", *(f"{{folder_{letter}}}" for letter in ascii_lowercase)}
"""What folders may become."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Name:
    """A file's name, cut into what is common to its kind and what names the scan."""

    before: str
    scan: str
    after: str
    """With the suffix."""

    @property
    def pattern(self) -> str:
        """With {scan}."""
        return f"{self.before}{{scan}}{self.after}"


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files below a root."""

    root: Path
    names: dict[str, Name]
    """By path below the root, sorted."""
    is_cut: bool = False
    """Whether there are more files than are looked at."""
    closed: tuple[str, ...] = ()
    """Folders that cannot be read, and why."""
    unnamed: int = 0
    """Files and folders left out, as no pattern can hold their names."""
    by_scan: dict[str, list[tuple[str, Name]]] = field(default_factory=dict)
    """Paths, and how they are cut, by what may name the scan: a part of the name, or its stem."""

    def beside(self, looked_at: Sequence[Match], suffixes: Sequence[str]) -> Counter[str]:
        """Patterns of files that belong to scans, and to how many.

        A file of a scan of that name in another sequence is none of this one's: its pattern is a
        case of a more general one, and left out.

        Args:
            looked_at: points of scans.
            suffixes: of the files, in lower case.
        """
        points = {match.path for match in looked_at}
        counts: Counter[str] = Counter()
        for match in looked_at:
            files = self.by_scan.get(match.words["scan"], ())
            counts.update(
                {
                    self._pattern(path, name, match.words)
                    for path, name in files
                    if plain_suffix(path) in suffixes and path not in points
                }
            )
        most = max((len(placeholders(pattern)) for pattern in counts), default=0)
        general = [  # one without a word for a folder has no cases
            pattern
            for pattern in counts
            if len(placeholders(pattern)) == most and not _WORDS.isdisjoint(pattern.split("/"))
        ]
        return Counter(
            {p: n for p, n in counts.items() if not any(_is_case(p, of=q) for q in general)}
        )

    def _pattern(self, path: str, name: Name, words: Mapping[str, str]) -> str:
        """A path with the words of a scan in place of what they stand for."""
        values = {value: f"{{{word}}}" for word, value in words.items() if word != "scan"}
        folders = [values.get(part, part) for part in PurePosixPath(path).parts[:-1]]
        return "/".join([*folders, name.pattern])


def _is_case(pattern: str, *, of: str) -> bool:
    """Whether a pattern is another one with names in place of some words."""
    pairs = list(zip(pattern.split("/"), of.split("/"), strict=False))
    return (
        pattern != of
        and pattern.count("/") == of.count("/")
        and all(here == there or there in _WORDS for here, there in pairs)
    )


def plain_suffix(path: str) -> str:
    """The suffix that says the format, in lower case and without ``.gz``."""
    return PurePosixPath(path.lower().removesuffix(PACKED)).suffix


def spread(items: Sequence[T], most: int = _LOOKED_AT) -> list[T]:
    """Some of them at equal distances, the first among them."""
    step = max(1, -(-len(items) // most))
    return list(items[::step])


def read_tree(root: Path) -> Tree:
    """List the files below a folder; hidden ones and loops of links are left out.

    Raises:
        DataError: no such folder.
    """
    if other := other_than_folder(root):
        raise DataError(f"{root}: {other}. Expected a folder of point files.")
    folders: dict[str, list[str]] = {}
    seen: set[str] = set()
    count = unnamed = 0
    closed: list[str] = []

    def note(error: OSError) -> None:
        closed.append(f"{error.filename}: {(error.strerror or str(error)).lower()}")

    for place, below, files in os.walk(root, followlinks=True, onerror=note):
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        unnamed += sum(not _is_text(name) for name in (*below, *files))
        below[:] = sorted(name for name in below if not name.startswith(".") and _is_text(name))
        shown = sorted(name for name in files if not name.startswith(".") and _is_text(name))
        folders[Path(place).relative_to(root).as_posix()] = shown[: max(0, MOST_FILES - count)]
        count += len(shown)
    names = {
        (PurePosixPath(folder) / name).as_posix(): cut
        for folder, files in folders.items()
        for name, cut in zip(files, _cut(files), strict=True)
    }
    by_scan: dict[str, list[tuple[str, Name]]] = defaultdict(list)
    for path, name in names.items():
        for cut in dict.fromkeys((name, _whole(path))):
            by_scan[cut.scan].append((path, cut))
    return Tree(
        root=root,
        names=names,
        is_cut=count > MOST_FILES,
        closed=tuple(closed),
        unnamed=unnamed,
        by_scan=dict(by_scan),
    )


def unnamed_words(tree: Tree) -> str:
    """How many names no pattern can hold."""
    return f"{tree.unnamed:,} names with braces, stars or unprintable characters"


def _is_text(name: str) -> bool:
    """Whether a name can stand in a description: UTF-8, and no braces of its own."""
    return name.isprintable() and not set("{}*") & set(name)


def read_or_say(file: Path, notes: Notes) -> bytes | None:
    """The bytes of a file; None, and a note, where it cannot be read."""
    try:
        return file_bytes(file)
    except DataError as error:
        notes.unknown.append(f"files: {error}")
        return None


def size_of(file: Path) -> int:
    """Bytes of a file; 0 where it cannot be looked at, such as a link to nothing."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _cut(names: Sequence[str]) -> list[Name]:
    """Cut the names of one folder: from the first to the last number that differs is the scan.

    Where names of one suffix follow many kinds (such as hashes) all of the stem is.
    """
    kinds: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
    for name in names:
        stem, suffix = _stem(name)
        kinds[suffix, _DIGITS.sub("#", stem)].append(_DIGITS.findall(stem))
    n_kinds = Counter(suffix for suffix, _ in kinds)
    varying = {
        kind: [
            place for place, values in enumerate(zip(*runs, strict=True)) if len(set(values)) > 1
        ]
        for kind, runs in kinds.items()
    }
    found = []
    for name in names:
        stem, suffix = _stem(name)
        kind = suffix, _DIGITS.sub("#", stem)
        runs = list(_DIGITS.finditer(stem))
        places = varying[kind] or list(range(len(runs)))
        if n_kinds[suffix] > _FEW_KINDS or not runs:
            found.append(_whole(name))
        else:
            first, last = runs[places[0]].start(), runs[places[-1]].end()
            found.append(
                Name(before=stem[:first], scan=stem[first:last], after=stem[last:] + suffix)
            )
    return found


def _whole(path: str) -> Name:
    """A name of which all of the stem names the scan."""
    stem, suffix = _stem(PurePosixPath(path).name)
    return Name(before="", scan=stem, after=suffix)


def _stem(name: str) -> tuple[str, str]:
    suffix = PurePosixPath(name.lower().removesuffix(PACKED)).suffix
    length = len(suffix) + (len(PACKED) if name.lower().endswith(PACKED) else 0)
    return (name[:-length], name[-length:]) if length else (name, "")


def common_pattern(paths: Sequence[str], tree: Tree) -> str:
    """One pattern for files of one kind and depth: differing folders become words.

    A folder that is a number is a sequence, also where there is only one.
    """
    rows = [PurePosixPath(path).parts[:-1] for path in paths]
    columns = [sorted(set(column)) for column in zip(*rows, strict=True)]
    words: list[str] = [
        _split_word(values) or (_SEQUENCE if len(values) > 1 or _is_number(values[0]) else "")
        for values in columns
    ]
    places = [place for place, word in enumerate(words) if word == _SEQUENCE]
    numbers = [place for place in places if len(columns[place]) == 1]
    if len(numbers) < len(places):  # a lone number is no sequence where others differ
        for place in numbers:
            words[place] = ""
        places = [place for place in places if words[place]]
    for n, place in enumerate(places):
        if len(places) > 1:
            words[place] = f"folder_{ascii_lowercase[n % 26]}"
    if words.count("split") > 1:
        raise DataError(f"{tree.root}: folders of splits are nested; describe it by hand.")
    folders = [f"{{{word}}}" if word else values[0] for word, values in zip(words, columns)]  # noqa: B905  of one length
    patterns = {tree.names[path].pattern for path in paths}
    name = patterns.pop()
    if patterns:  # names begin in other ways from folder to folder
        name = _whole(next(iter(paths))).pattern
    return "/".join([*folders, name])


_SEQUENCE = "sequence"


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _split_word(names: Sequence[str]) -> str:
    """What a place is called whose names are all those of splits, of more than one."""
    known = {name for of_split in SPLIT_FOLDERS.values() for name in of_split}
    return "split" if len(names) > 1 and set(names) <= known else ""
