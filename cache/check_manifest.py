"""Refuses a manifest that contradicts itself before it is used.

A generation's hashes detect damage; this detects wrong contents with valid hashes: names that lead
elsewhere, columns of different lengths, counts that disagree, impossible numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from pass2d.cache.fields import CONTAINERS, FIELDS, PROFILES, STRIP_COLUMNS, chunks_per_scan
from pass2d.cache.layout import (
    DATASET,
    HASH,
    MEMBER,
    MOST_SHARDS,
    SCANS_FILE,
    SHARDS_FILE,
    shard_name,
)
from pass2d.cache.rows import FailedScan, ScanSources
from pass2d.cache.schema import KNOWN_FACTS, SCALES, DatasetFacts, DatasetInfo, LabelTable
from pass2d.cache.statistics import RANGE_EDGES_M
from pass2d.cache.tables import Tables
from pass2d.common.errors import CacheError
from pass2d.common.json import from_json, loads

MOST_POINTS = 2**31 - 1
"""Of a scan: `raw_index` is int32."""
_MOST_PIXELS = 65_535
"""Of a picture's side: `pixel` is uint16."""
_MOST_CAMERAS = 64
_MOST_BYTES = 2**62
_LEAST_CHUNK = 20
"""Bytes of a Blosc header and a crc."""
_SAFE = r"[^\pC/\\]{1,120}"
_IS_NAME, _IS_SCAN_ID = f"^{_SAFE}$", f"^{_SAFE}(/{_SAFE})?$"
_IS_UPWARD = r"(^|/)\.{1,2}(/|$)"


def check_info(info: DatasetInfo, *, where: str, remedy: str = "") -> None:
    """Refuse an impossible description of a data set.

    Raises:
        CacheError: says what, and the remedy.
    """
    for wrong in (*_info_faults(info), *_own_moving_faults(info)):
        raise CacheError(f"{where}: {wrong}{remedy}")


def _info_faults(info: DatasetInfo) -> Iterator[str]:
    labels, grid = info.labels, info.grid
    yield from _label_faults(labels)
    is_finite = all(map(math.isfinite, (*grid.low, *grid.high)))
    if not is_finite or not all(lo < hi for lo, hi in zip(grid.low, grid.high, strict=True)):
        yield f"the volume {grid.low} to {grid.high} is none"
    if not all(0 < size < 2**15 for size in grid.shape):
        yield f"a grid of {grid.shape!s:.60} cells; coord holds up to {2**15 - 1}"
    if info.own_facts is None and info.layout not in KNOWN_FACTS:
        yield f"layout {info.layout[:60]!r} without its facts"
        return
    yield from fact_faults(info.facts, n_classes=labels.n_classes)
    if not 1 <= info.n_cameras <= _MOST_CAMERAS:
        yield f"{info.n_cameras!s:.20} cameras, expected 1 to {_MOST_CAMERAS}"
    if not 3 <= info.raw_columns <= 64 or not 0 <= info.sweeps <= 1000:
        yield f"{info.raw_columns!s:.20} columns and {info.sweeps!s:.20} sweeps"
    for name in (info.name, *([info.corruption.clean] if info.corruption else [])):
        if DATASET.fullmatch(name) is None:
            yield f"found {name[:60]!r}, expected the name of a data set such as semkitti"


def _label_faults(labels: LabelTable) -> Iterator[str]:
    if not 1 <= labels.n_classes <= 256:
        yield f"{labels.n_classes} classes, expected 1 to 256"
    if not len(labels.training_to_raw) == len(labels.colors_rgb) == labels.n_classes:
        yield "names, colours and raw ids differ in number"
    raw_ids = [*labels.raw_to_training, *labels.training_to_raw]
    if not all(0 <= raw_id < 2**16 for raw_id in raw_ids):
        yield f"a raw label outside 0..{2**16 - 1}"
    if not all(0 <= c < labels.n_classes for c in labels.raw_to_training.values()):
        yield "a raw label maps to a class that does not exist"
    for c, raw_id in enumerate(labels.training_to_raw[1:], start=1):
        if labels.raw_to_training.get(raw_id) != c:
            yield f"class {c} is written as raw label {raw_id}, which is not of that class"
            break
    if not all(0 <= value <= 255 for color in labels.colors_rgb for value in color):
        yield "a colour outside 0..255"


