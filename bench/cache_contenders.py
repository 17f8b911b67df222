"""The ways to read a scan that bench_cache.py lets run in turn."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pass2d.cache.codec import CRC_BYTES, decode_into
from pass2d.cache.fields import FIELDS, Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.arena import Arena
from pass2d.pipeline import compose
from pass2d.pipeline.source import SourceListing

TRAINING = Fields(label=True, image=True, pixels=True)
CROP_COLUMNS = 480
TRAINING_ARRAYS = ("xyz", "intensity", "label", "raw_index", "image", "point_index", "pixel")
STRIP = 128
Read = Callable[[int], object]


def repeated(listing: SourceListing, count: int) -> SourceListing:
    """Scans with pictures, listed again under new frame numbers until there are ``count``."""
    usable = [s for s in listing.scans if s.image_from_lidar and s.labels and any(s.images)]
    scans = [
        replace(usable[i % len(usable)], frame_index=i, scan_id=f"00/{i:06d}", sequence="00")
        for i in range(count)
    ]
    return replace(listing, scans=tuple(scans), notes=())


class Chunk(NamedTuple):
    """One chunk of a training sample: what every reader must read and decode at least."""

    field: str
    path: str
    offset: int
    length: int
    shape: tuple[int, ...]
    dtype: np.dtype


def chunks_of(reader: CacheReader, position: int) -> list[Chunk]:
    found = []
    shard = int(reader.scans.shard[position])
    for name in TRAINING_ARRAYS:
        array = reader._shards.get(FIELDS[name].container, shard).arrays[name]
        spans = reader._chunks[name].spans(position)
        if name == "image":
            start, stop = crop(reader, position)
            spans = spans[start // STRIP : -(-stop // STRIP)]
        found += [
            Chunk(name, array.path, s.offset, s.length, array.chunk[1:], array.dtype) for s in spans
        ]
    return found


def crop(reader: CacheReader, position: int) -> tuple[int, int]:
    """A window of 480 columns that moves from scan to scan."""
    width = int(reader.scans.image_hw[position, 1])
    start = (position * 97) % (width - CROP_COLUMNS)
    return start, start + CROP_COLUMNS


def sample(reader: CacheReader) -> Read:
    """Our reader, into memory that is used again."""
    arena = Arena()

    def read(position: int) -> object:
        arena.restart()
        return reader.read(position, TRAINING, columns=crop(reader, position), allocate=arena)

    return read


def plain_decode(reader: CacheReader, *, is_complete: bool) -> Read:
    """preadv and blosc of the same chunks, nothing else: the floor.

    ``is_complete``: also the signal as float32 and the strips side by side as one crop, so that
    what comes out is what the reader gives.
    """
    files: dict[str, int] = {}
    packed = np.empty(1 << 23, np.uint8)
    arena = Arena()
    wanted = [chunks_of(reader, position) for position in range(len(reader.scans))]
    crops = [crop(reader, position) for position in range(len(reader.scans))]
    heights = reader.scans.image_hw[:, 0].tolist()

    def read(position: int) -> None:
        arena.restart()
        start, stop = crops[position]
        left = start - start % STRIP
        if is_complete:
            picture = arena((heights[position], CROP_COLUMNS, 3), np.dtype(np.uint8))
        for field, path, offset, length, shape, dtype in wanted[position]:
            if path not in files:
                files[path] = os.open(path, os.O_RDONLY)
            os.preadv(files[path], [packed[:length].data], offset)
            out = arena(shape, dtype)
            decode_into(packed[: length - CRC_BYTES], out)
            if is_complete and field == "image":
                a, b = max(start, left), min(stop, left + STRIP)
                picture[:, a - start : b - start] = out[: len(picture), a - left : b - left]
                left += STRIP
            elif is_complete and field == "intensity":
                np.divide(out, np.float32(100), out=arena(shape, np.dtype(np.float32)))

    return read


class Uncompressed:
    """The same arrays without compression, one file per field as in our shards.

    ``is_strips``: the chunks of the reader, the crop's strips only. Else as a cache without chunks
    would hold them: whole pictures, the signal as float32; the crop is a view.
    """

    def __init__(self, reader: CacheReader, folder: Path, *, is_strips: bool) -> None:
        self._folder = folder / ("strips" if is_strips else "whole")
        self._folder.mkdir()
        self._files: dict[str, int] = {}
        self._places: list[list[tuple[str, int, tuple[int, ...], np.dtype]]] = []
        self._arena = Arena()
        for position in range(len(reader.scans)):
            arrays = _strips(reader, position) if is_strips else _whole(reader, position)
            self._places.append([self._append(name, array) for name, array in arrays])

    def paths(self) -> list[Path]:
        return sorted(self._folder.iterdir())

    def __call__(self, position: int) -> None:
        self._arena.restart()
        for name, start, shape, dtype in self._places[position]:
            if name not in self._files:
                self._files[name] = os.open(self._folder / name, os.O_RDONLY)
            os.preadv(self._files[name], [self._arena(shape, dtype).data], start)

    def _append(self, name: str, array: np.ndarray) -> tuple[str, int, tuple[int, ...], np.dtype]:
        with (self._folder / name).open("ab") as file:
            start = file.tell()
            file.write(np.ascontiguousarray(array).tobytes())
        return name, start, array.shape, array.dtype


def _strips(reader: CacheReader, position: int) -> list[tuple[str, np.ndarray]]:
    arrays = []
    for field, path, offset, length, shape, dtype in chunks_of(reader, position):
        with Path(path).open("rb") as file:
            file.seek(offset)
            data = np.frombuffer(file.read(length), np.uint8)
        out = np.empty(shape, dtype)
        decode_into(data[:-CRC_BYTES], out)
        arrays.append((field, out))
    return arrays


def _whole(reader: CacheReader, position: int) -> list[tuple[str, np.ndarray]]:
    record = reader.read(position, TRAINING)
    view = record.cameras[0]
    return [
        ("xyz", record.xyz),
        ("signal", record.signal),
        ("label", record.label),
        ("raw_index", record.raw_index),
        ("image", view.image),
        ("point_index", view.point_index),
        ("pixel", view.pixel_rc),
    ]


def plain_zarr(root: Path, reader: CacheReader) -> Read:
    """What a user of zarr-python writes: open once, index one scan."""
    import zarr

    groups = {
        (stage, shard): zarr.open_group(reader._shards.get(stage, shard).folder, mode="r")
        for stage in ("lidar", "camera")
        for shard in np.unique(reader.scans.shard).tolist()
    }

    def read(position: int) -> None:
        shard, row = int(reader.scans.shard[position]), int(reader.scans.row[position])
        start, stop = crop(reader, position)
        for name in TRAINING_ARRAYS:
            array = groups[FIELDS[name].container, shard][name]
            array[row] if name != "image" else array[row, :, start:stop]

    return read


def source_files(listing: SourceListing) -> Read:
    """Our own stages from the raw files."""

    def read(position: int) -> None:
        scan = listing.scans[position]
        lidar = compose.lidar_record(scan, listing.info)
        compose.camera_views(scan, lidar, listing.info)

    return read


def usual_loader(listing: SourceListing) -> Read:
    """What published loaders do: files opened, each label looked up, PNG decoded, projection."""
    label_of = np.vectorize(listing.info.labels.raw_to_training.__getitem__)
    low, high = np.array(listing.info.grid.low), np.array(listing.info.grid.high)

    def read(position: int) -> None:
        scan = listing.scans[position]
        points = np.fromfile(scan.points, np.float32).reshape(-1, 4)
        label = label_of(np.fromfile(scan.labels, np.uint32) & 0xFFFF).astype(np.uint8)
        inside = ((points[:, :3] > low) & (points[:, :3] < high)).all(axis=1)
        points, label = points[inside], label[inside]
        image = np.array(Image.open(scan.images[0]))
        ahead = points[points[:, 0] > 0]
        matrix = np.reshape(scan.image_from_lidar[0], (3, 4))
        u, v, w = matrix @ np.column_stack([ahead[:, :3], np.ones(len(ahead))]).T
        u, v = u / w, v / w
        seen = (u > 0) & (u < image.shape[1]) & (v > 0) & (v < image.shape[0])
        np.column_stack([v, u])[seen].astype(np.int32)

    return read
