"""Finds the labels, their type and their raw ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError, Pass2DError
from pass2d.pipeline.datasets.described.pattern import Folders, Match
from pass2d.pipeline.datasets.described.sources import load_description, preset_names
from pass2d.pipeline.datasets.proposal.notes import GUESS, Notes, text_of
from pass2d.pipeline.datasets.proposal.points import Cloud, PointFiles
from pass2d.pipeline.datasets.proposal.tree import Tree, plain_suffix, read_or_say, size_of, spread
from pass2d.pipeline.stages.read_described import label_array
from pass2d.points.registry import SOME_POINTS, read_columns

SUFFIXES = (".label", ".labels", ".npy", ".npz", ".bin", ".seg")
_TYPES = {1: ("u1", "i1"), 2: ("u2", "i2"), 4: ("u4", "i4"), 8: ("i8",)}
"""Of a number of so many bytes, the likeliest first."""
_FLOATS = {4: "float32", 8: "float64"}
_TIMES_SMALLER = 16
"""Ids in big-endian order are so much smaller than what they look like in the other."""
_NAMES = ("label", "class", "semantic", "sem", "category", "truth", "gt")
_LOW = 0xFFFF
_MOST_IDS = 250
_MOST_READ = 400
"""Scans of which the ids are counted."""
_LARGE_ID = 40
_NOTHING = (0, 255, 65535, -1)


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """Files with a number per point."""

    pattern: str
    kind: str
    """NumPy type; "" if the file states it: `.npy`, `.npz`."""
    has_instances: bool
    """Whether instance ids are above the low 16 bits."""
    is_upper: bool = False
    """Whether the raw ids are above the low 16 bits, which are 0."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The proposal for labels."""

    lines: tuple[str, ...]
    files: str = ""
    """Pattern; "" for a column of the points, or none."""
    are_there: bool = True

    def has(self, tree: Tree, match: Match) -> bool:
        """Whether a scan has labels."""
        if not self.are_there or not self.files:
            return self.are_there
        return Folders(root=tree.root).find(self.files, match.words) is not None


def sizes_beside(tree: Tree, looked_at: Sequence[Match]) -> list[int]:
    """Bytes of the label file of each opened scan, to derive its number of points; 0: unknown."""
    patterns = candidates(tree, looked_at, suffixes=(".label", ".labels"))
    folders = Folders(root=tree.root)
    sizes = []
    for match in looked_at:
        path = folders.find(patterns[0], match.words) if patterns else None
        sizes.append(size_of(tree.root / path) if path else 0)
    return sizes


def candidates(
    tree: Tree, looked_at: Sequence[Match], *, suffixes: Sequence[str] = SUFFIXES
) -> list[str]:
    """Patterns of files beside the points, the commonest and best named first."""
    counts = tree.beside(looked_at, suffixes)

    def rank(pattern: str) -> tuple[int, bool, str]:
        is_named = any(name in pattern.lower() for name in _NAMES)
        return -counts[pattern], not is_named, pattern

    return sorted(counts, key=rank)


def find_labels(tree: Tree, files: PointFiles, cloud: Cloud, notes: Notes) -> Labels:
    """`[labels]`, `[ignored]` and a `[[class]]` per raw id; a comment where there are no labels."""
    matches, looked_at = files.matches, files.looked_at
    column = next((name for name in cloud.scans[0].names if _is_label(name)), None)
    if column is not None:
        notes.guessed.append(f"labels: the column {column} of the points, by its name")
        ids, n = _ids_of_columns(tree.root, matches, column, notes)
        head = ("[labels]", f"column = {text_of(column)}{GUESS}")
        return Labels(lines=(*head, *_classes(ids, n, matches, notes)))
    fitting = []
    # An archive may hold both points and labels.
    beside = [files.pattern] if plain_suffix(files.pattern) == ".npz" else []
    for pattern in [*candidates(tree, looked_at), *beside]:
        found = _label_files(tree.root, pattern, looked_at, cloud, notes)
        if found is not None:
            fitting.append(found)
    if not fitting:
        notes.unknown.append("labels: no files of one number per point, no column of such a name")
        return Labels(lines=("# no labels were found", ""), are_there=False)
    chosen = fitting[0]
    kind = f"{chosen.kind} per point" if chosen.kind else "a number per point"
    notes.found.append(f"labels: {chosen.pattern}, {kind}")
    for other in fitting[1:]:
        notes.guessed.append(f"labels: {other.pattern} would fit, too")
    lines = ["[labels]", f"files = {text_of(chosen.pattern)}"]
    if chosen.kind:
        lines.append(f'dtype = "{chosen.kind}"')
    if chosen.is_upper:
        lines.append(f"shift = 16{GUESS}")
        notes.guessed.append("labels: the raw id above the low 16 bits, which are 0")
    elif chosen.has_instances:
        lines += [f"mask = 0xFFFF{GUESS}", f"instance = {{ shift = 16 }}{GUESS}"]
        notes.guessed.append("labels: the raw id in the low 16 bits, an instance id above them")
    ids, n = _ids_of_files(tree.root, chosen, matches, notes)
    return Labels(lines=(*lines, *_classes(ids, n, matches, notes)), files=chosen.pattern)


