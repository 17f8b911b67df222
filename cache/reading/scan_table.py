"""The scans of a generation as NumPy columns, and where each of their chunks lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from pass2d.cache.fields import FieldSpec, Length


class Span(NamedTuple):
    """Where an inner chunk lies in its shard file. A tuple: the reader makes a dozen per scan."""

    offset: int
    length: int
    """Bytes, the 4 of the crc included; 0: not stored, all zero."""
    crc: int
    """crc32c of all but the last 4 bytes."""


@dataclass(frozen=True, kw_only=True)
class ScanTable:
    """S prepared scans, in the order of sequences and frames."""

    scan_id: NDArray[np.str_]
    split: NDArray[np.str_]
    """"train", "val" or "test"."""
    sequence: NDArray[np.str_]
    frame_index: NDArray[np.int64]
    token: NDArray[np.str_]
    shard: NDArray[np.int64]
    """(S,) number of the shard, in all containers."""
    row: NDArray[np.int64]
    """(S,) index in the shard."""
    n_raw: NDArray[np.int64]
    n: NDArray[np.int64]
    m: NDArray[np.int64]
    """(S,) points visible in pictures; with several cameras their sum."""
    has_label: NDArray[np.bool_]
    has_image: NDArray[np.bool_]
    """(S,) at least one camera has a picture."""
    image_hw: NDArray[np.int64]
    """(S, 2) of the first camera that has a picture; 0, 0 without."""
    camera_m: NDArray[np.int64]
    """(S, cameras) points that each picture sees."""
    camera_hw: NDArray[np.int64]
    """(S, cameras, 2) stored picture sizes; 0, 0 without."""
    voxels: NDArray[np.int64]
    """(S, scales) V per scale, in the order of SCALES; 0 when not prepared."""
    label_histogram: NDArray[np.int64]
    """(S, C) kept points per training id."""
    range_histogram: NDArray[np.int64]
    """(S, R) points of the raw file per bin of range."""
    pose: NDArray[np.float64]
    """(S, 3, 4) world_from_lidar; NaN where it is not known."""
    time_s: NDArray[np.float64]
    """(S,) when it was taken, on the clock of its sequence; NaN where that is not known."""
    moving_histogram: NDArray[np.int64]
    """(S, moving classes) kept points of each; 0 where motion is not known."""
    has_motion: NDArray[np.bool_]
    """(S,) whether it is known which points move."""

    thinned: NDArray[np.int64]
    """(S,) thinned points; 0 when not prepared."""

    def __len__(self) -> int:
        return len(self.scan_id)


def field_lengths(spec: FieldSpec, scans: ScanTable) -> NDArray[np.int64]:
    """(S,) or (S, cameras): the last axis of a field of each scan; of a picture its width."""
    lengths: dict[Length, Callable[[], NDArray[np.int64]]] = {
        "points": lambda: scans.n,
        "outside": lambda: scans.n_raw - scans.n,
        "visible": lambda: scans.camera_m,
        "picture": lambda: scans.camera_hw[..., 1],
        "voxels": lambda: scans.voxels.sum(axis=1),
        "thinned": lambda: scans.thinned,
        "raw": lambda: scans.n_raw,
    }
    return lengths[spec.length]()


def scan_table(scans: pa.Table) -> ScanTable:
    """Columns of scans.parquet as arrays."""
    height = _matrix(scans, "image_height")
    width = _matrix(scans, "image_width")
    camera_m = _matrix(scans, "m")
    camera_hw = np.stack([height, width], axis=-1)
    first = (height > 0).argmax(axis=1) if len(scans) else np.zeros(0, np.int64)
    return ScanTable(
        scan_id=_text(scans, "scan_id"),
        split=_text(scans, "split"),
        sequence=_text(scans, "sequence"),
        frame_index=_numbers(scans, "frame_index"),
        token=_text(scans, "token"),
        shard=_numbers(scans, "shard"),
        row=_numbers(scans, "row"),
        n_raw=_numbers(scans, "n_raw"),
        n=_numbers(scans, "n"),
        m=camera_m.sum(axis=1),
        has_label=scans["has_label"].to_numpy(zero_copy_only=False),
        has_image=np.any(height > 0, axis=1),
        image_hw=camera_hw[np.arange(len(first)), first],
        camera_m=camera_m,
        camera_hw=camera_hw,
        voxels=_matrix(scans, "voxels"),
        label_histogram=_matrix(scans, "label_histogram"),
        range_histogram=_matrix(scans, "range_histogram"),
        pose=_optional(scans, "pose", width=12, missing=np.nan).reshape(-1, 3, 4),
        time_s=scans["time_s"].fill_null(np.nan).to_numpy().astype(np.float64),
        moving_histogram=_optional(scans, "moving_histogram", width=None, missing=0),
        has_motion=scans["moving_histogram"].is_valid().to_numpy(),
        thinned=scans["thinned"].fill_null(0).to_numpy(),
    )


@dataclass(frozen=True, kw_only=True)
class ChunkTable:
    """Where the chunks of one field lie: scan s owns entries start[s]:start[s + 1]."""

    start: NDArray[np.int64]
    entries: NDArray[np.int64]
    """(chunks, 3): offset, length and crc, as in `Span`."""

    def spans(self, position: int) -> list[Span]:
        """The chunks of one scan in grid order; none when the field is not stored."""
        begin, end = self.start[position : position + 2].tolist()
        return list(map(Span._make, self.entries[begin:end].tolist()))

    def totals(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(S,) bytes and (S,) chunks that are stored, per scan."""
        ends = [
            np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[self.start]
            for values in (self.entries[:, 1], self.entries[:, 1] > 0)
        ]
        return np.diff(ends[0]), np.diff(ends[1])


def chunk_table(scans: pa.Table, name: str) -> ChunkTable:
    """Chunks of field ``name`` from its three columns."""
    columns = [scans[f"{name}_{part}"].combine_chunks() for part in ("offset", "length", "crc")]
    if pa.types.is_list(columns[0].type):
        start = columns[0].offsets.to_numpy().astype(np.int64)
        values = [column.values.to_numpy(zero_copy_only=False) for column in columns]
    else:
        start = np.arange(len(scans) + 1)
        values = [column.fill_null(0).to_numpy(zero_copy_only=False) for column in columns]
    return ChunkTable(start=start, entries=np.column_stack(values).astype(np.int64))


def _numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    return table[name].to_numpy()


def _text(table: pa.Table, name: str) -> NDArray[np.str_]:
    return np.array(table[name].to_pylist(), dtype=np.str_)


def _optional(table: pa.Table, name: str, *, width: int | None, missing: float) -> NDArray[Any]:
    """(S, width) of a list column that may be empty; ``width`` None: as wide as the lists are."""
    column = table[name].combine_chunks()
    is_there = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy(zero_copy_only=False)
    if width is None:
        width = len(values) // max(1, is_there.sum())
    full = np.full((len(table), width), missing, np.float64 if np.isnan(missing) else np.int64)
    full[is_there] = values.reshape(-1, width) if width else np.zeros((is_there.sum(), 0))
    return full


def _matrix(table: pa.Table, name: str) -> NDArray[np.int64]:
    column = table[name].combine_chunks()
    values: NDArray[np.int64] = column.flatten().to_numpy()
    if len(table):
        return values.reshape(len(table), -1)
    is_fixed = pa.types.is_fixed_size_list(column.type)
    return values.reshape(0, column.type.list_size if is_fixed else 0)
