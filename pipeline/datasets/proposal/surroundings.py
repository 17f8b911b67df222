"""Splits, pictures with their calibration, and poses, as far as names and files show them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path, PurePosixPath

import numpy as np

from pass2d.cache.statistics import SPLITS
from pass2d.common.errors import DataError
from pass2d.common.files import read_whole
from pass2d.common.json import parse
from pass2d.pipeline.datasets.described.cameras import Calibrations
from pass2d.pipeline.datasets.described.description import (
    CalibPart,
    CameraPart,
    PointsPart,
    SplitPart,
    SplitsPart,
)
from pass2d.pipeline.datasets.described.pattern import Match
from pass2d.pipeline.datasets.described.poses import read_poses
from pass2d.pipeline.datasets.described.splits import SPLIT_FOLDERS, NamedScan, split_scans
from pass2d.pipeline.datasets.proposal.notes import GUESS, Notes, list_of, text_of
from pass2d.pipeline.datasets.proposal.tree import Tree, plain_suffix
from pass2d.pipeline.problem import ProblemError

_PICTURES = (".png", ".jpg", ".jpeg")
_LISTS = (".txt", ".lst", ".csv")
_VAL_SHARE = 0.2
_MOST_TRIED = 20


def split_lines(
    tree: Tree, scans: Sequence[NamedScan], *, labelled: Set[str], notes: Notes
) -> list[str]:
    """`[splits]`: by folders, lists, whole sequences, or a share of the only one.

    Args:
        tree: the files, lists among them.
        scans: by sequence and frame.
        labelled: sequences with labels.
        notes: are added to.
    """
    folders = {scan.folder for scan in scans} - {""}
    if folders:
        known = {
            split: sorted(folders & set(names))
            for split, names in SPLIT_FOLDERS.items()
            if folders & set(names)
        }
        notes.found.append(f"splits: by the folders {', '.join(sorted(folders))}")
        return _splits({k: f"folders = {list_of(v)}" for k, v in known.items()})
    if not labelled:
        notes.found.append("splits: without labels all scans are test")
        return _splits({"test": 'glob = "*"'})
    lists = _lists(tree, scans)
    if {"train", "val"} <= set(lists):
        notes.found.append(f"splits: by the lists {', '.join(lists.values())}")
        return _splits({split: f"list = {text_of(path)}" for split, path in lists.items()})
    counts = Counter(scan.sequence for scan in scans if scan.sequence in labelled)
    others = sorted({scan.sequence for scan in scans} - labelled)
    if others:
        notes.found.append(f"splits: sequences without labels are test: {', '.join(others[:12])}")
    test = {"test": f"sequences = {list_of(others)}"} if others else {}
    if len(counts) < 2 and not others:
        notes.guessed.append("splits: the last fifth of the scans for val")
        return _splits({"train": "share = 0.8", "val": "share = 0.2"}, GUESS)
    names = list(counts)
    val: list[str] = []
    while len(names) > 1 and sum(counts[name] for name in val) < _VAL_SHARE * counts.total():
        val.insert(0, names.pop())
    if not val:
        notes.unknown.append(f"splits: no labelled sequence is left for val beside {names[0]}")
        return _splits({"train": f"sequences = {list_of(names)}", **test}, GUESS)
    notes.guessed.append(f"splits: the last of the sequences for val: {', '.join(val)}")
    return _splits(
        {"train": f"sequences = {list_of(names)}", "val": f"sequences = {list_of(val)}", **test},
        GUESS,
    )


def _splits(parts: Mapping[str, str], mark: str = "") -> list[str]:
    return [f"[splits]{mark}", *(f"{name} = {{ {text} }}" for name, text in parts.items()), ""]


def _lists(tree: Tree, scans: Sequence[NamedScan]) -> dict[str, str]:
    """Files that name scans of the split that their own name says."""
    found: dict[str, str] = {}
    for path in tree.names:
        stem = PurePosixPath(path).stem.lower()
        if plain_suffix(path) not in _LISTS or len(PurePosixPath(path).parts) > 2:
            continue
        for split in SPLITS:
            words = re.split("[^a-z]+", stem)
            if split in found or not set(SPLIT_FOLDERS[split]) & set(words):
                continue
            part = SplitPart(list=path)
            parts = SplitsPart(**{split: part})
            try:
                owner, _ = split_scans(scans, parts, root=tree.root)
            except DataError:
                continue
            if owner:
                found[split] = path
    return found


def camera_lines(
    tree: Tree, looked_at: Sequence[Match], points: PointsPart, notes: Notes
) -> list[str]:
    """A `[[camera]]` per series of pictures; commented out without a calibration that fits."""
    words = looked_at[0].words
    lines: list[str] = []
    for pattern, n in sorted(tree.beside(looked_at, _PICTURES).items()):
        if n < len(looked_at) / 4:
            continue
        found = next(_calibrations(tree, words, pattern, points), None)
        camera = text_of(pattern)
        if found is None:
            notes.unknown.append(f"pictures: {pattern}; no matching calibration was found")
            lines += ["# [[camera]]", f"# files = {camera}", "# calib = { kind = ... }"]
        else:
            text, said = found
            notes.guessed.append(
                f"pictures: {pattern}, projected by {said}: check the drawn pictures"
            )
            lines += ["[[camera]]", f"files = {camera}", f"calib = {text}{GUESS}"]
    return [*lines, ""] if lines else []


def _calibrations(
    tree: Tree, words: Mapping[str, str], picture: str, points: PointsPart
) -> Iterator[tuple[str, str]]:
    """TOML of calibrations that can be a camera's, and what to say of each."""
    for path in _near(tree, words, (".txt", ".json", ".yaml", ".yml")):
        pattern = _generic(path, words)
        if "calib" in path.lower() and plain_suffix(path) == ".txt":
            tried = _kitti(tree.root / path, pattern, picture)
        elif plain_suffix(path) == ".json":
            tried = _json(tree.root / path, pattern)
        else:
            continue
        for part, text in tried:
            camera = CameraPart(files=f"{{scan}}{plain_suffix(picture)}", calib=part)
            reader = Calibrations(root=tree.root, points=points)
            if not isinstance(reader.of(0, camera, words), ProblemError):
                yield text, path