def _is_label(name: str) -> bool:
    return any(part in name.lower() for part in ("label", "class", "semantic", "categor"))


def _label_files(
    root: Path, pattern: str, looked_at: Sequence[Match], cloud: Cloud, notes: Notes
) -> LabelFiles | None:
    """The contents at a pattern, if they are one number per point of the opened scans."""
    folders = Folders(root=root)
    found: list[tuple[bytes, Path, int]] = []
    for match, scan in zip(looked_at, cloud.scans, strict=True):
        path = folders.find(pattern, match.words)
        data = None if path is None else read_or_say(root / path, notes)
        if path is not None and data is not None and scan.n:
            found.append((data, root / path, scan.n + scan.left_out))
    if not found:
        return None
    if plain_suffix(pattern) in (".npy", ".npz"):
        return _npy_files(pattern, found)
    sizes = {len(data) / n for data, _, n in found}
    if len(sizes) != 1 or (size := sizes.pop()) not in _TYPES:
        return None
    return _typed_files(pattern, b"".join(data for data, _, _ in found), int(size), notes)


def _typed_files(pattern: str, data: bytes, size: int, notes: Notes) -> LabelFiles | None:
    """The type of numbers of so many bytes."""
    if name := _FLOATS.get(size):
        real = np.frombuffer(data, f"<f{size}")
        if real.any() and _are_ids(real):
            notes.unknown.append(
                f"labels: {pattern} seems to hold {name}; write whole numbers, such as uint16"
            )
            return None
    for kind in _TYPES[size]:
        values, swapped = np.frombuffer(data, f"<{kind}"), np.frombuffer(data, f">{kind}")
        largest = int(values.max(initial=0))
        if not (values.astype(np.int64) & _LOW).any():
            largest >>= 16
        if int(swapped.max(initial=0)) < largest // _TIMES_SMALLER and _are_ids(swapped):
            return _files(pattern, f">{kind}", swapped)
        if _are_ids(values):
            return _files(pattern, kind, values)
    return None


def _npy_files(pattern: str, found: Sequence[tuple[bytes, Path, int]]) -> LabelFiles | None:
    arrays = []
    for data, path, n in found:
        try:
            array = label_array(path, data)
        except DataError:
            return None
        if array.size != n or array.dtype.kind not in "biuf":
            return None
        arrays.append(array.reshape(-1))
    values = np.concatenate(arrays)
    return _files(pattern, "", values) if _are_ids(values) else None


def _files(pattern: str, kind: str, values: NDArray[np.generic]) -> LabelFiles:
    ids = values.astype(np.int64)
    has_more = bool(ids.max(initial=0) > _LOW)
    is_upper = has_more and not (ids & _LOW).any() and len(np.unique(ids)) <= _MOST_IDS
    return LabelFiles(pattern=pattern, kind=kind, has_instances=has_more, is_upper=is_upper)


def _are_ids(values: NDArray[np.generic]) -> bool:
    """Whether these are few different whole numbers, or such in their low 16 bits."""
    if values.dtype.kind == "f":
        real = values.astype(np.float64)
        if not (np.isfinite(real) & (real == np.floor(real)) & (np.abs(real) < _LOW)).all():
            return False
        if real.any() and np.abs(real[real != 0]).min() < 1:
            return False
    ids = values.astype(np.int64)
    if ids.max(initial=0) > _LOW:
        ids = ids & _LOW
    return bool(ids.min(initial=0) >= -(1 << 15)) and len(np.unique(ids)) <= _MOST_IDS


