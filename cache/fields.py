"""The table of arrays: the container, type and codec of each field.

The only place that defines a field (`docs/format.md` lists them): its name on disk and in memory,
the option that reads it, its length, types and codecs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.codec import Codec
from pass2d.common.thinning import ThinningConfig

CONTAINERS = ("lidar", "camera", "voxel", "motion", "thinned")
"""Zarr groups of a shard, in the order in which they depend on each other."""
LATER_CONTAINERS = ("motion", "thinned")
"""Containers that caches of earlier versions lack."""
PROFILES = ("speed", "size", "raw")
STORED_THINNING = ThinningConfig(cell_m=0.1, neighbours=16)
"""Of the container `thinned`: as published for VaViT."""
STRIP_COLUMNS = 128
"""Picture columns per inner chunk: a 480-wide crop reads 4 or 5 strips of 10."""

_LZ4_SHUFFLE = Codec(cname="lz4", clevel=5, shuffle="shuffle")
_LZ4_PLAIN = Codec(cname="lz4", clevel=5, shuffle="noshuffle")
_LZ4_FAST = Codec(cname="lz4", clevel=1, shuffle="noshuffle")
# bench/bench_choices.py: bytes shuffled beat bits by 3 to 15 % of all bytes and decode faster; only
# pictures of KITTI get smaller by bits (5 to 9 %).
_LZ4_BITS = Codec(cname="lz4", clevel=5, shuffle="bitshuffle")
_ZSTD_SHUFFLE = Codec(cname="zstd", clevel=3, shuffle="shuffle")
_ZSTD_BITS = Codec(cname="zstd", clevel=3, shuffle="bitshuffle")
_STORED = Codec(cname="lz4", clevel=0, shuffle="noshuffle")

CODEC_VERSIONS = {"speed": 1, "size": 2, "raw": 1}
"""Raised when a profile's codecs change; a part of the key from 2 on (`pipeline.jobs`)."""


Length = Literal["points", "outside", "visible", "picture", "voxels", "thinned", "raw"]
"""What the last axis counts: kept points, points outside the volume, points visible in a picture,
picture columns and colours, voxels of all scales, thinned points, all rows of the raw file."""


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """One array of a container; a new one is a line of `FIELDS`."""

    name: str
    container: str
    length: Length
    dtypes: tuple[str, ...]
    """NumPy type names; the first that holds a shard's values exactly is used."""
    speed: Codec
    size: Codec = _ZSTD_SHUFFLE
    rows: int = 0
    """Length of the axis between scan (and camera) and points: 3 for xyz; 0 for no such axis."""
    attribute: str = ""
    """Attribute of `ScanRecord`, `CameraView` or `VoxelLevel`; "" if it is in
    ``ScanRecord.extra``."""
    option: str = "extra"
    """Option of `Fields` that reads it; "" if it is always read."""
    is_required: bool = False
    """Whether every scan has it."""
    is_signal: bool = False
    """Stored as uint8 with the shard's divisor where that is exact, else as float32."""
    is_class: bool = False
    """Whether the values are training ids."""
    stored_with: Literal[
        "", "label", "picture", "visible", "voxels", "labelled voxels", "thinned"
    ] = ""
    """Whether the manifest says that a scan must have it."""
    compute: Callable[[NDArray[np.float32]], NDArray[np.generic]] | None = None
    """Computes it when a scan is prepared, from its kept points (4, N): x, y, z, signal. None if a
    stage of its own does, or nothing does."""

    @property
    def is_per_camera(self) -> bool:
        """Whether a scan has one chunk (or more) per camera."""
        return self.container == "camera"

    def is_listed(self, n_cameras: int) -> bool:
        """Whether a scan has several chunks: its columns of the manifest hold lists."""
        return self.length == "picture" or (n_cameras > 1 and self.is_per_camera)

    def codec(self, profile: str) -> Codec:
        """The codec of a profile."""
        return {"speed": self.speed, "size": self.size, "raw": _STORED}[profile]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What to read besides xyz, signal, raw_index and time."""

    label: bool = True
    instance: bool = False
    image: bool = False
    pixels: bool = False
    """Visible points and their pixels."""
    voxels: bool = False
    outside: bool = False
    """The raw file's points outside the volume."""
    motion: bool = False
    """Whether each point moves; also of the points outside, if they are asked for."""
    thinned: bool = False
    """Thinned points and their neighbours."""
    camera: int | None = None
    """Only this camera; all of them when None."""
    extra: tuple[str, ...] = ()
    """Names of fields that have no option of their own."""

    @property
    def outside_motion(self) -> bool:
        """Motion of the points outside the volume."""
        return self.motion and self.outside

    def asks_for(self, spec: FieldSpec) -> bool:
        """Whether to read a field."""
        if spec.option == "extra":
            return spec.name in self.extra
        return not spec.option or bool(getattr(self, spec.option))


