"""Scans of corruption sets, ready to be counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.columns import other_content
from pass2d.cache.clouds.nowhere import FARTHEST_M, plausible_points
from pass2d.cache.clouds.volume import inside_volume
from pass2d.cache.keys import hash_bytes
from pass2d.cache.motion import motion_lookup
from pass2d.cache.reader import CacheReader
from pass2d.cache.rows import SourceFile
from pass2d.cache.schema import UNKNOWN_LABEL, DatasetInfo, ScanRecord
from pass2d.cache.source_state import change_words, source_state
from pass2d.common.errors import DataError, UnknownLabelError
from pass2d.common.files import read_whole
from pass2d.corruptions.registry import benchmark_table
from pass2d.points.binary import BinaryOptions, read_binary
from pass2d.train.data.positions import evenly_spaced
from pass2d.train.inference.passes import OutsidePolicy
from pass2d.train.inference.scans import CachedScans, EvalScan, eval_scan, record_input
from pass2d.train.robustness.folders import CorruptedFolder, CorruptedScan
from pass2d.train.robustness.robo3d import CLEAN


@dataclass(frozen=True, kw_only=True)
class ScanSet:
    """One corruption at one severity: S scans that can be loaded one by one, in any thread."""

    corruption: str
    severity: str
    """"" where the set knows none."""
    names: tuple[str, ...]
    """(S,) of the scans, for messages and for what a later run compares."""
    load: Callable[[int], EvalScan]
    """Loads scan i; raises DataError when its files cannot be used."""

    @property
    def title(self) -> str:
        """E.g. "fog light"."""
        return f"{self.corruption} {self.severity}".strip()


@dataclass(frozen=True, kw_only=True)
class CleanFiles:
    """What a prepared cache of the clean data set knows of files by the names of point files."""

    tokens: dict[str, str]
    labels: dict[str, SourceFile]


def clean_files(reader: CacheReader, *, split: str) -> CleanFiles:
    """Tokens and label files of a split's scans."""
    tokens, labels = {}, {}
    for position in reader.select(split=split).tolist():
        files = {file.role: file for file in reader.sources(position) if file.path}
        name = Path(files["points"].path).name if "points" in files else ""
        tokens[name] = str(reader.scans.token[position])
        if "labels" in files:
            labels[name] = files["labels"]
    return CleanFiles(tokens=tokens, labels=labels)


def cached_set(
    cached: CachedScans, positions: NDArray[np.int64], *, limit: int | None = None
) -> ScanSet:
    """The scan set of a prepared data set, as long as its reader is open.

    Args:
        cached: Of a clean or a corrupted data set.
        positions: Labelled scans.
        limit: At most so many of them, spread evenly.
    """
    reader = cached.reader
    chosen = positions[evenly_spaced(len(positions), limit)].tolist()

    def load(place: int) -> EvalScan:
        return eval_scan(*cached.read(chosen[place], label=True), place=place)

    corruption = reader.info.corruption
    return ScanSet(
        corruption=CLEAN if corruption is None else corruption.name,
        severity="" if corruption is None else corruption.severity,
        # With the fingerprint: counts of an earlier run serve only for the same data.
        names=tuple(f"{reader.fingerprint}/{reader.scans.scan_id[p]}" for p in chosen),
        load=load,
    )


def folder_set(
    folder: CorruptedFolder,
    info: DatasetInfo,
    *,
    uses_volume: bool,
    outside: OutsidePolicy,
    finds_nearest: bool = True,
    clean: CleanFiles | None = None,
    limit: int | None = None,
    layout: BinaryOptions | None = None,
) -> ScanSet:
    """The scan set of a folder.

    Args:
        folder: Of `find_corrupted`.
        info: Of the checkpoint: label table, volume, columns.
        uses_volume: Whether the network sees only the points inside the volume.
        outside: What the other points are given.
        finds_nearest: See `record_input`.
        clean: Where labels and tokens are found that the set lacks.
        limit: At most so many scans, spread evenly.
        layout: Of the point files; by default as many columns as make a point per label.
    """
    table = label_lookup(info)
    scans = [folder.scans[place] for place in evenly_spaced(len(folder.scans), limit)]

    def load(place: int) -> EvalScan:
        labels = _labels_of(scans[place], folder, clean)
        record = read_corrupted(scans[place].points, labels, info, table=table, layout=layout)
        seen = record_input(
            record, uses_volume=uses_volume, outside=outside, finds_nearest=finds_nearest
        )
        return eval_scan(record, seen, place=place)

    return ScanSet(
        corruption=folder.corruption,
        severity=folder.severity,
        # With size and time: counts of an earlier run serve only for the same files.
        names=tuple(_file_states(scan, folder, clean) for scan in scans),
        load=load,
    )


def _labels_of(scan: CorruptedScan, folder: CorruptedFolder, clean: CleanFiles | None) -> Path:
    if scan.labels is not None:
        return scan.labels
    name = scan.points.name
    if clean is not None:
        by_token = folder.other_labels.get(clean.tokens.get(name, ""))
        if by_token is not None:
            return by_token
        if (file := clean.labels.get(name)) is not None:
            if source_state(file, hash_contents=True) == "changed":
                raise DataError(
                    f"{file.path}: {change_words(file)}. Run `prepare` of the clean data set again."
                )
            return Path(file.path)
    remedy = (
        "is `clean` the cache of the same scans?" if clean else "give `clean`, a prepared cache"
    )
    raise DataError(
        f"{scan.points}: no label file of that name beside it. Corruptions that keep the points "
        f"share the labels of the clean set: {remedy}"
    )