def fact_faults(facts: DatasetFacts, *, n_classes: int) -> Iterator[str]:
    """What is impossible for any data set."""
    if facts.label_bytes not in (1, 4):
        yield f"label_bytes {facts.label_bytes!s:.20}, expected 1 or 4"
    if facts.forward_axis not in ("x", "y"):
        yield f"forward_axis {facts.forward_axis[:20]!r}, expected 'x' or 'y'"
    if not math.isfinite(facts.full_scale) or facts.full_scale <= 0:
        yield f"full_scale {facts.full_scale}, expected the largest signal"
    if not all(0 <= answer < n_classes for answer in facts.forbidden_answers):
        yield f"forbidden_answers {facts.forbidden_answers!s:.60}, expected training ids"
    low, high = facts.pitch_deg
    if not -90 <= low < high <= 90:
        yield f"pitch_deg {facts.pitch_deg!s:.60}, expected two ascending angles"
    for name in ("movable", "pasted", "grounds"):
        if not all(0 < thing < 256 for thing in getattr(facts, name)):
            yield f"{name} {getattr(facts, name)!s:.60}, expected training ids of classes"


def _own_moving_faults(info: DatasetInfo) -> Iterator[str]:
    if info.own_facts is not None:
        yield from moving_faults(info.own_facts, n_classes=info.labels.n_classes)


def moving_faults(facts: DatasetFacts, *, n_classes: int) -> Iterator[str]:
    """What is wrong with moving classes, given the label table."""
    for moving in facts.moving:
        if not 0 < moving.static < n_classes:
            yield f"{moving.name[:40]}: static {moving.static!s:.20}, expected a class"
        if moving.raw not in moving.raw_ids or not all(0 <= i < 2**16 for i in moving.raw_ids):
            yield f"{moving.name[:40]}: raw {moving.raw!s:.20}, expected one of its raw_ids"
        if not all(0 <= value <= 255 for value in moving.color_rgb):
            yield f"{moving.name[:40]}: a colour outside 0..255"
    if not all(0 <= raw_id < 2**16 for raw_id in facts.unlabeled_raw):
        yield f"unlabeled_raw {facts.unlabeled_raw!s:.60}, expected raw ids"
    if facts.motion_raw and (
        len({*facts.motion_raw}) != 3 or not all(0 <= i < 2**16 for i in facts.motion_raw)
    ):
        yield f"motion_raw {facts.motion_raw!s:.60}, expected three raw ids"
    if not all(0 < thing < n_classes for thing in facts.rare):
        yield f"rare {facts.rare!s:.60}, expected training ids of classes"
    n_ids = [raw_id for moving in facts.moving for raw_id in moving.raw_ids]
    if len({*n_ids, *facts.unlabeled_raw}) < len(n_ids) + len({*facts.unlabeled_raw}):
        yield "moving and unlabeled_raw: a raw id occurs twice"
    if n_classes + len(facts.moving) > 255:
        yield f"{len(facts.moving)} moving classes beyond {n_classes} others: more than 255"


def check_tables(tables: Tables, info: DatasetInfo, *, where: str) -> None:
    """Refuse tables that `prepare` cannot have written. Takes a few ms per 10,000 scans.

    Raises:
        CacheError: names table, column and the first scan or shard that is wrong.
    """
    for name, table, faults in (
        (SHARDS_FILE, tables.shards, _shard_faults(tables.shards)),
        (SCANS_FILE, tables.scans, _scan_faults(tables.scans, info)),
        (SCANS_FILE, tables.scans, _disagreements(tables)),
    ):
        try:
            table.validate(full=True)  # among others: text is UTF-8
            wrong = next(faults, None)
        except (pa.ArrowException, CacheError) as error:
            wrong = str(error).splitlines()[0]
        if wrong is not None:
            raise _wrong(f"{where}/{name}", wrong)


def _wrong(where: str, what: str) -> CacheError:
    return CacheError(
        f"{where}: {what[:300]}. No `prepare` writes this: run `verify`, or prepare "
        "again into a new `cache_root`."
    )


def wrong_scan_names(scans: Sequence[NamedScan]) -> str | None:
    """What is wrong with the names of scans, from which file names are made; None if nothing is.

    A scan id is one name or two with a slash between, the others are one each; none is "..".
    """
    names = ("scan_id", "sequence", "split", "token")
    columns = {n: pa.array([getattr(scan, n) for scan in scans], pa.string()) for n in names}
    return next(_name_faults(pa.table(columns)), None)


