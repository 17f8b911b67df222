"""Finds the point files, and their columns, unit, frame and volume."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.columns import (
    COLUMNS,
    DTYPES,
    PointLayout,
    column_bits,
    find_layout,
    makes_sense,
)
from pass2d.cache.clouds.frame_guess import UP, guess
from pass2d.cache.clouds.ground import some_rows
from pass2d.cache.clouds.likeness import FEWEST_POINTS, FULL_SCALES, TYPICAL_RANGE_M
from pass2d.common.errors import DataError, Pass2DError
from pass2d.pipeline.datasets.described.pattern import Folders, Match
from pass2d.pipeline.datasets.proposal.notes import GUESS, Notes, text_of
from pass2d.pipeline.datasets.proposal.tree import (
    Tree,
    common_pattern,
    plain_suffix,
    read_or_say,
    size_of,
    spread,
    unnamed_words,
)
from pass2d.points.binary import SUFFIX
from pass2d.points.columns import PointColumns, from_matrix
from pass2d.points.mapping import ROLES, UNITS_M, USUAL_NAMES
from pass2d.points.packed import file_bytes
from pass2d.points.registry import READERS, SOME_POINTS, read_columns
from pass2d.points.scan_file import FORMAT_WORDS

_FEWEST_POINTS, _FEWEST_BYTES = 16, 1024
_MANY_FOLDERS = 32
"""With files of one kind: of more, so many are looked at first."""
_NO_POINTS = re.compile(r"label|annot|pose|calib|time|oxts|imu|gps", re.IGNORECASE)
_SHORT = {"float32": "f4", "float64": "f8", "float32be": ">f4", "float64be": ">f8"}
_PLAIN_REACH_M = 8.0
"""Times the usual range that metres still may be."""
_CELL_M = 0.1
_WITHIN = (0.5, 99.5)
"""Percent of the points between which the volume and the field of view lie."""
_MOST_RINGS = 256
_SIGNAL_PARTS = ("intens", "refl", "remiss", "signal", "amplitude", "strength")


@dataclass(frozen=True, kw_only=True)
class PointFiles:
    """The point files of a folder."""

    pattern: str
    matches: tuple[Match, ...]
    """In the order of their paths."""
    looked_at: tuple[Match, ...]
    """Those of them that are opened."""


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The contents of the opened files."""

    scans: tuple[PointColumns, ...]
    """Columns by the names that the description has for them."""
    lines: tuple[str, ...]
    """Of `[points]`."""
    roles: dict[str, str]
    """x, y, z, signal to a name; the signal may be missing."""


