"""The instance bank: all objects of scarce classes in a cache's scans, for instance CutMix.

It is built on first use in one pass over the scans and stored in the cache under its own key.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.fields import Fields
from pass2d.cache.keys import hash_bytes
from pass2d.cache.layout import Layout
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import CacheError
from pass2d.common.files import read_whole, replace_file
from pass2d.common.json import dumps
from pass2d.common.progress import Progress

LEAST_POINTS = 6
"""An object has more than 5 points."""
_RULE = 1
"""Part of the key; raised when the rule for what is stored changes."""
_FOLDER = "instances"
_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class InstanceBank:
    """K objects and their P points, in the order of scans, then classes, then instance ids."""

    position: NDArray[np.int32]
    """(K,) row of the object's scan in the cache's table."""
    class_id: NDArray[np.uint8]
    """(K,) training id."""
    offsets: NDArray[np.int64]
    """(K + 1,): object k owns points offsets[k]:offsets[k + 1]."""
    rows: NDArray[np.int32]
    """(P,) row of each point in its scan, as the cache stores it."""
    xyz: NDArray[np.float32]
    """(3, P) metres: x and y from the object's mean, z from its lowest point."""
    signal: NDArray[np.float32]
    """(P,)."""

    @property
    def n(self) -> int:
        """K, the objects."""
        return len(self.class_id)

    def of_class(self, class_id: int) -> NDArray[np.int64]:
        """(K_c,) indices of a class's objects, in the bank's order."""
        return np.flatnonzero(self.class_id == class_id)


def instance_rows(
    kind: NDArray[np.integer], instance: NDArray[np.integer], *, wanted: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """The objects of a scan: points of one kind and one instance id, if there are more than 5.

    Points of a kind without instance id (0) are one object together.

    Args:
        kind: (N,) label of each point: a training id, or a raw id in files of the data set.
        instance: (N,) ids, 0 none.
        wanted: Which kinds have objects.

    Yields:
        Kind and rows, in the order of kind and instance id.

    Source: valeoai/WaffleIron, instance CutMix on SemanticKITTI.
    """
    rows = np.flatnonzero(np.isin(kind, wanted))
    key = (kind[rows].astype(np.int64) << 32) | instance[rows].astype(np.int64)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    for part in np.split(rows[order], starts[1:]) if len(rows) else ():
        if len(part) >= LEAST_POINTS:
            yield int(kind[part[0]]), part


def centred(xyz: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, n) points of an object: x and y less their mean, z less its minimum."""
    origin = np.array([*xyz[:2].mean(1, dtype=np.float64), xyz[2].min()])
    return (xyz - origin[:, None]).astype(np.float32)


def build_bank(
    reader: CacheReader, positions: NDArray[np.int64], progress: Progress
) -> InstanceBank:
    """Build the bank in one pass over the scans; it does not depend on the number of threads.

    Args:
        reader: Of the cache, whose facts say which classes are kept.
        positions: The training scans, ascending.
        progress: Receives the number of scans read.

    Raises:
        CacheError: A scan cannot be read.
    """
    wanted = reader.info.facts.pasted
    fields_of_scan = Fields(label=True, instance=True)

    def objects(position: int) -> list[_Object]:
        record = reader.read(position, fields_of_scan)
        if record.label is None or record.instance is None:
            return []
        return [
            _Object(position, class_id, rows, centred(record.xyz[:, rows]), record.signal[rows])
            for class_id, rows in instance_rows(record.label, record.instance, wanted=wanted)
        ]

    found: list[_Object] = []
    progress.start("instance bank", total=len(positions), unit="scan")
    with ThreadPoolExecutor(_THREADS) as pool:
        for of_scan in pool.map(objects, positions.tolist()):
            found += of_scan
            progress.advance()
    return _joined(found)


def instance_bank(
    reader: CacheReader, positions: NDArray[np.int64], progress: Progress
) -> InstanceBank:
    """The bank of these scans: the one stored in the cache, else a new one.

    For a remote or read-only cache it is built again by each run.
    """
    if not reader.info.facts.has_instances or not reader.info.facts.pasted:
        return _joined([])
    path = bank_file(reader, positions)
    kept = None if reader.is_remote else _load(path)
    if kept is not None:
        return kept
    bank = build_bank(reader, positions, progress)
    if not reader.is_remote:
        content = io.BytesIO()
        np.savez(content, **{f.name: getattr(bank, f.name) for f in fields(bank)})
        try:
            replace_file(path, content.getvalue(), scratch=Layout(root=reader.root).scratch)
        except CacheError as error:
            progress.say(f"the instance bank cannot be saved; every run builds it again: {error}")
    return bank


def bank_file(reader: CacheReader, positions: NDArray[np.int64]) -> Path:
    """The file of the bank of scans at (P,) positions; its name covers their content too."""
    key = [_RULE, reader.fingerprint, list(reader.info.facts.pasted), positions.tolist()]
    return reader.root / _FOLDER / f"{hash_bytes(dumps(key))}.npz"


@dataclass(frozen=True)
class _Object:
    position: int
    class_id: int
    rows: NDArray[np.int64]
    xyz: NDArray[np.float32]
    signal: NDArray[np.float32]


def _joined(found: Sequence[_Object]) -> InstanceBank:
    return InstanceBank(
        position=np.array([thing.position for thing in found], np.int32),
        class_id=np.array([thing.class_id for thing in found], np.uint8),
        offsets=np.cumsum([0, *(len(thing.rows) for thing in found)]).astype(np.int64),
        rows=np.concatenate([np.zeros(0, np.int32), *(t.rows for t in found)]).astype(np.int32),
        xyz=np.concatenate([np.zeros((3, 0), np.float32), *(t.xyz for t in found)], axis=1),
        signal=np.concatenate([np.zeros(0, np.float32), *(t.signal for t in found)]),
    )


def _load(path: Path) -> InstanceBank | None:
    """The bank stored in a file; None if it is missing or damaged, so that it is built again."""
    try:
        with np.load(io.BytesIO(read_whole(path)), allow_pickle=False) as file:
            return InstanceBank(**{f.name: file[f.name] for f in fields(InstanceBank)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
