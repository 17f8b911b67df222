"""Checks one shard against its commit record: files, hashes, chunks, values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.care.damage import Damage, Kind
from pass2d.cache.care.records_from_shards import describe_shard, expected_key, without_paths
from pass2d.cache.codec import CRC_BYTES, crc32c
from pass2d.cache.fields import FIELDS
from pass2d.cache.keys import hash_bytes
from pass2d.cache.layout import KEY_DIGITS, Layout
from pass2d.cache.motion import Motion
from pass2d.cache.reading.shard_reader import ShardReader
from pass2d.cache.rows import ABSENT, FieldChunks, FileHash, LidarEntry, ShardRow, load_row
from pass2d.cache.schema import SCALES
from pass2d.cache.writing.shard import INDEX_ENTRY_BYTES, encode_index
from pass2d.common.errors import CacheError
from pass2d.common.files import read_whole


class ShardChecker:
    """The checks of one shard; each adds to `damages`."""

    def __init__(self, layout: Layout, row: ShardRow) -> None:
        self._layout = layout
        self._row = row
        self._folder = layout.shard(row.header.container, row.shard, row.header.key)
        self.damages: list[Damage] = []
        self.files = 0
        self.nbytes = 0

    def check(self, *, n_classes: int) -> None:
        """All checks: files and hashes first; their result decides whether values are read."""
        present = self._check_names()
        for file in self._row.files:
            if file.name in present:
                self._check_file(file)
        if not self.damages:
            self._check_record()
        if not self.damages:
            for text, field, scan_id in self._wrong_values(n_classes):
                self._add("inconsistent", f"{field}/c", text, field=field, scan_ids=(scan_id,))

    def _add(
        self, kind: Kind, name: str, text: str, *, field: str = "", scan_ids: tuple[str, ...] = ()
    ) -> None:
        header = self._row.header
        path = self._folder.relative_to(self._layout.root) / name
        self.damages.append(
            Damage(
                kind=kind,
                path=str(path),
                text=text,
                container=header.container,
                shard=self._row.shard,
                key=header.key[:KEY_DIGITS],
                field=field,
                scan_ids=scan_ids,
            )
        )

    def _check_names(self) -> set[str]:
        found = {
            str(path.relative_to(self._folder))
            for path in self._folder.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }
        expected = {file.name for file in self._row.files}
        ids = self._row.entries.scan_ids()
        for name in sorted(expected - found):
            self._add("missing", name, "missing", field=_field_of(name), scan_ids=ids)
        for name in sorted(found - expected):
            self._add("extra", name, "no shard has this file", field=_field_of(name))
        return expected & found

    def _check_file(self, file: FileHash) -> None:
        path = self._folder / file.name
        field = _field_of(file.name)
        try:
            data = read_whole(path)
        except OSError as error:
            text = f"cannot read ({error.strerror})"
            self._add("unreadable", file.name, text, field=field, scan_ids=self._hit(field, b""))
            return
        self.files += 1
        self.nbytes += len(data)
        if len(data) != file.nbytes:
            text = f"{len(data)} bytes, expected {file.nbytes}"
            hit = self._hit(field, data) if "/c/" in file.name else self._row.entries.scan_ids()
            self._add("size", file.name, text, field=field, scan_ids=hit)
        elif hash_bytes(data) != file.xxh3:
            is_data = "/c/" in file.name
            hit = self._hit(field, data) if is_data else self._row.entries.scan_ids()
            part = "a chunk" if is_data and hit else "the index" if is_data else "metadata"
            text = f"{part} has a wrong checksum (xxh3)"
            if part == "the index":
                hit = self._hit_by_index(field, data)
            self._add("changed", file.name, text, field=field, scan_ids=hit)

    def _hit(self, field: str, data: bytes) -> tuple[str, ...]:
        """Scans of which a chunk of ``field`` is damaged or cut off in ``data``."""
        chunks = next((f for f in self._row.fields if f.name == field), None)
        ids = self._row.entries.scan_ids()
        if chunks is None:
            return ids
        array = np.frombuffer(data, np.uint8)
        return tuple(
            scan_id
            for scan_id, refs in zip(ids, chunks.chunks, strict=True)
            if not all(_is_sound(array, ref.offset, ref.length, ref.crc) for ref in refs)
        )

    def _hit_by_index(self, field: str, data: bytes) -> tuple[str, ...]:
        """Scans that plain Zarr would look for elsewhere; all where its crc alone differs."""
        ids = self._row.entries.scan_ids()
        chunks = next((f for f in self._row.fields if f.name == field), None)
        if chunks is None:
            return ids
        written = encode_index([ref for refs in chunks.chunks for ref in refs])
        found = data[-len(written) :]
        hit, start = [], 0
        for scan_id, refs in zip(ids, chunks.chunks, strict=True):
            own = slice(start, start + INDEX_ENTRY_BYTES * len(refs))
            start = own.stop
            if found[own] != written[own]:
                hit.append(scan_id)
        return tuple(hit) or ids

    def _check_record(self) -> None:
        """The files are as recorded; check that the record agrees with the shard's own metadata."""
        header = self._row.header
        try:
            described = describe_shard(self._folder)
        except CacheError as error:
            self._add("inconsistent", "", str(error))
            return
        if without_paths(described) != without_paths(self._row):
            self._add("inconsistent", "", "the commit record and the shard differ")
        if expected_key(header) != header.key:
            self._add("inconsistent", "", "the key does not belong to the parameters and inputs")

    def _wrong_values(self, n_classes: int) -> Iterator[tuple[str, str, str]]:
        reader = ShardReader(self._layout, self._row)
        try:
            for index, scan_id in enumerate(self._row.entries.scan_ids()):
                try:
                    wrong = list(self._scan_values(reader, index, n_classes))
                except CacheError as error:
                    wrong = [(str(error), "")]
                for text, field in wrong:
                    yield text, field, scan_id
        finally:
            reader.close()

    def _scan_values(
        self, reader: ShardReader, index: int, n_classes: int
    ) -> Iterator[tuple[str, str]]:
        values = {f.name: _all_parts(reader, f, index) for f in self._row.fields}
        for field in (name for name in values if name in FIELDS and FIELDS[name].is_class):
            if any(part is not None and (part >= n_classes).any() for part in values[field]):
                yield f"label beyond the {n_classes} classes", field
        container = self._row.header.container
        if container == "lidar":
            yield from _lidar_faults(values, self._row.entries.lidar[index])
        elif container == "camera":
            yield from self._camera_faults(values, index)
        elif container == "motion":
            yield from self._motion_faults(values, index)
        elif container == "thinned":
            yield from self._thinned_faults(values, index)
        else:
            yield from self._voxel_faults(values, index)

    def _camera_faults(self, values: dict[str, list[Any]], index: int) -> Iterator[tuple[str, str]]:
        n = self._points_of(index)
        for camera, view in enumerate(self._row.entries.camera[index].views):
            if view is None:
                continue
            point_index = values["point_index"][camera].ravel()[: view.m]
            pixel = values["pixel"][camera].reshape(2, -1)[:, : view.m]
            if view.m and not (np.diff(point_index) > 0).all():
                yield "point_index does not increase", "point_index"
            if view.m and (point_index[0] < 0 or (n is not None and point_index[-1] >= n)):
                yield f"point_index beyond the scan's {n} points", "point_index"
            if (pixel >= np.array([[view.height], [view.width]])).any():
                yield f"pixel outside the {view.height} x {view.width} picture", "pixel"

    def _motion_faults(self, values: dict[str, list[Any]], index: int) -> Iterator[tuple[str, str]]:
        assert self._row.entries.motion is not None
        entry, n = self._row.entries.motion[index], self._points_of(index)
        for field, parts in values.items():
            if any(part is not None and (part > max(Motion)).any() for part in parts):
                yield f"motion beyond {max(Motion)}", field
        motion = values["motion"][0] if "motion" in values else None
        if motion is not None and n is not None:
            moving = int(np.count_nonzero(motion[:n] == Motion.MOVING))
            if sum(entry.moving_histogram) > moving:
                yield "moving_histogram counts more than the points that move", "motion"

    def _thinned_faults(
        self, values: dict[str, list[Any]], index: int
    ) -> Iterator[tuple[str, str]]:
        assert self._row.entries.thinned is not None
        count = self._row.entries.thinned[index].thinned
        if not count:
            return
        row, apart, nearest = (
            values[name][0] for name in ("thinned_row", "neighbour", "nearest_thinned")
        )
        own = np.arange(count)
        place = apart[:, :count] + own
        n_raw = self._points_of(index, "n_raw")
        if (place < 0).any() or (place >= count).any():
            yield f"a neighbour beyond the {count} thinned points", "neighbour"
        if (nearest < 0).any() or (nearest >= count).any():
            yield f"nearest_thinned beyond the {count} thinned points", "nearest_thinned"
        elif len(np.unique(row[:count])) < count or (row < 0).any():
            yield "thinned_row names a point twice, or none", "thinned_row"
        elif n_raw is not None and row.max() >= n_raw:
            yield f"thinned_row beyond the {n_raw} raw points", "thinned_row"

    def _voxel_faults(self, values: dict[str, list[Any]], index: int) -> Iterator[tuple[str, str]]:
        counts = self._row.entries.voxel[index].voxels
        n = self._points_of(index)
        inverse = values["inverse"][0][:, :n]
        coord = values["coord"][0].astype(np.int64)
        for level, (scale, count) in enumerate(zip(SCALES, counts, strict=True)):
            row = inverse[level]
            # Padding is 0, so an unknown n hides nothing but voxel 0.
            if row.size and (row.min() < 0 or row.max() >= max(1, count)):
                yield f"inverse beyond the {count} voxels of scale {scale}", "inverse"
            start = sum(counts[:level])
            x, y, z = coord[:, start : start + count]
            if not (np.diff((x << 40) | (y << 20) | z) > 0).all():
                yield f"cells of scale {scale} are not sorted and distinct", "coord"

    def _points_of(self, index: int, count: Literal["n", "n_raw"] = "n") -> int | None:
        """N of the scan (or its raw points), from the `lidar` shard that this one is based on."""
        key = self._row.header.lidar_key
        try:
            lidar = load_row(self._layout, "lidar", self._row.shard, key)
        except (CacheError, OSError):
            return None  # reported where that record is checked
        return None if lidar is None else getattr(lidar.entries.lidar[index], count)


