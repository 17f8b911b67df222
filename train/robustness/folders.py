"""Finds the scans of corruption sets as they were downloaded, however their folders are nested.

Of each file's path the folders that name a kind of file (`velodyne`, `labels`, `pointcloud`, ...)
or a sequence are left out; the last that remain are the corruption and, if there is one, its
severity:

    SemanticKITTI-C/fog/velodyne/000000.bin                     Yan et al.: clean and 16 corruptions
    SemanticKITTI-C/fog/light/velodyne/000000.bin               Robo3D
    nuScenes-C/pointcloud/fog/light/n015-...__LIDAR_TOP__....pcd.bin
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pass2d.common.errors import DataError
from pass2d.common.files import other_than_folder
from pass2d.train.robustness.robo3d import CLEAN, CORRUPTIONS, SEVERITIES

POINT_FOLDERS = frozenset(
    {"velodyne", "velodyne_points", "pointcloud", "pointclouds", "points", "lidar", "lidar_top"}
)
LABEL_FOLDERS = frozenset({"labels", "label", "lidarseg", "semantic"})
OTHER_FOLDERS = frozenset({"sequences", "dataset", "samples", "sweeps", "val", "validation"})
_SEQUENCE = re.compile(r"\d\d|v1\.0-\w+")
YAN = "SemanticKITTI-C (Yan et al.)"
_SEVERITY_NUMBERS = {"1": "light", "2": "moderate", "3": "heavy"}


@dataclass(frozen=True, kw_only=True)
class CorruptedScan:
    """A scan's files."""

    points: Path
    labels: Path | None
    """None: not beside the points."""


@dataclass(frozen=True, kw_only=True)
class CorruptedFolder:
    """The scans of one corruption at one severity."""

    corruption: str
    """In lower case with underscores; "clean" without one."""
    severity: str
    """"light", "moderate", "heavy"; "" for sets that know none."""
    scans: tuple[CorruptedScan, ...]
    other_labels: dict[str, Path]
    """Label files whose name no point file has, by that name: nuScenes names them by token."""


def find_corrupted(root: Path) -> tuple[CorruptedFolder, ...]:
    """Find all corruptions below a folder.

    Args:
        root: Of the set, or of a single corruption.

    Raises:
        DataError: No such folder, or no point files in it.
    """
    if other := other_than_folder(root):
        raise DataError(f"{root}: {other}. `root` is the folder of SemanticKITTI-C or nuScenes-C.")
    points: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    labels: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for path in _files(root):
        corruption, severity, scan = _place(path)
        found = (labels if _is_label(path.relative_to(root)) else points)[corruption, severity]
        if scan in found:
            raise DataError(
                f"{path} and {found[scan]}: the same scan of {corruption} {severity} twice. "
                "Expected <corruption>/velodyne, or <corruption>/<severity>/velodyne with one of "
                f"{', '.join(SEVERITIES)}."
            )
        found[scan] = path
    if not points:
        raise DataError(
            f"{root}: no point files (.bin) found. Expected <corruption>/velodyne/*.bin with "
            "<corruption>/labels/*.label (Yan et al.), or <corruption>/<severity>/... (Robo3D)."
        )
    return tuple(
        CorruptedFolder(
            corruption=corruption,
            severity=severity,
            scans=tuple(
                CorruptedScan(points=path, labels=labels[corruption, severity].get(key))
                for key, path in sorted(found.items())
            ),
            other_labels={
                key.rsplit("/", 1)[-1]: path
                for key, path in labels[corruption, severity].items()
                if key not in found
            },
        )
        for (corruption, severity), found in sorted(points.items(), key=lambda item: _rank(item[0]))
    )


def set_name(folders: Sequence[CorruptedFolder], *, title: str) -> str:
    """The published set that folders belong to, for reports: only Robo3D's has severities."""
    has_severities = any(folder.severity for folder in folders)
    return YAN if YAN.startswith(f"{title}-C") and not has_severities else f"{title}-C (Robo3D)"


def unknown_single(folders: Sequence[CorruptedFolder], root: Path) -> str:
    """The name of the corruption where the root itself holds the scans and Robo3D has none of it.

    Returns:
        "" for a set with a folder for each corruption, or a single one by Robo3D's name.
    """
    name, _, _ = _place(root / "scan.bin")
    is_known = name in (CLEAN, *CORRUPTIONS)
    return "" if is_known or name not in {folder.corruption for folder in folders} else name


def _files(root: Path) -> list[Path]:
    found = []
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith((".", "__MACOSX")))
        found += [
            Path(folder) / name
            for name in sorted(files)
            if name.lower().endswith((".bin", ".label")) and not name.startswith(".")
        ]
    return found


def _is_label(path: PurePath) -> bool:
    name = path.name.lower()
    if name.endswith((".label", "_lidarseg.bin")):
        return True
    return any(part.lower() in LABEL_FOLDERS for part in path.parts[:-1])


def _place(path: PurePath) -> tuple[str, str, str]:
    """Corruption, severity and the scan's name of a file, by its whole path."""
    kept: list[str] = []
    rest: list[str] = []
    for part in path.parts[:-1]:
        name = part.lower().replace("-", "_").replace(" ", "_")
        if name in POINT_FOLDERS | LABEL_FOLDERS | OTHER_FOLDERS:
            continue
        (rest if _SEQUENCE.fullmatch(part) else kept).append(name)
    severity, last = "", kept[-1] if kept else ""
    if last in SEVERITIES or (last in _SEVERITY_NUMBERS and len(kept) > 1):
        severity = _SEVERITY_NUMBERS.get(last, last)
        kept.pop()
    return kept[-1] if kept else "", severity, "/".join([*rest, _stem(path.name)])


def _stem(name: str) -> str:
    for suffix in ("_lidarseg.bin", ".pcd.bin", ".bin", ".label"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _rank(place: tuple[str, str]) -> tuple[int, str, int]:
    """Clean first, then Robo3D's order, then the others by name; severities light to heavy."""
    corruption, severity = place
    order = [CLEAN, *CORRUPTIONS]
    first = order.index(corruption) if corruption in order else len(order)
    return first, corruption, SEVERITIES.index(severity) if severity in SEVERITIES else -1
