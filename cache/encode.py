"""From scans to the arrays of a container: shapes, padding, exact small types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.fields import FIELDS, SIGNAL_DIVISORS, STRIP_COLUMNS, FieldSpec, signal_table
from pass2d.cache.schema import CameraView, ScanRecord, VoxelLevel
from pass2d.cache.shard import ArraySpec

Chunk = NDArray[np.generic] | None
Views = Sequence[CameraView | None]
"""The pictures of one scan, one per camera; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class ArrayPlan:
    """One array to write: its spec and its chunks in grid order."""

    spec: ArraySpec
    chunks: Iterator[Chunk]


def signal_divisor(signals: Sequence[NDArray[np.float32]]) -> int:
    """The divisor d for which every value is exactly ``float32(k / d)``, k in 0..255; 0: none."""
    for divisor in SIGNAL_DIVISORS:
        table = signal_table(divisor)
        if all(_is_exact(signal, table, divisor) for signal in signals):
            return divisor
    return 0


def _is_exact(signal: NDArray[np.float32], table: NDArray[np.float32], divisor: int) -> bool:
    # Bits are compared, not values: -0.0 and NaN must come back as they were.
    return bool(
        np.array_equal(table[_codes(signal, divisor)].view(np.uint32), signal.view(np.uint32))
    )


def _codes(signal: NDArray[np.float32], divisor: int) -> NDArray[np.uint8]:
    with np.errstate(invalid="ignore", over="ignore"):
        codes = np.rint(signal * np.float32(divisor))
        return np.clip(np.nan_to_num(codes), 0, 255).astype(np.uint8)


def lidar_arrays(
    records: Sequence[ScanRecord], *, profile: str
) -> tuple[list[ArrayPlan], dict[str, int]]:
    """Arrays of a `lidar` container and its encodings."""
    n_max = max([1, *(record.n for record in records)])
    o_max = max([1, *(record.n_raw - record.n for record in records)])
    outside = [r.outside_signal for r in records if r.outside_signal is not None]
    divisor = signal_divisor([*(record.signal for record in records), *outside])
    wide = any(r.instance is not None and r.instance.max(initial=0) > 65535 for r in records)

    def signal(values: NDArray[np.float32] | None) -> Chunk:
        return _codes(values, divisor) if divisor and values is not None else values

    def instance(record: ScanRecord) -> NDArray[np.generic] | None:
        if record.instance is None:
            return None
        return record.instance.astype(np.uint32 if wide else np.uint16)

    signal_dtype = "uint8" if divisor else "float32"
    columns: dict[str, tuple[str, int, list[Chunk]]] = {
        "xyz": ("float32", n_max, [r.xyz for r in records]),
        "intensity": (signal_dtype, n_max, [signal(r.signal) for r in records]),
        "label": ("uint8", n_max, [r.label for r in records]),
        "instance": ("uint32" if wide else "uint16", n_max, [instance(r) for r in records]),
        "raw_index": ("int32", n_max, [r.raw_index for r in records]),
        "time": ("float32", n_max, [r.time for r in records]),
        "outside_xyz": ("float32", o_max, [r.outside_xyz for r in records]),
        "outside_intensity": (signal_dtype, o_max, [signal(r.outside_signal) for r in records]),
        "outside_label": ("uint8", o_max, [r.outside_label for r in records]),
        "outside_time": ("float32", o_max, [r.outside_time for r in records]),
    }
    plans = [
        _points_plan(FIELDS[name], dtype, values, length, profile)
        for name, (dtype, length, values) in columns.items()
        if any(value is not None for value in values)
    ]
    return plans, {"intensity_divisor": divisor}


def voxel_arrays(hashes: Sequence[Sequence[VoxelLevel]], *, profile: str) -> list[ArrayPlan]:
    """Arrays of a `voxel` container: scales end to end in `coord` and `vlabel`."""
    v_max = max([1, *(sum(level.coord.shape[1] for level in levels) for levels in hashes)])
    n_max = max([1, *(len(level.inverse) for levels in hashes for level in levels)])
    columns: dict[str, tuple[list[Chunk], int]] = {
        "coord": ([np.concatenate([v.coord for v in levels], axis=1) for levels in hashes], v_max),
        "vlabel": ([_voxel_labels(levels) for levels in hashes], v_max),
        "inverse": ([np.stack([v.inverse for v in levels]) for levels in hashes], n_max),
    }
    return [
        _points_plan(FIELDS[name], FIELDS[name].dtypes[0], values, length, profile)
        for name, (values, length) in columns.items()
        if any(value is not None for value in values)
    ]