def _near(tree: Tree, words: Mapping[str, str], suffixes: Sequence[str]) -> list[str]:
    """Files that are not of one scan, and not of another sequence; the nearest first."""
    mine = set(words.values())
    found = []
    for path, name in tree.names.items():
        if plain_suffix(path) not in suffixes:
            continue
        is_shared = len(tree.by_scan[name.scan]) < _MOST_TRIED or not name.scan.isdecimal()
        hits = len(mine & {*PurePosixPath(path).parts, PurePosixPath(path).stem})
        if is_shared:
            found.append((-hits, path))
    return [path for _, path in sorted(found)][:_MOST_TRIED]


def _generic(path: str, words: Mapping[str, str]) -> str:
    """A path with the words of a scan in place of whole names."""
    values = {value: f"{{{word}}}" for word, value in words.items() if word != "scan"}
    parts = [values.get(part, part) for part in PurePosixPath(path).parts]
    last = PurePosixPath(path)
    if last.stem in values:
        parts[-1] = values[last.stem] + last.suffix
    return "/".join(parts)


def _kitti(file: Path, pattern: str, picture: str) -> Iterator[tuple[CalibPart, str]]:
    """The projection whose number the picture's folder has, else the first that is there."""
    try:
        text = read_whole(file).decode(errors="replace")
    except OSError:
        return
    names = [line.partition(":")[0].strip() for line in text.splitlines() if ":" in line]
    matrices = [name for name in names if re.fullmatch(r"P\d", name)]
    number = re.findall(r"\d+", PurePosixPath(picture).parent.name)
    matrices.sort(key=lambda name: (not number or int(number[-1]) != int(name[1:]), name))
    for extrinsic in [name for name in names if name in ("Tr", "Tr_velo_to_cam")]:
        for matrix in matrices:
            part = CalibPart(kind="kitti", file=pattern, matrix=matrix, extrinsic=extrinsic)
            yield (
                part,
                f'{{ kind = "kitti", file = {text_of(pattern)}, matrix = "{matrix}", extrinsic = '
                f'"{extrinsic}" }}',
            )


def _json(file: Path, pattern: str) -> Iterator[tuple[CalibPart, str]]:
    """Every pair of 3x3 intrinsics and a rigid matrix of one parent."""
    try:
        value = parse(read_whole(file).decode("utf-8-sig"))
    except (OSError, ValueError):
        return
    matrices = dict(_matrices(value, ()))
    for key, size in matrices.items():
        for other, other_size in matrices.items():
            if size != 9 or other_size not in (12, 16) or key[:-1] != other[:-1]:
                continue
            is_turned = bool(re.search("lidar_from|to_lidar|cam2lidar", other[-1].lower()))
            t_is = "lidar_from_camera" if is_turned else "camera_from_lidar"
            part = CalibPart(
                kind="json",
                file=pattern,
                matrix=".".join(key),
                extrinsic=".".join(other),
                T_is="lidar_from_camera" if is_turned else "camera_from_lidar",
            )
            yield (
                part,
                f'{{ kind = "json", file = {text_of(pattern)}, matrix = {text_of(part.matrix)}, '
                f'extrinsic = {text_of(part.extrinsic)}, T_is = "{t_is}" }}',
            )


def _matrices(value: object, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Keys of 9, 12 or 16 numbers, and how many they are."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _matrices(item, (*key, str(name)))
    elif isinstance(value, list) and len(key) < 8:
        try:
            numbers = np.array(value, np.float64)
        except (ValueError, TypeError):
            for place, item in enumerate(value):
                yield from _matrices(item, (*key, str(place)))
            return
        if numbers.size in (9, 12, 16) and key:
            yield key, numbers.size


def pose_lines(
    tree: Tree,
    scans: Sequence[NamedScan],
    matches: Sequence[Match],
    *,
    has_camera: bool,
    notes: Notes,
) -> list[str]:
    """`[poses]` where each sequence has a file of 12 numbers per scan."""
    words, sequence = matches[0].words, scans[0].sequence
    n = sum(scan.sequence == sequence for scan in scans)
    for path in _near(tree, words, (".txt",)):
        if "pose" not in path.lower():
            continue
        try:
            poses = read_poses(tree.root / path)
        except (ProblemError, OSError):
            continue
        if len(poses) < n:
            continue
        frame = "camera" if has_camera else "lidar"
        notes.guessed.append(f"poses: {path}, of the {frame}")
        return [
            "[poses]",
            f"file = {text_of(_generic(path, words))}",
            f'frame = "{frame}"{GUESS}',
            "",
        ]
    return []