class NamedScan(Protocol):
    """The names of a scan in listings and tables."""

    @property
    def scan_id(self) -> str:
        """E.g. "08/000123"."""

    @property
    def sequence(self) -> str:
        """E.g. "08"."""

    @property
    def split(self) -> str:
        """E.g. "val"."""

    @property
    def token(self) -> str:
        """May be empty."""


def _name_faults(scans: pa.Table) -> Iterator[str]:
    for name, pattern in (
        ("scan_id", _IS_SCAN_ID),
        ("sequence", _IS_NAME),
        ("split", _IS_NAME),
        ("token", f"^({_SAFE})?$"),
    ):
        column = scans[name].combine_chunks()
        shortest = 0 if name == "token" else 1
        if not column.null_count and _is_plain(column, is_id=name == "scan_id", shortest=shortest):
            continue
        kinds = column.unique()
        wrong = pc.or_(
            pc.invert(pc.match_substring_regex(kinds, pattern)),
            pc.match_substring_regex(kinds, _IS_UPWARD),
        )
        bad = pc.or_(column.is_null(), pc.is_in(column, value_set=kinds.filter(wrong)))
        if pc.any(bad).as_py():
            row = pc.index(bad, value=True).as_py()
            found = column[row].as_py()
            yield f"column {name}, row {row}: found {found!r:.70}, expected a plain name"


def _is_plain(column: pa.Array, *, is_id: bool, shortest: int) -> bool:
    """Whether all names are letters, digits, "_" and "-", an id two with a slash between.

    That is true of nearly all, and checked in a hundredth of the time that the patterns take.
    """
    _, offsets, data = column.buffers()
    if data is None:
        return shortest == 0
    ends = np.frombuffer(offsets, np.int32)[column.offset :][: len(column) + 1]
    text = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    lengths = np.diff(ends)
    fits = lengths.min(initial=1) >= shortest and lengths.max(initial=1) <= 120
    if not fits or not _PLAIN[text].all():
        return False
    slashes = np.flatnonzero(text == ord("/")) + ends[0]
    rows = np.searchsorted(ends, slashes, side="right") - 1
    is_between = (slashes > ends[rows]) & (slashes < ends[rows + 1] - 1)
    is_single = len(np.unique(rows)) == len(rows)
    return len(slashes) == 0 or (is_id and is_single and bool(is_between.all()))


