"""The table of arrays: which container holds which field, in which type and codec.

Home of the names, types, axes and codecs that FORMAT lists; writer, reader and verify ask here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pass2d.cache.codec import Codec

STAGES = ("lidar", "camera", "voxel")
"""Containers, in the order in which they depend on each other."""
PROFILES = ("speed", "size")
STRIP_COLUMNS = 128
"""Picture columns per inner chunk: a 480-wide crop reads 4 or 5 strips of 10."""

_LZ4_SHUFFLE = Codec(cname="lz4", clevel=5, shuffle="shuffle")
_LZ4_PLAIN = Codec(cname="lz4", clevel=5, shuffle="noshuffle")
_LZ4_FAST = Codec(cname="lz4", clevel=1, shuffle="noshuffle")
# bench/bench_choices.py: bytes shuffled beat bits by 3 to 15 % of all bytes and decode faster; only
# pictures of KITTI get smaller by bits (5 to 9 %).
_ZSTD_SHUFFLE = Codec(cname="zstd", clevel=3, shuffle="shuffle")
_ZSTD_BITS = Codec(cname="zstd", clevel=3, shuffle="bitshuffle")

CODEC_VERSIONS = {"speed": 1, "size": 2}
"""Raised when a profile's codecs change; a part of the key from 2 on (`pipeline.jobs`)."""


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """One array of a container."""

    name: str
    stage: str
    dtypes: tuple[str, ...]
    """NumPy type names; the first that holds a shard's values exactly is used."""
    rows: int
    """Length of the axis between scan (and camera) and points: 3 for xyz; 0 for no such axis."""
    speed: Codec
    size: Codec = _ZSTD_SHUFFLE
    is_per_camera: bool = False

    def codec(self, profile: str) -> Codec:
        """The codec of a profile."""
        return self.speed if profile == "speed" else self.size


FIELDS: dict[str, FieldSpec] = {
    spec.name: spec
    for spec in (
        FieldSpec(name="xyz", stage="lidar", dtypes=("float32",), rows=3, speed=_LZ4_SHUFFLE),
        FieldSpec(
            name="intensity", stage="lidar", dtypes=("uint8", "float32"), rows=0, speed=_LZ4_FAST
        ),
        FieldSpec(name="label", stage="lidar", dtypes=("uint8",), rows=0, speed=_LZ4_PLAIN),
        FieldSpec(
            name="instance", stage="lidar", dtypes=("uint16", "uint32"), rows=0, speed=_LZ4_SHUFFLE
        ),
        FieldSpec(name="raw_index", stage="lidar", dtypes=("int32",), rows=0, speed=_LZ4_SHUFFLE),
        FieldSpec(name="time", stage="lidar", dtypes=("float32",), rows=0, speed=_LZ4_SHUFFLE),
        FieldSpec(
            name="outside_xyz", stage="lidar", dtypes=("float32",), rows=3, speed=_LZ4_SHUFFLE
        ),
        FieldSpec(
            name="outside_intensity",
            stage="lidar",
            dtypes=("uint8", "float32"),
            rows=0,
            speed=_LZ4_FAST,
        ),
        FieldSpec(name="outside_label", stage="lidar", dtypes=("uint8",), rows=0, speed=_LZ4_PLAIN),
        FieldSpec(
            name="outside_time", stage="lidar", dtypes=("float32",), rows=0, speed=_LZ4_SHUFFLE
        ),
        FieldSpec(
            name="image",
            stage="camera",
            dtypes=("uint8",),
            rows=0,
            speed=_LZ4_PLAIN,
            size=_ZSTD_BITS,
            is_per_camera=True,
        ),
        FieldSpec(
            name="point_index",
            stage="camera",
            dtypes=("int32",),
            rows=0,
            speed=_LZ4_SHUFFLE,
            is_per_camera=True,
        ),
        FieldSpec(
            name="pixel",
            stage="camera",
            dtypes=("uint16",),
            rows=2,
            speed=_LZ4_SHUFFLE,
            is_per_camera=True,
        ),
        FieldSpec(name="coord", stage="voxel", dtypes=("int16",), rows=3, speed=_LZ4_SHUFFLE),
        FieldSpec(name="vlabel", stage="voxel", dtypes=("uint8",), rows=0, speed=_LZ4_PLAIN),
        FieldSpec(name="inverse", stage="voxel", dtypes=("int32",), rows=5, speed=_LZ4_SHUFFLE),
    )
}


def stage_fields(stage: str) -> tuple[FieldSpec, ...]:
    """The fields of a container."""
    return tuple(spec for spec in FIELDS.values() if spec.stage == stage)


def chunks_per_scan(name: str, *, n_cameras: int, width: int) -> int:
    """Inner chunks that one scan has in field ``name``; ``width`` is the stored picture width."""
    if name == "image" and n_cameras == 1:
        return -(-width // STRIP_COLUMNS)
    return n_cameras if FIELDS[name].is_per_camera else 1


def signal_table(divisor: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """(256,) float32: the signal that each stored uint8 stands for, ``float32(k / divisor)``."""
    return (np.arange(256) / divisor).astype(np.float32)


SIGNAL_DIVISORS = (100, 1, 255)
"""Tried in this order: SemanticKITTI holds k/100, nuScenes whole numbers, others k/255."""