def _ids_of_files(
    root: Path, files: LabelFiles, matches: Sequence[Match], notes: Notes
) -> tuple[Counter[int], int]:
    """Raw ids and their points, and of how many scans."""
    folders, counts, n = Folders(root=root), Counter[int](), 0
    for match in spread(matches, _MOST_READ):
        path = folders.find(files.pattern, match.words)
        data = None if path is None else read_or_say(root / path, notes)
        if path is None or data is None:
            continue
        order = "" if files.kind.startswith(">") else "<"
        kind = np.dtype(f"{order}{files.kind}") if files.kind else None
        if kind is not None:
            values = np.frombuffer(data, kind, count=len(data) // kind.itemsize)
        else:
            try:
                values = label_array(root / path, data).reshape(-1)
            except DataError as error:
                notes.unknown.append(f"labels: {error}")
                continue
        ids = values.astype(np.int64)
        n += 1
        if files.is_upper:
            ids = ids >> 16
        _count(counts, ids & _LOW if files.has_instances else ids)
    return counts, n


def _ids_of_columns(
    root: Path, matches: Sequence[Match], column: str, notes: Notes
) -> tuple[Counter[int], int]:
    counts, n, left_out = Counter[int](), 0, 0
    for match in spread(matches, _MOST_READ // 4):
        try:
            scan = read_columns(root / match.path, SOME_POINTS)
        except Pass2DError as error:
            notes.unknown.append(f"points: a file cannot be read: {error}")
            continue
        if column in scan.names:
            values = scan.values[scan.names.index(column)]
            n += 1
            left_out += scan.left_out
            _count(counts, values[np.isfinite(values)].astype(np.int64))
    if left_out:
        notes.guessed.append(
            f"classes: ids of {left_out:,} other points of these scans were not counted; a check "
            "finds more"
        )
    return counts, n


def _fitting_tables(ids: set[int]) -> list[str]:
    """Presets whose raw ids take in all of these; few small numbers would fit any."""
    if max(ids, default=0) < _LARGE_ID:
        return []
    known = {name: load_description(name) for name in preset_names()}
    return [
        name
        for name, one in known.items()
        if one.labels is not None
        and ids <= {*one.ignored.raw, *(raw for part in one.classes for raw in part.raw)}
    ]


def _count(counts: Counter[int], ids: NDArray[np.int64]) -> None:
    found, points = np.unique(ids, return_counts=True)
    counts.update(dict(zip(found.tolist(), points.tolist(), strict=True)))


def _classes(
    counts: Mapping[int, int], n: int, matches: Sequence[Match], notes: Notes
) -> list[str]:
    if len(counts) > _MOST_IDS:
        notes.unknown.append(
            f"classes: {len(counts):,} raw ids are too many: is it another column, dtype or mask?"
        )
        return ["# unnamed ids: too many for classes", ""]
    seen = ", ".join(f"{raw} ({points:,})" for raw, points in sorted(counts.items()))
    notes.found.append(f"classes: raw ids (points) of {n:,} scans: {seen}")
    if n < min(len(matches), _MOST_READ):
        notes.found.append(f"labels: {len(matches) - n:,} scans have none")
    elif n < len(matches):
        notes.guessed.append(
            f"classes: ids of {len(matches) - n:,} other scans were not counted; a check finds more"
        )
    notes.unknown.append(
        "classes: what the raw ids mean; they are called class N until you name them"
    )
    if fitting := _fitting_tables(set(counts)):
        notes.unknown.append(
            f"classes: all ids are among those of {', '.join(fitting)}; if it is one of them, "
            f'like = "{fitting[0]}" in [dataset] names them, without the classes below'
        )
    nothing = [raw for raw in _NOTHING if raw in counts][:1] if len(counts) > 1 else []
    if nothing:
        notes.guessed.append(f"classes: {nothing[0]} is assumed to mean points of no class")
    lines = ["", "[ignored]", f"raw = {nothing}{GUESS if nothing else ''}", ""]
    for raw, points in sorted(counts.items()):
        if raw not in nothing:
            lines += [
                "[[class]]",
                f'name = "class {raw}"{GUESS} {points:,} points',
                f"raw = [{raw}]",
                "",
            ]
    return lines