_PLAIN = np.zeros(256, bool)
_PLAIN[list(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-/")] = True


def _shard_faults(shards: pa.Table) -> Iterator[str]:
    for name in shards.column_names:
        if shards[name].null_count and name not in ("writer", "seconds"):
            yield f"column {name} has empty entries"
            return
    seconds = shards["seconds"].fill_null(0).to_numpy()
    if not ((seconds >= 0) & (seconds < math.inf)).all():
        yield "column seconds: a time below 0, or none"
    if other := {*shards["profile"].unique().to_pylist()} - {*PROFILES}:
        yield f"column profile: found {min(other)[:40]!r}, expected one of {', '.join(PROFILES)}"
    names = ("stage", "shard", "key", "path", "scans", "bytes")
    seen = set()
    for container, shard, key, path, scans, nbytes in zip(
        *(shards[name].to_pylist() for name in names), strict=True
    ):
        if (
            container not in CONTAINERS
            or not 0 <= shard < MOST_SHARDS
            or HASH.fullmatch(key) is None
        ):
            yield f"found shard {shard} of {container[:40]!r} with key {key[:40]!r}"
            return
        expected = f"{container}/{shard_name(shard, key)}.zarr"
        if path != expected:
            yield f"column path: found {path[:80]!r}, expected {expected!r}"
            return
        if (container, shard) in seen:
            yield f"shard {shard} of {container} occurs twice"
        seen.add((container, shard))
        if not 0 <= scans <= MOST_POINTS or not 0 <= nbytes < _MOST_BYTES:
            yield f"{path}: {scans} scans, {nbytes} bytes"
    yield from _file_faults(shards)
    yield from _text_faults(shards)


def _text_faults(shards: pa.Table) -> Iterator[str]:
    """Columns of JSON, each different text once; `inputs` is parsed where it is needed."""
    for name in ("parameters", "encodings", "failed"):
        for text in shards[name].unique().to_pylist():
            value = loads(text, where=f"column {name}")
            if not isinstance(value, dict):
                yield f"column {name}: found {text[:60]!r}, expected an object"
            elif name == "failed":
                from_json(Failures, value, where=f"column {name}")
            elif type(divisor := value.get("intensity_divisor", 0)) is not int:
                yield f"column {name}: intensity_divisor {divisor!r:.20}"


@dataclass(frozen=True, kw_only=True)
class Failures:
    """What the column `failed` contains for a shard."""

    scans: tuple[FailedScan, ...]
    sources: tuple[ScanSources, ...]


def _file_faults(shards: pa.Table) -> Iterator[str]:
    lists = _flat(shards, ("file_name", "file_bytes", "file_xxh3"))
    if lists is None:
        yield "columns file_name, file_bytes and file_xxh3 differ in length"
        return
    starts, (names, sizes, hashes) = lists
    for name in names.unique().to_pylist():
        if MEMBER.fullmatch(name) is None:
            yield f"column file_name: found {name[:80]!r}, expected e.g. 'xyz/c/0/0/0'"
    for xxh3 in hashes.to_pylist():
        if HASH.fullmatch(xxh3) is None:
            yield f"column file_xxh3: found {xxh3[:40]!r}, expected 32 hex digits"
            return
    nbytes = sizes.to_numpy()
    if (nbytes < 0).any() or (nbytes >= _MOST_BYTES // 1024).any():
        yield "column file_bytes: a size that is negative or impossibly large"
        return
    sums = np.concatenate([[0], np.cumsum(nbytes)])[starts]
    if (np.diff(sums) != shards["bytes"].to_numpy()).any():
        yield "columns bytes and file_bytes disagree"


def _flat(
    table: pa.Table, names: tuple[str, ...]
) -> tuple[NDArray[np.int64], list[pa.Array]] | None:
    """Where each row begins in list columns, and their values; None if the columns disagree."""
    columns = [table[name].combine_chunks() for name in names]
    if any(column.null_count for column in columns):
        return None
    starts = [
        np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())]).astype(np.int64)
        for column in columns
    ]
    values = [column.flatten() for column in columns]
    if any(value.null_count for value in values):
        return None
    if not all(np.array_equal(starts[0], other) for other in starts):
        return None
    return starts[0], values


def _scan_faults(scans: pa.Table, info: DatasetInfo) -> Iterator[str]:
    for name in ("frame_index", "shard", "row", "n_raw", "n", "has_label"):
        if scans[name].null_count:
            yield f"column {name} has empty entries"
            return
    yield from _name_faults(scans)
    if pc.count_distinct(scans["scan_id"]).as_py() < len(scans):
        yield "column scan_id: a scan occurs twice"
    n_raw, n = scans["n_raw"].to_numpy(), scans["n"].to_numpy()
    if ((n < 0) | (n > n_raw) | (n_raw > MOST_POINTS)).any():
        yield f"columns n and n_raw: expected 0 <= n <= n_raw <= {MOST_POINTS}"
        return
    if (scans["frame_index"].to_numpy() < 0).any():
        yield "column frame_index: a number below 0"
    yield from _count_faults(scans, info, n=n, n_raw=n_raw)
    yield from _motion_faults(scans, info, n=n)
    thinned = scans["thinned"].fill_null(0).to_numpy()
    if ((thinned < 0) | (thinned > n_raw)).any():
        yield "column thinned: a number below 0, or more than the scan has"
    yield from _source_faults(scans)


def _motion_faults(scans: pa.Table, info: DatasetInfo, *, n: NDArray[np.int64]) -> Iterator[str]:
    """Poses and counts of moving points, of the scans that have them."""
    n_moving = len(info.facts.moving)
    pose, counts = (scans[name].combine_chunks() for name in ("pose", "moving_histogram"))
    for name, column, width in (("pose", pose, 12), ("moving_histogram", counts, n_moving)):
        lengths = pc.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False)
        if (lengths != width).any() or column.flatten().null_count:
            yield f"column {name}: expected {width} numbers, or none"
            return
    matrices = pose.flatten().to_numpy(zero_copy_only=False).reshape(-1, 3, 4)
    rotations = matrices[:, :, :3]
    is_rigid = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(initial=0) < 0.01
    if not np.isfinite(matrices).all() or not is_rigid:
        yield "column pose: not a rotation and a translation in metres"
    has_motion = counts.is_valid().to_numpy(zero_copy_only=False)
    moving = counts.flatten().to_numpy(zero_copy_only=False).reshape(has_motion.sum(), n_moving)
    if (moving < 0).any() or (moving.sum(axis=1) > n[has_motion]).any():
        yield "column moving_histogram: a number below 0, or more than the scan has"


