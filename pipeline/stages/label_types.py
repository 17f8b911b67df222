"""Detects label files written as another type, whose classes would be read wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import UNKNOWN_LABEL, LabelTable
from pass2d.pipeline.problem import ProblemError

_FEW = 0.01
"""Share of points with a class below which a file is examined; real scans have 0.4 to 1."""
_MANY = 0.3
_CLEARLY = 10
"""Another type is the right one when this many times as many points have a class by it."""
_TEXT = re.compile(rb"[0-9eE+\-.,;\s]*")
_MAGICS = {
    b"\x93NUMPY": ("a NumPy file (.npy)", "np.load(f).astype('{own}').tofile(f)"),
    b"PK\x03\x04": ("a zip file (.npz?)", "np.load(f)[NAME].astype('{own}').tofile(f)"),
    b"\x1f\x8b": ("a gzip file", "np.frombuffer(gzip.open(f).read(), '{own}').tofile(f)"),
}
_TYPES = {
    1: {"u1": "uint8"},
    2: {"<u2": "uint16", ">u2": "big-endian uint16", "<f2": "float16"},
    4: {
        "<u4": "uint32",
        ">u4": "big-endian uint32",
        "<f4": "float32",
        ">f4": "big-endian float32",
    },
    8: {
        "<i8": "int64",
        ">i8": "big-endian int64",
        "<f8": "float64",
        ">f8": "big-endian float64",
    },
}
"""NumPy types by bytes per label; of those that make sense the first one is named."""


class _Foreign(NamedTuple):
    """The apparent type of a label file."""

    what: str
    rewrite: str
    """NumPy expression that rewrites it."""


def require_label_type(
    data: bytes, *, n_points: int | None, label_bytes: int, table: LabelTable, file: Path
) -> None:
    """Refuse a label file whose numbers are of another type than the layout's.

    Read as they are, float32 and big-endian ids would all be class 0, "unlabeled", with an
    instance. Files whose numbers are the table's are never refused, whatever their instances, and
    neither are zeros.

    Args:
        data: the whole file.
        n_points: of its scan; None where that cannot be read.
        label_bytes: 4 (SemanticKITTI: uint32, raw id in the low 16 bits, instance above) or 1
            (nuScenes: uint8).
        table: the raw ids that there are.
        file: where the bytes come from, for the message.

    Raises:
        ProblemError: names the type that makes sense, and how to write the file again.
    """
    if not data:
        return
    found = _foreign(data, n_points=n_points, label_bytes=label_bytes, table=table)
    if found is None:
        return
    own = "uint8, a raw id" if label_bytes == 1 else "uint32, raw id + 65536 x instance"
    raise ProblemError.of(
        file=file,
        found=f"{len(data)} bytes that look like {found.what}",
        expected=f"little-endian {own} for each point",
        remedy=f"Rewrite each such file f with NumPy (keep a copy): {found.rewrite}.",
    )


def _foreign(
    data: bytes, *, n_points: int | None, label_bytes: int, table: LabelTable
) -> _Foreign | None:
    own = "<u4" if label_bytes == 4 else "u1"
    has_size = len(data) % label_bytes == 0 and n_points in (None, len(data) // label_bytes)
    share = _share_of_classes(np.frombuffer(data, own), table) if has_size else None
    is_swapped = share is not None and _may_be_swapped(data, own)
    if share is not None and (share >= _FEW or not any(data)) and not is_swapped:
        return None
    times = 1 if is_swapped else _CLEARLY
    found = None if share is not None else _by_its_look(data, own)
    if found is None and has_size and own == "<u4" and (share or 0.0) < _FEW:
        found = _in_upper_half(data, table)
    for kind, name in _candidates(data, n_points, label_bytes):
        if found is not None:
            break
        other = _share_of_classes(np.frombuffer(data, kind), table)
        if other is not None and other > times * (share or 0.0):
            change = f"np.fromfile(f, '{kind}').astype('{own}').tofile(f)"
            found = _Foreign(f"{name} labels", change)
    if found is None and share is None:
        found = _other_ids(data, own, table, n_points=n_points)
    if found is None and not has_size and n_points:
        found = _by_size(data, own, n_points)
    return found


def _share_of_classes(values: NDArray[Any], table: LabelTable) -> float | None:
    """Share of points with a class but the ignored one; None if a value is not a raw id."""
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        if not ((values >= 0) & (values < 1 << 32) & (values == np.floor(values))).all():
            return None
        values = values.astype(np.uint32) & 0xFFFF
    elif values.dtype.itemsize >= 4:
        if values.dtype.kind == "i" and ((values < 0) | (values >= 1 << 32)).any():
            return None
        values = values & 0xFFFF
    training = table.training_lookup()[values]
    return None if (training == UNKNOWN_LABEL).any() else float((training != 0).mean())


def _candidates(data: bytes, n_points: int | None, label_bytes: int) -> Iterator[tuple[str, str]]:
    """Other types whose size fits the points; without their number those of the layout's size."""
    own = {4: "<u4", 1: "u1"}[label_bytes]
    size = label_bytes if n_points is None else len(data) // max(1, n_points)
    if size and len(data) % size == 0 and n_points in (None, len(data) // size):
        yield from ((kind, name) for kind, name in _TYPES.get(size, {}).items() if kind != own)


def _may_be_swapped(data: bytes, own: str) -> bool:
    """Whether all ids are 0 or 256: those of big-endian labels whose instances are 0 or 1."""
    return own == "<u4" and not (np.frombuffer(data, own) & 0xFEFF).any()


def _in_upper_half(data: bytes, table: LabelTable) -> _Foreign | None:
    """Raw ids where instance ids should be; instances of a scan hardly are ids of classes."""
    share = _share_of_classes(np.frombuffer(data, "<u2")[1::2], table)
    if share is None or share < _MANY:
        return None
    return _Foreign(
        "uint32 with the raw id in the upper 16 bits",
        "np.fromfile(f, '<u2').reshape(-1, 2)[:, ::-1].tofile(f)",
    )


def _by_its_look(data: bytes, own: str) -> _Foreign | None:
    for magic, (what, rewrite) in _MAGICS.items():
        if data.startswith(magic):
            return _Foreign(what, rewrite.format(own=own))
    if _TEXT.fullmatch(data[:4096]):
        return _Foreign("text", f"np.loadtxt(f).astype('{own}').tofile(f)")
    return None


def _other_ids(
    data: bytes, own: str, table: LabelTable, *, n_points: int | None
) -> _Foreign | None:
    """Ids of another kind: training ids, or nuScenes' panoptic ones."""
    if own == "<u4" and len(data) % 4 == 0 and n_points in (None, len(data) // 4):
        found = np.unique(np.frombuffer(data, own))
        if len(found) > 2 and found[-1] < table.n_classes:
            ids = ", ".join(map(str, table.training_to_raw))
            change = f"np.array([{ids}], '<u4')[np.fromfile(f, '<u4')].tofile(f)"
            return _Foreign(f"training ids 0..{table.n_classes - 1}, not raw ids", change)
    if own == "u1" and len(data) % 2 == 0 and n_points in (None, len(data) // 2):
        categories = np.frombuffer(data, "<u2") // 1000
        if _share_of_classes(categories, table):
            change = "(np.fromfile(f, '<u2') // 1000).astype('u1').tofile(f)"
            return _Foreign("panoptic labels (1000 x id + instance, uint16)", change)
    return None


def _by_size(data: bytes, own: str, n_points: int) -> _Foreign | None:
    """What the size alone says, where the numbers make no sense by any type."""
    size = len(data) // n_points
    if len(data) % n_points or size not in _TYPES:
        return None
    kinds = {kind: name for kind, name in _TYPES[size].items() if kind != own}
    first = next(iter(kinds))
    words = " or ".join(name for name in kinds.values() if "big" not in name)
    return _Foreign(
        f"{size} byte{'s' if size > 1 else ''} per point ({words}?)",
        f"np.fromfile(f, '{first}').astype('{own}').tofile(f)",
    )