def _file_states(scan: CorruptedScan, folder: CorruptedFolder, clean: CleanFiles | None) -> str:
    """A scan's files with size and time."""
    files = [scan.points]
    with contextlib.suppress(DataError):  # said when the scan is loaded
        files.append(_labels_of(scan, folder, clean))
    words = []
    for file in files:
        with contextlib.suppress(OSError):
            stat = file.stat()
            words.append(f"{file} {stat.st_size} {stat.st_mtime_ns}")
    return "\n".join(words)


def label_lookup(info: DatasetInfo) -> NDArray[np.uint8]:
    """(65536,) as `LabelTable.training_lookup`; added noise that the table lacks is 0."""
    lookup = info.labels.training_lookup()
    table = benchmark_table(info)
    for raw in () if table is None else table.noise_labels():
        lookup[raw] = 0 if lookup[raw] == UNKNOWN_LABEL else lookup[raw]
    return lookup


def read_corrupted(
    points_file: Path,
    labels_file: Path,
    info: DatasetInfo,
    *,
    table: NDArray[np.uint8],
    layout: BinaryOptions | None = None,
) -> ScanRecord:
    """Read a scan and its labels as `prepare` would.

    Raises:
        DataError: A file cannot be read, or the two do not belong together.
        UnknownLabelError: A raw id that neither the label table nor the set's noise has.
    """
    by_labels = _layout_by_labels(points_file, labels_file, info)
    read = read_binary(points_file, layout or by_labels)
    points = read.points
    if layout is None and (found := other_content(points.tobytes(), read.layout)):
        raise DataError(
            f"{points_file}: {found}; expected {read.layout}, by the number of its labels. Copy or "
            "download it again, or name its `columns` and `dtype`."
        )
    if points.shape[1] < 4:
        raise DataError(
            f"{points_file}: {read.layout}: x, y, z without a signal; at least 4 numbers per point "
            "are expected. Is it a file of such a set?"
        )
    raw = _read_labels(labels_file, len(points))
    labels = table[raw]
    if (is_unknown := labels == UNKNOWN_LABEL).any():
        unknown = sorted(set(raw[is_unknown].tolist()))[:5]
        raise UnknownLabelError(
            f"{labels_file}: raw label {', '.join(map(str, unknown))} is not in the table of "
            f"{info.name}. Is it a label file of another data set?"
        )
    if not (np.isfinite(points[:, 3]).all() and plausible_points(points[:, :3].T).all()):
        raise DataError(
            f"{points_file}: points that are not finite, or beyond {FARTHEST_M:.0f} m. Is the file "
            "whole?"
        )
    xyz = np.ascontiguousarray(points[:, :3].T, np.float32)
    inside = inside_volume(xyz, grid=info.grid)
    rows, others = np.flatnonzero(inside), np.flatnonzero(~inside)
    motion = motion_lookup(info.labels, info.facts)[raw] if info.facts.moving else None
    signal = points[:, 3].astype(np.float32)
    return ScanRecord(
        scan_id=f"{points_file.parent.name}/{points_file.name}",
        n_raw=len(points),
        xyz=xyz[:, rows],
        signal=signal[rows],
        raw_index=rows.astype(np.int32),
        label=labels[rows],
        outside_xyz=xyz[:, others],
        outside_signal=signal[others],
        outside_label=labels[others],
        motion=None if motion is None else motion[rows],
        outside_motion=None if motion is None else motion[others],
    )


def _layout_by_labels(points_file: Path, labels_file: Path, info: DatasetInfo) -> BinaryOptions:
    """Sets keep 4 or 5 columns: as many as make a point per label."""
    try:
        points, labels = points_file.stat().st_size, labels_file.stat().st_size
    except OSError:
        return BinaryOptions(usual=info.raw_columns)
    fitting = [n for n in (info.raw_columns, 4, 5) if points in (n * labels, 4 * n * labels)]
    return BinaryOptions(usual=info.raw_columns, columns=fitting[0] if fitting else None)


def _read_labels(path: Path, n: int) -> NDArray[np.uint32]:
    """(N,) raw ids: uint32 with an instance id in the high half, or uint8 as nuScenes has them."""
    try:
        data = read_whole(path)
    except OSError as error:
        raise DataError(f"{path}: the labels cannot be read: {error.strerror}") from error
    if len(data) == 4 * n:
        return np.frombuffer(data, "<u4") & np.uint32(0xFFFF)
    if len(data) == n:
        return np.frombuffer(data, np.uint8).astype(np.uint32)
    raise DataError(
        f"{path}: {len(data)} bytes, but the scan has {n} points: expected {4 * n} (uint32) or "
        f"{n} (uint8). Do the two files belong together?"
    )


def names_digest(names: Sequence[str]) -> str:
    """A short hash of which scans were evaluated."""
    return hash_bytes("\n".join(names).encode())[:16]


def corruption_words(wanted: Sequence[str]) -> list[str]:
    """Names of corruptions as folders and tables have them: "Wet-Ground" is "wet_ground"."""
    return [name.lower().replace("-", "_").replace(" ", "_") for name in wanted]


def require_sets(sets: Sequence[ScanSet], wanted: Sequence[str] | None) -> tuple[ScanSet, ...]:
    """Only the corruptions that were asked for, and the clean scans if there are any.

    Raises:
        DataError: One of them is not there.
    """
    if wanted is None:
        return tuple(sets)
    there = {chosen.corruption for chosen in sets}
    names = corruption_words(wanted)
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"`corruptions`: no {', '.join(missing)} in this set; there are "
            f"{', '.join(sorted(there))}."
        )
    return tuple(chosen for chosen in sets if chosen.corruption in (*names, CLEAN))