_SIGNAL = ("uint8", "float32")
_POINTS: tuple[FieldSpec, ...] = (
    FieldSpec(
        name="xyz",
        attribute="xyz",
        option="",
        container="lidar",
        length="points",
        rows=3,
        dtypes=("float32",),
        speed=_LZ4_SHUFFLE,
        is_required=True,
    ),
    FieldSpec(
        name="intensity",
        attribute="signal",
        option="",
        container="lidar",
        length="points",
        dtypes=_SIGNAL,
        speed=_LZ4_FAST,
        is_required=True,
        is_signal=True,
    ),
    FieldSpec(
        name="label",
        attribute="label",
        option="label",
        container="lidar",
        length="points",
        dtypes=("uint8",),
        speed=_LZ4_PLAIN,
        is_class=True,
        stored_with="label",
    ),
    FieldSpec(
        name="instance",
        attribute="instance",
        option="instance",
        container="lidar",
        length="points",
        dtypes=("uint16", "uint32"),
        speed=_LZ4_SHUFFLE,
    ),
    FieldSpec(
        name="raw_index",
        attribute="raw_index",
        option="",
        container="lidar",
        length="points",
        dtypes=("int32",),
        speed=_LZ4_SHUFFLE,
        is_required=True,
    ),
    FieldSpec(
        name="time",
        attribute="time",
        option="",
        container="lidar",
        length="points",
        dtypes=("float32",),
        speed=_LZ4_SHUFFLE,
    ),
)
_OUTSIDE: tuple[FieldSpec, ...] = (
    FieldSpec(
        name="outside_xyz",
        attribute="outside_xyz",
        option="outside",
        container="lidar",
        length="outside",
        rows=3,
        dtypes=("float32",),
        speed=_LZ4_SHUFFLE,
        is_required=True,
    ),
    FieldSpec(
        name="outside_intensity",
        attribute="outside_signal",
        option="outside",
        container="lidar",
        length="outside",
        dtypes=_SIGNAL,
        speed=_LZ4_FAST,
        is_required=True,
        is_signal=True,
    ),
    FieldSpec(
        name="outside_label",
        attribute="outside_label",
        option="outside",
        container="lidar",
        length="outside",
        dtypes=("uint8",),
        speed=_LZ4_PLAIN,
        is_class=True,
    ),
    FieldSpec(
        name="outside_time",
        attribute="outside_time",
        option="outside",
        container="lidar",
        length="outside",
        dtypes=("float32",),
        speed=_LZ4_SHUFFLE,
    ),
)
_CAMERA: tuple[FieldSpec, ...] = (
    FieldSpec(
        name="image",
        attribute="image",
        option="image",
        container="camera",
        length="picture",
        dtypes=("uint8",),
        speed=_LZ4_PLAIN,
        size=_ZSTD_BITS,
        stored_with="picture",
    ),
    FieldSpec(
        name="point_index",
        attribute="point_index",
        option="pixels",
        container="camera",
        length="visible",
        dtypes=("int32",),
        speed=_LZ4_SHUFFLE,
        stored_with="visible",
    ),
    FieldSpec(
        name="pixel",
        attribute="pixel_rc",
        option="pixels",
        container="camera",
        length="visible",
        rows=2,
        dtypes=("uint16",),
        speed=_LZ4_SHUFFLE,
        stored_with="visible",
    ),
)
_VOXEL: tuple[FieldSpec, ...] = (
    FieldSpec(
        name="coord",
        attribute="coord",
        option="voxels",
        container="voxel",
        length="voxels",
        rows=3,
        dtypes=("int16",),
        speed=_LZ4_SHUFFLE,
        is_required=True,
        stored_with="voxels",
    ),
    FieldSpec(
        name="vlabel",
        attribute="label",
        option="voxels",
        container="voxel",
        length="voxels",
        dtypes=("uint8",),
        speed=_LZ4_PLAIN,
        is_class=True,
        stored_with="labelled voxels",
    ),
    FieldSpec(
        name="inverse",
        attribute="inverse",
        option="voxels",
        container="voxel",
        length="points",  # of each scale
        rows=5,
        dtypes=("int32",),
        speed=_LZ4_SHUFFLE,
        is_required=True,
        stored_with="voxels",
    ),
)
_MOTION: tuple[FieldSpec, ...] = (
    FieldSpec(
        name="motion",
        attribute="motion",
        option="motion",
        container="motion",
        length="points",
        dtypes=("uint8",),
        speed=_LZ4_PLAIN,
    ),
    FieldSpec(
        name="outside_motion",
        attribute="outside_motion",
        option="outside_motion",
        container="motion",
        length="outside",
        dtypes=("uint8",),
        speed=_LZ4_PLAIN,
    ),
)
# One real scan, kB and ms to decode: neighbours as int16 differences 1296, 0.5 (zstd 1216, 2.2); as
# places 1677, 0.6; `bench/bench_vavit.py`.
_THINNED: tuple[FieldSpec, ...] = (
    FieldSpec(
        name="thinned_row",
        attribute="rows",
        option="thinned",
        container="thinned",
        length="thinned",
        dtypes=("int32",),
        speed=_LZ4_SHUFFLE,
        stored_with="thinned",
    ),
    FieldSpec(
        name="neighbour",
        attribute="apart",
        option="thinned",
        container="thinned",
        length="thinned",
        rows=STORED_THINNING.neighbours,
        dtypes=("int16", "int32"),
        speed=_LZ4_BITS,
        stored_with="thinned",
    ),
    FieldSpec(
        name="nearest_thinned",
        attribute="answers",
        option="thinned",
        container="thinned",
        length="raw",
        dtypes=("int32",),
        speed=_LZ4_SHUFFLE,
        stored_with="thinned",
    ),
)
FIELDS: dict[str, FieldSpec] = {
    spec.name: spec for spec in (*_POINTS, *_OUTSIDE, *_CAMERA, *_VOXEL, *_MOTION, *_THINNED)
}
"""Every array by name, in the order of `dataset.json`. Writer, reader, manifest, checks and reports
loop over it."""


def container_fields(container: str) -> tuple[FieldSpec, ...]:
    """The fields of a container."""
    return tuple(spec for spec in FIELDS.values() if spec.container == container)


def chunks_per_scan(name: str, *, n_cameras: int, width: int) -> int:
    """Inner chunks that one scan has in field ``name``; ``width`` is the stored picture width."""
    if FIELDS[name].length == "picture" and n_cameras == 1:
        return -(-width // STRIP_COLUMNS)
    return n_cameras if FIELDS[name].is_per_camera else 1


def signal_table(divisor: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """(256,) float32: the signal that each stored uint8 stands for, ``float32(k / divisor)``."""
    return (np.arange(256) / divisor).astype(np.float32)


SIGNAL_DIVISORS = (100, 1, 255)
"""Tried in this order: SemanticKITTI holds k/100, nuScenes whole numbers, others k/255."""
