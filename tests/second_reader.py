"""A reader of the format written from docs/format.md alone: it imports nothing of pass2d."""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow.parquet as pq
import xxhash
from numcodecs import Blosc

SCALES = (1, 2, 4, 8, 16)
KEY_PARTS = ("format_version", "stage", "code_version", "profile", "parameters", "inputs")
JSON_COLUMNS = ("parameters", "inputs", "arrays", "encodings", "failed")
NOT_STORED = 2**64 - 1


def canonical(value: Any) -> bytes:
    return (
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    ).encode()


def unsealed(line: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(line)
    seal = value.pop("xxh3")
    assert xxhash.xxh3_128_hexdigest(canonical(value)) == seal
    return value


def key_of(attributes: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(canonical({part: attributes[part] for part in KEY_PARTS}))


def crc_of(data: bytes) -> int:
    return int(google_crc32c.value(data))


def decode(data: bytes, dtype: str, shape: list[int]) -> np.ndarray:
    assert crc_of(data[:-4]) == struct.unpack("<I", data[-4:])[0]
    flat = np.frombuffer(Blosc().decode(data[:-4]), np.dtype(dtype).newbyteorder("<"))
    return flat.reshape(shape)


def read_shard_array(folder: Path, name: str) -> np.ndarray:
    """A whole array by its own metadata and index; no manifest."""
    metadata = json.loads((folder / name / "zarr.json").read_bytes())
    chunk = metadata["codecs"][0]["configuration"]["chunk_shape"]
    outer = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    shape = metadata["shape"]
    grid = [whole // part for whole, part in zip(outer, chunk, strict=True)]
    data = (folder / name / "c").joinpath(*"0" * len(shape)).read_bytes()
    index = data[-16 * math.prod(grid) - 4 :]
    assert crc_of(index[:-4]) == struct.unpack("<I", index[-4:])[0]
    array = np.zeros(outer, metadata["data_type"])
    for number, (offset, length) in enumerate(np.frombuffer(index[:-4], "<u8").reshape(-1, 2)):
        if offset == length == NOT_STORED:
            continue
        place = np.unravel_index(number, grid)
        part = tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunk, strict=True))
        array[part] = decode(data[offset : offset + length], metadata["data_type"], chunk)
    return array[tuple(slice(0, size) for size in shape)]


@dataclass
class SecondReader:
    """The current generation of a prepared data set."""

    root: Path

    def __post_init__(self) -> None:
        generation = self.root / "manifest" / (self.root / "CURRENT").read_text().strip()
        hashes = unsealed((generation / "hashes.json").read_bytes())["files"]
        for name in ("scans.parquet", "shards.parquet"):
            assert xxhash.xxh3_128_hexdigest((generation / name).read_bytes()) == hashes[name]
        scans = pq.read_table(generation / "scans.parquet")
        description = json.loads(scans.schema.metadata[b"pass2d"])
        assert description["format_version"] == 1
        assert description == json.loads((self.root / "dataset.json").read_bytes())
        self.info = description["info"]
        self.scans: list[dict[str, Any]] = scans.to_pylist()
        self.shards: dict[tuple[str, int], dict[str, Any]] = {}
        for row in pq.read_table(generation / "shards.parquet").to_pylist():
            row.update({name: json.loads(row[name]) for name in JSON_COLUMNS})
            self.shards[row["stage"], row["shard"]] = row

    def chunks(self, scan: dict[str, Any], stage: str, name: str) -> list[np.ndarray | None]:
        """The inner chunks of one field of one scan, without the axis of scans."""
        shard = self.shards[stage, scan["shard"]]
        offsets, lengths, crcs = (scan[f"{name}_{part}"] for part in ("offset", "length", "crc"))
        if name not in shard["arrays"] or offsets is None:
            return [None]
        if not isinstance(offsets, list):
            offsets, lengths, crcs = [offsets], [lengths], [crcs]
        array = shard["arrays"][name]
        path = (self.root / shard["path"] / name / "c").joinpath(*"0" * len(array["chunk"]))
        fd = os.open(path, os.O_RDONLY)
        try:
            packed = [os.pread(fd, n, at) for at, n in zip(offsets, lengths, strict=True)]
        finally:
            os.close(fd)
        assert all(not p or crc_of(p[:-4]) == crc for p, crc in zip(packed, crcs, strict=True))
        return [decode(p, array["dtype"], array["chunk"])[0] if p else None for p in packed]

    def points(self, scan: dict[str, Any], name: str) -> np.ndarray | None:
        count = scan["n_raw"] - scan["n"] if name.startswith("outside") else scan["n"]
        (values,) = self.chunks(scan, "lidar", name)
        return None if values is None else values[..., :count]

    def signal(self, scan: dict[str, Any], name: str) -> np.ndarray:
        values = self.points(scan, name)
        divisor = self.shards["lidar", scan["shard"]]["encodings"]["intensity_divisor"]
        assert values is not None
        return (values / divisor).astype(np.float32) if divisor else values

    def views(self, scan: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Picture, rows of the points seen and their pixels, per camera with a picture."""
        fields = [self.chunks(scan, "camera", n) for n in ("image", "point_index", "pixel")]
        for camera, height in enumerate(scan["image_height"]):
            if not height:
                continue
            width, m = scan["image_width"][camera], scan["m"][camera]
            if self.info["n_cameras"] == 1:
                strips = [strip for strip in fields[0] if strip is not None]
                parts = [np.concatenate(strips, axis=1), fields[1][0], fields[2][0]]
            else:
                parts = [chunks[camera][0] for chunks in fields]  # type: ignore[index]
            image, point_index, pixel = parts
            assert point_index is not None
            assert pixel is not None
            yield image[:height, :width], point_index[:m], pixel[:, :m]

    def voxels(self, scan: dict[str, Any]) -> Iterator[tuple[np.ndarray, ...]]:
        """Cells, labels (or none) and each point's voxel, per scale."""
        coord, vlabel, inverse = (
            self.chunks(scan, "voxel", name)[0] for name in ("coord", "vlabel", "inverse")
        )
        assert coord is not None
        assert inverse is not None
        ends = np.cumsum([0, *scan["voxels"]])
        for row, (start, end) in enumerate(itertools.pairwise(ends)):
            label = np.empty(0, np.uint8) if vlabel is None else vlabel[start:end]
            yield coord[:, start:end], label, inverse[row, : scan["n"]]