def find_points(tree: Tree, notes: Notes) -> PointFiles:
    """Find the point files: of one format and depth, those with most bytes.

    Raises:
        DataError: there are none.
    """
    groups: dict[tuple[object, object], list[str]] = defaultdict(list)
    by_folder: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for path, name in tree.names.items():
        if plain_suffix(path) in (SUFFIX, *READERS):
            folder = PurePosixPath(path).parent.as_posix()
            kind = plain_suffix(path), name.before, name.after
            by_folder[folder, *kind].append(path)
    alike: dict[tuple[object, ...], list[list[str]]] = defaultdict(list)
    for (folder, *kind_of_name), paths in by_folder.items():
        alike[len(PurePosixPath(folder).parts), *kind_of_name].append(paths)
    for (depth, suffix, *_), folders in alike.items():
        for paths in _with_points(tree.root, folders):
            groups[depth, suffix] += paths
    if not groups:
        raise DataError(f"{tree.root}: {_nothing(tree, by_folder.values())}")
    ranked = sorted(groups.values(), key=lambda paths: -_bytes(tree.root, paths))
    pattern = common_pattern(ranked[0], tree)
    matches = Folders(root=tree.root).matches(pattern)
    notes.found.append(f"points: {pattern}, {len(matches):,} files")
    for others in ranked[1:]:
        notes.guessed.append(
            f"points: {len(others):,} other files such as {others[0]} look like points, too, and "
            "are left out"
        )
    wanted = set(ranked[0])
    if more := [match.path for match in matches if match.path not in wanted]:
        notes.unknown.append(
            f"points: {pattern} also matches {len(more):,} files such as {more[0]}; no "
            "pattern separates them: move them into another folder"
        )
    readable = [match for match in matches if match.path in wanted]
    said = len(notes.unknown)
    looked_at = _readable(tree.root, spread(readable), notes)
    if not looked_at:
        taken = {path for paths in ranked for path in paths}
        refused = [paths for paths in by_folder.values() if paths[0] not in taken]
        reasons = [note.rstrip(".") for note in notes.unknown[said:][:3]]
        reasons += [_refusal(tree.root / paths[len(paths) // 2]) for paths in refused[:3]]
        raise DataError(f"{tree.root}: none of the point files can be read. {'; '.join(reasons)}.")
    return PointFiles(pattern=pattern, matches=tuple(matches), looked_at=looked_at)


def _with_points(root: Path, folders: Sequence[list[str]]) -> Sequence[list[str]]:
    """Those of many folders with files of one kind that hold points, by a file of each.

    Of very many some are looked at first: where all of these do, or none, so do the rest.
    """

    def has_points(paths: list[str]) -> bool:
        return not _refusal(root / paths[len(paths) // 2])

    if len(folders) > _MANY_FOLDERS:
        some = {has_points(paths) for paths in spread(folders, _MANY_FOLDERS)}
        if len(some) == 1:
            return folders if some.pop() else ()
    return [paths for paths in folders if has_points(paths)]


def _nothing(tree: Tree, candidates: Collection[list[str]]) -> str:
    """Why no file is taken for points."""
    closed = f" Not looked into: {'; '.join(tree.closed[:3])}." if tree.closed else ""
    for paths in candidates:
        file = tree.root / paths[len(paths) // 2]
        n = sum(map(len, candidates))
        return (
            f"none of {n:,} files is read as points, e.g. {_refusal(file) or file}. Supported: "
            f"{FORMAT_WORDS}.{closed}"
        )
    kinds = Counter(plain_suffix(path) or path for path in tree.names)
    seen = ", ".join(kind for kind, _ in kinds.most_common(8)) or "nothing"
    seen += f", and {unnamed_words(tree)}" if tree.unnamed else ""
    return f"no point files ({FORMAT_WORDS}) below it; found {seen}.{closed}"


def _readable(root: Path, matches: Sequence[Match], notes: Notes) -> tuple[Match, ...]:
    """Those that can be read, all with the same columns."""
    found: list[Match] = []
    names: tuple[str, ...] | None = None
    for match in matches:
        file = root / match.path
        if plain_suffix(match.path) == SUFFIX:
            data = read_or_say(file, notes)
            if data is not None and len(data) >= _FEWEST_BYTES:
                found.append(match)
            elif data is not None:
                notes.unknown.append(f"files: {file}: hardly a point")
            continue
        try:
            columns = read_columns(file, SOME_POINTS)
        except Pass2DError as error:
            notes.unknown.append(f"files: {error}")
            continue
        if names not in (None, columns.names):
            notes.unknown.append(f"files: {file}: other columns: {', '.join(columns.names)}")
            continue
        names = columns.names
        found.append(match)
    return tuple(found)


def _bytes(root: Path, paths: Sequence[str]) -> float:
    some = spread(paths)
    return sum(size_of(root / path) for path in some) / len(some) * len(paths)


def _refusal(file: Path) -> str:
    """Why a file does not hold points, by its numbers; "" if it does."""
    if _NO_POINTS.search(file.stem):
        return f"{file}: its name suggests other contents"
    try:
        if plain_suffix(file.name) == SUFFIX:
            data = file_bytes(file, most=1 << 22)
            if not data:
                return f"{file}: empty"
            verdict = find_layout(data, usual=PointLayout(columns=4))
            if verdict.unusual is not None:
                return (
                    f"{file}: rows of {verdict.unusual.point_bytes} bytes or a part of it; "
                    f"{COLUMNS[0]} to {COLUMNS[-1]} columns of one type are read"
                )
            return f"{file}: its numbers are no coordinates" if verdict.is_noise else ""
        n = read_columns(file, SOME_POINTS).n
        return "" if n >= _FEWEST_POINTS else f"{file}: {n} points"
    except Pass2DError as error:
        return str(error).rstrip(".")


def read_cloud(root: Path, files: PointFiles, label_bytes: Sequence[int], notes: Notes) -> Cloud:
    """Read the opened files and identify their columns.

    Args:
        root: the patterns are below it.
        files: the points, those that are opened can be read.
        label_bytes: sizes of files with as many numbers as points, one per opened file; 0: none.
        notes: are added to.

    Raises:
        DataError: no columns can be x, y and z.
    """
    paths = [root / match.path for match in files.looked_at]
    if plain_suffix(files.pattern) == SUFFIX:
        return _binary_cloud(paths, label_bytes, notes)
    return _named_cloud([read_columns(path, SOME_POINTS) for path in paths], notes)


def _named_cloud(scans: Sequence[PointColumns], notes: Notes) -> Cloud:
    """Of files that name their columns, or have them in the usual order."""
    names = scans[0].names
    if all(name.isdecimal() for name in names):
        roles = dict(zip(ROLES, names, strict=False))
        notes.guessed.append(f"columns: {len(names)} without names: the first are x, y, z, signal")
        return Cloud(scans=tuple(scans), lines=(), roles=roles)
    roles, mapped = {}, {}
    for role in ROLES:
        usual = next((n for n in names if n.lower() in USUAL_NAMES[role]), None)
        alike = usual or next((n for n in names if _is_alike(n, role)), None)
        if alike is not None:
            roles[role] = alike
        if usual is None and alike is not None:
            mapped[role] = alike
            notes.guessed.append(f"columns: {alike} is taken for {role}, by its name")
    if lost := [role for role in ROLES[:3] if role not in roles]:
        raise DataError(
            f"no column of {', '.join(names)} can be {lost[0]} by its name. Write a description "
            "by hand and name it in map of [points]."
        )
    notes.found.append(f"columns: {', '.join(names)}")
    pairs = ", ".join(f"{role} = {text_of(name)}" for role, name in mapped.items())
    lines = (f"map = {{ {pairs} }}{GUESS}",) if mapped else ()
    return Cloud(scans=tuple(scans), lines=lines, roles=roles)


def _is_alike(name: str, role: str) -> bool:
    """Whether an unusual name may stand for x, y, z or the signal: "pos_x", "X [m]"."""
    if role == "signal":
        return any(part in name.lower() for part in _SIGNAL_PARTS)
    words = re.split(r"[^a-z]+", name.lower())
    return role in words and not {"n", "normal", "v", "velocity"} & set(words)


def _binary_cloud(paths: Sequence[Path], label_bytes: Sequence[int], notes: Notes) -> Cloud:
    data = [file_bytes(path) for path in paths]
    layout, is_clear = _layout(data, label_bytes)
    if layout is None:
        raise DataError(
            f"{paths[0]}: no number of columns of float32 or float64 fits the numbers of this file "
            "and its neighbours. Are they of several types? Write them as float32, or as .npy"
        )
    if is_clear:
        notes.found.append(f"columns: {layout}")
    else:
        notes.guessed.append(f"columns: {layout}; the numbers allow others")
    arrays = [
        np.frombuffer(
            one, layout.numpy_type, count=len(one) // layout.point_bytes * layout.columns
        ).reshape(-1, layout.columns)
        for one in data
    ]
    names = _column_names(arrays, notes)
    scans = tuple(
        replace(from_matrix(path, array), names=names)
        for path, array in zip(paths, arrays, strict=True)
    )
    mark = "" if is_clear else GUESS
    lines = [f"columns = [{', '.join(map(text_of, names))}]{mark}"]
    if layout.dtype != "float32":
        lines.append(f'dtype = "{_SHORT[layout.dtype]}"')
    return Cloud(
        scans=scans, lines=tuple(lines), roles={role: role for role in ROLES if role in names}
    )


def _layout(data: Sequence[bytes], label_bytes: Sequence[int]) -> tuple[PointLayout | None, bool]:
    """The layout of most files, else one that fits their sizes and those of the labels, if any."""
    usual = PointLayout(columns=4)
    verdicts = [find_layout(one, usual=usual).layout for one in data]
    clear = Counter(one for one in verdicts if one is not None)
    fitting = [
        layout
        for dtype in DTYPES
        for columns in COLUMNS
        for layout in [PointLayout(columns=columns, dtype=dtype)]
        if _fits(layout, data, label_bytes)
    ]
    if clear:
        best = clear.most_common(1)[0][0]
        return best, best in fitting or not fitting
    if not fitting:
        return None, False
    bits = {layout: np.mean([_bits(one, layout) for one in data]) for layout in fitting}
    return max(bits, key=bits.__getitem__), len(fitting) == 1


def _bits(data: bytes, layout: PointLayout) -> float:
    return float(column_bits(np.frombuffer(data, layout.numpy_type))[layout.columns])


def _fits(layout: PointLayout, data: Sequence[bytes], label_bytes: Sequence[int]) -> bool:
    """Whether all files hold whole points of a layout, with a label each where there are any."""
    for one, size in zip(data, label_bytes, strict=True):
        n, rest = divmod(len(one), layout.point_bytes)
        if rest or not n or not makes_sense(one, layout):
            return False
        if size and (size % n or size // n not in (1, 2, 4, 8)):
            return False
    return True


def _column_names(arrays: Sequence[NDArray[np.floating]], notes: Notes) -> tuple[str, ...]:
    """x, y, z, signal and others; a first column that only grows is a time."""
    columns = arrays[0].shape[1]
    is_time = columns > len(ROLES) and all(
        len(one) > 1 and (np.diff(one[:, 0]) >= 0).all() and one[0, 0] < one[-1, 0]
        for one in arrays
    )
    names = ["time"] * is_time + list(ROLES)
    if is_time:
        notes.guessed.append("columns: the first only increases and is assumed to be a time")
    for place in range(len(names), columns):
        whole = all(_is_small_number(one[:, place]) for one in arrays)
        names.append("ring" if whole and "ring" not in names else f"other{place}")
    return tuple(names[:columns])


def _is_small_number(values: NDArray[np.floating]) -> bool:
    return bool(
        np.isfinite(values).all()
        and (values == np.floor(values)).all()
        and values.min(initial=0) >= 0
        and values.max(initial=0) < _MOST_RINGS
    )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the points lie."""

    lines: tuple[str, ...]
    """Of `[points]`."""
    xyz: NDArray[np.float64]
    """(3, N) metres in the lidar frame, of all opened files."""


def place_of(cloud: Cloud, notes: Notes) -> Place:
    """Estimate unit and vertical axis from the numbers.

    Raises:
        DataError: no finite coordinates.
    """
    xyz = np.stack([values_of(cloud, role) for role in ROLES[:3]])
    xyz = xyz[:, np.isfinite(xyz).all(axis=0)]
    if not xyz.shape[1]:
        raise DataError("the files that were opened hold no finite coordinates.")
    xyz = xyz[:, some_rows(xyz.shape[1], most=200_000)]
    middle = np.median(xyz, axis=1)
    spread_out = float(np.percentile(np.linalg.norm(xyz, axis=0), 75))
    unit = _unit(spread_out)
    lines = [] if unit == "m" else [f"unit = {text_of(unit)}{GUESS}"]
    said = (
        f"unit: {unit}, as three quarters of the points lie within {spread_out:.4g} of the sensor"
    )
    (notes.found if unit == "m" else notes.guessed).append(said)
    xyz = xyz * UNITS_M[unit]
    if xyz.shape[1] >= FEWEST_POINTS:
        seen = guess(xyz[:, some_rows(xyz.shape[1])], range_m=None, ground_z=None)
        if seen.up != "z":
            angles, matrix = UP[seen.up]
            lines.append(f"rotate = {text_of(angles)}{GUESS}")
            notes.guessed.append(f"rotate: {angles}, as {seen.up} looks like the vertical axis")
            xyz = np.array(matrix, np.float64) @ xyz
        if not seen.is_centred:
            where = ", ".join(f"{value:.4g}" for value in middle * UNITS_M[unit])
            notes.unknown.append(
                f"frame: the middle of the points is ({where}) m: of a map? pass2d expects the "
                "sensor at the origin"
            )
    notes.unknown.append('frame: whether x or y is forward (for y: ahead = "y")')
    return Place(lines=tuple(lines), xyz=xyz)


def _unit(reach: float) -> str:
    """Metres wherever they are possible."""
    usual = TYPICAL_RANGE_M[0]
    if not reach or usual / _PLAIN_REACH_M < reach < usual * _PLAIN_REACH_M:
        return "m"
    units = ("m", "cm", "mm")
    return min(units, key=lambda unit: abs(np.log(reach * UNITS_M[unit] / usual)))


def values_of(cloud: Cloud, role: str) -> NDArray[np.float64]:
    """(N,) numbers of x, y, z or the signal of all opened files."""
    name = cloud.roles[role]
    return np.concatenate(
        [scan.values[scan.names.index(name)].astype(np.float64) for scan in cloud.scans]
    )


def signal_line(cloud: Cloud, notes: Notes) -> str:
    """`signal` of `[points]`."""
    signal = values_of(cloud, "signal") if "signal" in cloud.roles else np.zeros(0)
    signal = signal[np.isfinite(signal)]
    if not signal.size:
        notes.unknown.append("signal: no column; networks see 0")
        return "# no signal was found"
    most = float(np.percentile(signal, 99.9))
    full = next((scale for scale in FULL_SCALES if most <= 1.5 * scale), FULL_SCALES[-1])
    name = "remission" if full == 1.0 else "intensity"
    notes.guessed.append(f"signal: 0 to {full:g}, as 999 in 1,000 are below {most:.4g}")
    if full == FULL_SCALES[-1]:  # 16 bits, as in .las: networks take numbers of the size of metres
        return f'signal = {{ name = "{name}", scale = {1 / full:.6g}, full = 1.0 }}{GUESS}'
    return f'signal = {{ name = "{name}", full = {full} }}{GUESS}'


def volume_lines(xyz: NDArray[np.float64], notes: Notes) -> list[str]:
    """`[volume]`: a box around 99 % of the (3, N) points, rounded, with cells of 10 cm."""
    low, high = np.percentile(xyz, _WITHIN, axis=1)
    reach = float(np.abs([low[:2], high[:2]]).max())
    step = 10.0 if reach > 10 else 1.0
    reach = min(max(float(np.ceil(reach / step) * step), 1.0), 150.0)
    bottom, top = float(np.floor(low[2] - 0.5)), float(np.ceil(high[2] + 0.5))
    lows, highs = (-reach, -reach, bottom), (reach, reach, top)
    cells = [
        max(1, min(32_000, round((b - a) / _CELL_M))) for a, b in zip(lows, highs, strict=True)
    ]
    notes.guessed.append(
        f"volume: {reach:g} m around the sensor, z {bottom:g} to {top:g} m, cells of 10 cm: 99 % "
        f"of the points lie in x {low[0]:.3g} to {high[0]:.3g}, y {low[1]:.3g} to {high[1]:.3g}, "
        f"z {low[2]:.3g} to {high[2]:.3g}"
    )
    return [
        f"[volume]{GUESS}",
        f"low = [{', '.join(f'{value:.1f}' for value in lows)}]",
        f"high = [{', '.join(f'{value:.1f}' for value in highs)}]",
        f"cells = {cells}",
        "",
    ]


def sensor_lines(cloud: Cloud, xyz: NDArray[np.float64], notes: Notes) -> list[str]:
    """`[sensor]`: the field of view of (3, N) points, and beams from a column of rings."""
    level = np.hypot(xyz[0], xyz[1])
    angle = np.degrees(np.arctan2(xyz[2], level))[level > 1.0]
    if angle.size < FEWEST_POINTS:
        notes.unknown.append(
            "sensor: beams and field of view; those of a 64-beam lidar are assumed"
        )
        return []
    low, high = np.percentile(angle, _WITHIN)
    lines = [f"[sensor]{GUESS}"]
    ring = next((n for n in cloud.scans[0].names if n.lower() in ("ring", "beam", "channel")), None)
    beams = 0
    if ring is not None:
        rings = [scan.values[scan.names.index(ring)] for scan in cloud.scans]
        beams = int(max(one.max(initial=0) for one in rings)) + 1
    if 2 <= beams <= _MOST_RINGS:
        lines.append(f"beams = {beams}")
        notes.guessed.append(f"sensor: {beams} beams by the column {ring}")
    else:
        notes.unknown.append("sensor: the number of beams; 64 is assumed")
    if low < high - 1:
        lines.append(f"fov_deg = [{high:.1f}, {low:.1f}]")
        notes.guessed.append(f"sensor: field of view {low:.1f} to {high:.1f} degrees")
    return [*lines, ""]
