"""From scans to the arrays of a container: shapes, padding, exact small types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.fields import (
    SIGNAL_DIVISORS,
    STRIP_COLUMNS,
    FieldSpec,
    Length,
    container_fields,
    signal_table,
)
from pass2d.cache.schema import CameraView, ScanRecord, VoxelLevel
from pass2d.cache.writing.shard import ArraySpec
from pass2d.common.thinning import ThinnedScan

Chunk = NDArray[Any] | None
Views = Sequence[CameraView | None]
"""The pictures of one scan, one per camera; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class ArrayPlan:
    """One array to write: its spec and its chunks in grid order."""

    spec: ArraySpec
    chunks: Iterator[Chunk]


def signal_divisor(signals: Sequence[NDArray[Any]]) -> int:
    """The divisor d for which every value is exactly ``float32(k / d)``, k in 0..255; 0 if none."""
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
    columns: dict[FieldSpec, list[Chunk]] = {
        spec: [_of_record(record, spec) for record in records] for spec in container_fields("lidar")
    }
    signals = [values for spec, values in columns.items() if spec.is_signal]
    divisor = signal_divisor([v for values in signals for v in values if v is not None])
    lengths: dict[Length, int] = {
        "points": max([1, *(record.n for record in records)]),
        "outside": max([1, *(record.n_raw - record.n for record in records)]),
    }
    plans = [
        _points_plan(spec, dtype, stored, lengths[spec.length], profile)
        for spec, values in columns.items()
        if any(value is not None for value in values)
        for dtype, stored in [_as_stored(spec, values, divisor)]
    ]
    return plans, {"intensity_divisor": divisor}


def _of_record(record: ScanRecord, spec: FieldSpec) -> NDArray[Any] | None:
    if not spec.attribute:
        return record.extra.get(spec.name)
    value: NDArray[Any] | None = getattr(record, spec.attribute)
    return value


def _as_stored(
    spec: FieldSpec, values: Sequence[Chunk], divisor: int
) -> tuple[str, Sequence[Chunk]]:
    """A field's type in this shard, and its values in that type."""
    if spec.is_signal:
        codes = [_codes(v, divisor) if divisor and v is not None else v for v in values]
        return spec.dtypes[0 if divisor else 1], codes
    if len(spec.dtypes) == 1:
        return spec.dtypes[0], values
    dtype = _narrowest(spec, values)
    return dtype, [None if value is None else value.astype(dtype) for value in values]


def _narrowest(spec: FieldSpec, values: Sequence[Chunk]) -> str:
    """The first of a field's types of whole numbers that holds all values."""
    for dtype in spec.dtypes[:-1]:
        limits = np.iinfo(dtype)
        if all(
            value is None
            or (value.max(initial=0) <= limits.max and value.min(initial=0) >= limits.min)
            for value in values
        ):
            return dtype
    return spec.dtypes[-1]


def motion_arrays(records: Sequence[ScanRecord | None], *, profile: str) -> list[ArrayPlan]:
    """Arrays of a `motion` container: empty when no scan has a motion.

    Args:
        records: with `motion` and `outside_motion`; None for scans without.
        profile: "speed" or "size".
    """
    columns = {
        spec: [None if record is None else _of_record(record, spec) for record in records]
        for spec in container_fields("motion")
    }
    return [
        _points_plan(
            spec,
            spec.dtypes[0],
            values,
            max([1, *(len(v) for v in values if v is not None)]),
            profile,
        )
        for spec, values in columns.items()
        if any(value is not None for value in values)
    ]


def thinned_arrays(scans: Sequence[ThinnedScan | None], *, profile: str) -> list[ArrayPlan]:
    """Arrays of a `thinned` container; empty when no scan could be thinned."""
    columns: dict[FieldSpec, list[Chunk]] = {
        spec: [None if scan is None else getattr(scan, spec.attribute) for scan in scans]
        for spec in container_fields("thinned")
    }
    return [
        _points_plan(
            spec,
            dtype,
            stored,
            max([1, *(v.shape[-1] for v in stored if v is not None)]),
            profile,
        )
        for spec, values in columns.items()
        if any(value is not None for value in values)
        for dtype, stored in [_as_stored(spec, values, 0)]
    ]


def voxel_arrays(hashes: Sequence[Sequence[VoxelLevel]], *, profile: str) -> list[ArrayPlan]:
    """Arrays of a `voxel` container: scales end to end, or a row per scale for each point."""
    lengths: dict[Length, int] = {
        "voxels": max([1, *(sum(v.coord.shape[1] for v in levels) for levels in hashes)]),
        "points": max([1, *(len(v.inverse) for levels in hashes for v in levels)]),
    }
    columns = {
        spec: [_of_levels(levels, spec) for levels in hashes] for spec in container_fields("voxel")
    }
    return [
        _points_plan(spec, spec.dtypes[0], values, lengths[spec.length], profile)
        for spec, values in columns.items()
        if any(value is not None for value in values)
    ]


def _of_levels(levels: Sequence[VoxelLevel], spec: FieldSpec) -> Chunk:
    values = [getattr(level, spec.attribute) for level in levels]
    if any(value is None for value in values):
        return None
    joined: NDArray[Any] = (
        np.concatenate(values, axis=-1) if spec.length == "voxels" else np.stack(values)
    )
    return joined


def camera_arrays(pictures: Sequence[Views], *, n_cameras: int, profile: str) -> list[ArrayPlan]:
    """Arrays of a `camera` container; empty when no scan has a picture."""
    views = [view for scan in pictures for view in scan if view is not None]
    if not views:
        return []
    m_max = max(1, *(len(view.point_index) for view in views))
    return [
        _image_plan(spec, pictures, n_cameras, profile)
        if spec.length == "picture"
        else _view_plan(spec, pictures, m_max, n_cameras, profile)
        for spec in container_fields("camera")
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
        None if view is None else getattr(view, field.attribute)
        for scan in pictures
        for view in scan
    )
    return ArrayPlan(spec=spec, chunks=(_padded(value, spec) for value in values))


def _image_plan(
    field: FieldSpec, pictures: Sequence[Views], n_cameras: int, profile: str
) -> ArrayPlan:
    images = [v.image for scan in pictures for v in scan if v is not None and v.image is not None]
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    if n_cameras > 1:  # small pictures, one drawn per sample: read whole
        shape: tuple[int, ...] = (len(pictures), n_cameras, height, width, 3)
        chunk: tuple[int, ...] = (1, 1, height, width, 3)
    else:
        shape = (len(pictures), height, width, 3)
        chunk = (1, height, STRIP_COLUMNS, 3)
    spec = ArraySpec(
        name=field.name,
        dtype=field.dtypes[0],
        shape=shape,
        chunk=chunk,
        codec=field.codec(profile),
    )
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