def _rows(scans: pa.Table, name: str, width: int) -> NDArray[np.int64] | None:
    """(S, width) of a list column; None when a row is empty or of another length."""
    found = _flat(scans, (name,))
    if found is None or (np.diff(found[0]) != width).any():
        return None
    return found[1][0].to_numpy(zero_copy_only=False).reshape(len(scans), width)


def _count_faults(
    scans: pa.Table, info: DatasetInfo, *, n: NDArray[np.int64], n_raw: NDArray[np.int64]
) -> Iterator[str]:
    widths = {
        "label_histogram": info.labels.n_classes,
        "range_histogram": len(RANGE_EDGES_M),
        "m": info.n_cameras,
        "image_height": info.n_cameras,
        "image_width": info.n_cameras,
        "voxels": len(SCALES),
    }
    most = {
        "label_histogram": n[:, None],
        "range_histogram": n_raw[:, None],
        "m": n[:, None],
        "voxels": n[:, None],
    }
    values: dict[str, NDArray[np.int64]] = {}
    for name, count in widths.items():
        rows = _rows(scans, name, count)
        if rows is None:
            yield f"column {name}: expected {count} numbers per scan"
            return
        if ((rows < 0) | (rows > most.get(name, _MOST_PIXELS))).any():
            yield f"column {name}: a number below 0, or more than the scan has"
            return
        values[name] = rows
    height, width = values["image_height"], values["image_width"]
    if ((height > 0) != (width > 0)).any() or ((values["m"] > 0) & (height == 0)).any():
        yield "columns m, image_height and image_width disagree"
        return
    matrices = scans["image_from_lidar"].combine_chunks().drop_null()
    lengths = pc.list_value_length(matrices).to_numpy(zero_copy_only=False)
    numbers = matrices.flatten()
    if (lengths != 12 * info.n_cameras).any() or numbers.null_count:
        yield f"column image_from_lidar: expected {12 * info.n_cameras} numbers, or none"
    yield from _chunk_faults(scans, info, m=values["m"], width=width, voxels=values["voxels"])


def _chunk_faults(
    scans: pa.Table,
    info: DatasetInfo,
    *,
    m: NDArray[np.int64],
    width: NDArray[np.int64],
    voxels: NDArray[np.int64],
) -> Iterator[str]:
    stored: dict[str, NDArray[np.bool_]] = {}
    for name, spec in FIELDS.items():
        columns = tuple(f"{name}_{part}" for part in ("offset", "length", "crc"))
        is_listed = spec.is_listed(info.n_cameras)
        if is_listed:
            lists = _flat(scans, columns)
            if lists is None:
                yield f"columns {', '.join(columns)} differ in length"
                return
            starts, arrays = lists
        else:
            arrays = [scans[column].combine_chunks() for column in columns]
            nulls = [array.is_null() for array in arrays]
            if not nulls[0].equals(nulls[1]) or not nulls[0].equals(nulls[2]):
                yield f"columns {', '.join(columns)} are not filled alike"
                return
            arrays = [array.fill_null(0) for array in arrays]
            starts = np.arange(len(scans) + 1)
        offset, length = (array.to_numpy(zero_copy_only=False) for array in arrays[:2])
        is_stored = length != 0
        if (offset < 0).any() or (offset >= _MOST_BYTES).any():
            yield f"column {name}_offset: outside any file"
            return
        if (is_stored & ((length < _LEAST_CHUNK) | (length > MOST_POINTS))).any():
            yield f"column {name}_length: {_LEAST_CHUNK} to {MOST_POINTS} bytes are possible"
            return
        counts = np.concatenate([[0], np.cumsum(is_stored)])
        stored[name] = np.diff(counts[starts])
        if spec.length == "picture" and info.n_cameras == 1:
            yield from _strip_faults(starts, offset, length, width[:, 0])
        elif is_listed:
            wrong = ~np.isin(np.diff(starts), (0, info.n_cameras))
            if wrong.any():
                yield f"column {name}_offset: expected one entry per camera"
    has_label = scans["has_label"].to_numpy(zero_copy_only=False)
    has_voxels = voxels.any(axis=1)
    least = {
        "label": has_label,
        "picture": (width > 0).any(axis=1),
        "visible": (m > 0).sum(axis=1),
        "voxels": has_voxels,
        "labelled voxels": has_voxels & has_label,
        "thinned": scans["thinned"].fill_null(0).to_numpy() > 0,
    }
    for name, spec in FIELDS.items():
        if spec.stored_with and (stored[name] < least[spec.stored_with]).any():
            row = int(np.argmax(stored[name] < least[spec.stored_with]))
            yield f"row {row}: {name} is not stored, although the scan has it"