def _voxel_labels(levels: Sequence[VoxelLevel]) -> Chunk:
    labels = [level.label for level in levels if level.label is not None]
    return np.concatenate(labels) if len(labels) == len(levels) else None


def camera_arrays(pictures: Sequence[Views], *, n_cameras: int, profile: str) -> list[ArrayPlan]:
    """Arrays of a `camera` container; empty when no scan has a picture."""
    views = [view for scan in pictures for view in scan if view is not None]
    if not views:
        return []
    m_max = max(1, *(len(view.point_index) for view in views))
    return [
        _image_plan(pictures, n_cameras, profile),
        _view_plan(FIELDS["point_index"], pictures, m_max, n_cameras, profile),
        _view_plan(FIELDS["pixel"], pictures, m_max, n_cameras, profile),
    ]


def _points_plan(
    field: FieldSpec, dtype: str, values: Sequence[Chunk], length: int, profile: str
) -> ArrayPlan:
    axis = (field.rows,) if field.rows else ()
    spec = ArraySpec(
        name=field.name,
        dtype=dtype,
        shape=(len(values), *axis, length),
        chunk=(1, *axis, length),
        codec=field.codec(profile),
    )
    return ArrayPlan(spec=spec, chunks=(_padded(value, spec) for value in values))


def _view_plan(
    field: FieldSpec, pictures: Sequence[Views], m_max: int, n_cameras: int, profile: str
) -> ArrayPlan:
    camera = (n_cameras,) if n_cameras > 1 else ()
    axis = (field.rows,) if field.rows else ()
    spec = ArraySpec(
        name=field.name,
        dtype=field.dtypes[0],
        shape=(len(pictures), *camera, *axis, m_max),
        chunk=(1, *(1 for _ in camera), *axis, m_max),
        codec=field.codec(profile),
    )
    values = (
        None if view is None else (view.pixel_rc if field.rows else view.point_index)
        for scan in pictures
        for view in scan
    )
    return ArrayPlan(spec=spec, chunks=(_padded(value, spec) for value in values))


def _image_plan(pictures: Sequence[Views], n_cameras: int, profile: str) -> ArrayPlan:
    images = [v.image for scan in pictures for v in scan if v is not None and v.image is not None]
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    if n_cameras > 1:  # small pictures, one drawn per sample: read whole
        shape: tuple[int, ...] = (len(pictures), n_cameras, height, width, 3)
        chunk: tuple[int, ...] = (1, 1, height, width, 3)
    else:
        shape = (len(pictures), height, width, 3)
        chunk = (1, height, STRIP_COLUMNS, 3)
    codec = FIELDS["image"].codec(profile)
    spec = ArraySpec(name="image", dtype="uint8", shape=shape, chunk=chunk, codec=codec)
    return ArrayPlan(spec=spec, chunks=_image_chunks(pictures, spec))


def _image_chunks(pictures: Sequence[Views], spec: ArraySpec) -> Iterator[Chunk]:
    for scan in pictures:
        for view in scan:
            image = None if view is None else view.image
            for strip in range(spec.grid[-2]):
                start = strip * spec.chunk[-2]
                part = None if image is None else image[:, start : start + spec.chunk[-2]]
                # A narrower picture of the shard has no pixels in the last strips.
                yield None if part is None or part.shape[1] == 0 else _padded(part, spec)


def _padded(value: Chunk, spec: ArraySpec) -> Chunk:
    if value is None:
        return None
    chunk = np.zeros(spec.chunk, spec.dtype)
    if value.dtype != chunk.dtype:
        raise TypeError(f"{spec.name}: expected {chunk.dtype}, got {value.dtype}")
    target = chunk.reshape(spec.chunk[-value.ndim :])
    target[tuple(slice(0, size) for size in value.shape)] = value
    return chunk