def _lidar_faults(values: dict[str, list[Any]], entry: LidarEntry) -> Iterator[tuple[str, str]]:
    raw_index = values["raw_index"][0][: entry.n]
    if entry.n and (raw_index[0] < 0 or raw_index[-1] >= entry.n_raw):
        yield f"raw_index beyond the {entry.n_raw} raw points", "raw_index"
    if not (np.diff(raw_index) > 0).all():
        yield "raw_index does not increase", "raw_index"
    if entry.has_label:
        label, n_counts = values["label"][0][: entry.n], len(entry.label_histogram)
        if "time" in values:  # points of added sweeps have no label and are not counted
            label = label[values["time"][0][: entry.n] == 0]
        if np.bincount(label, minlength=n_counts).tolist() != list(entry.label_histogram):
            yield "label_histogram does not count the labels", "label"
    if not np.isfinite(values["xyz"][0]).all():
        yield "a coordinate is not finite", "xyz"


def _all_parts(reader: ShardReader, field: FieldChunks, index: int) -> list[NDArray[Any] | None]:
    return [reader.chunk(field.name, index, part) for part in range(len(field.chunks[index]))]


def _is_sound(data: NDArray[np.uint8], offset: int, length: int, crc: int) -> bool:
    if length == ABSENT.length:
        return True
    chunk = data[offset : offset + length]
    if len(chunk) < length:
        return False
    stored = int.from_bytes(chunk[-CRC_BYTES:].tobytes(), "little")
    return stored == crc and crc32c(chunk[:-CRC_BYTES]) == crc


def _field_of(name: str) -> str:
    parts = Path(name).parts
    return parts[0] if len(parts) > 1 else ""