def _strip_faults(
    starts: NDArray[np.int64],
    offset: NDArray[np.int64],
    length: NDArray[np.int64],
    width: NDArray[np.int64],
) -> Iterator[str]:
    """A picture's strips are contiguous in the file, so that several are read at once."""
    per_scan = chunks_per_scan
    needed = np.array([per_scan("image", n_cameras=1, width=int(w)) for w in np.unique(width)])
    needed = needed[np.searchsorted(np.unique(width), width)]
    if (np.diff(starts) < needed).any():
        yield f"column image_offset: fewer strips of {STRIP_COLUMNS} columns than the picture has"
        return
    place = np.arange(len(offset)) - np.repeat(starts[:-1], np.diff(starts))
    is_used = place < np.repeat(needed, np.diff(starts))
    if (length[is_used] == 0).any():
        yield "column image_length: a strip of the picture is not stored"
    follows = is_used[1:] & (place[1:] > 0)
    if (offset[1:] != offset[:-1] + length[:-1])[follows].any():
        yield "column image_offset: the strips of a picture do not follow each other"


def _source_faults(scans: pa.Table) -> Iterator[str]:
    parts = ("role", "path", "bytes", "mtime_ns", "xxh3")
    lists = _flat(scans, tuple(f"source_{part}" for part in parts))
    if lists is None:
        yield "the source_ columns differ in length"


def _disagreements(tables: Tables) -> Iterator[str]:
    """Every scan is in a listed shard, and every shard has the rows 0, 1, ..., K - 1."""
    shard, row = (tables.scans[name].to_numpy() for name in ("shard", "row"))
    if (np.diff(shard) < 0).any():
        yield "scans.parquet is not sorted by shard"
        return
    numbers, first, counts = np.unique(shard, return_index=True, return_counts=True)
    if (row != np.arange(len(row)) - np.repeat(first, counts)).any():
        yield "the rows of a shard's scans are not 0, 1, 2, ..."
        return
    has = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    listed = [tables.shards[name].to_pylist() for name in ("stage", "shard", "scans")]
    numbers_of: dict[str, set[int]] = {container: set() for container in CONTAINERS}
    for container, number, scans in zip(*listed, strict=True):
        if has.get(number, 0) != scans:
            listed_here = has.get(number, 0)
            yield f"shard {number} of {container}: {scans} scans, but {listed_here} are listed"
            return
        numbers_of[container].add(number)
    needed = {
        "lidar": np.ones(len(shard), bool),
        "camera": _any(tables.scans["image_width"], len(shard)),
        "voxel": _any(tables.scans["voxels"], len(shard)),
        "motion": _is_filled(tables.scans, ("pose", "time_s", "motion_length")),
        "thinned": _is_filled(tables.scans, ("thinned",)),
    }
    for container, rows in needed.items():
        if missing := set(shard[rows].tolist()) - numbers_of[container]:
            yield f"scans of shard {min(missing)}, but no `{container}` shard of that number"


def _any(lists: pa.ChunkedArray, n_scans: int) -> NDArray[np.bool_]:
    """(S,) whether a scan's list holds a number but 0."""
    values = lists.combine_chunks().flatten().to_numpy()
    width = max(1, len(values) // max(1, n_scans))
    return np.asarray(values.reshape(n_scans, width).any(axis=1))


def _is_filled(scans: pa.Table, names: tuple[str, ...]) -> NDArray[np.bool_]:
    """(S,) whether any of these columns is not null."""
    columns = [scans[name].combine_chunks().is_valid() for name in names]
    return np.any([column.to_numpy(zero_copy_only=False) for column in columns], axis=0)
