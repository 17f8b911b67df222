"""A prepared scan put back together as in its raw file. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import ScanRecord


def outside_labels(record: ScanRecord) -> NDArray[np.uint8]:
    """(O,) training ids of the points outside the volume; ignored where none are stored."""
    if record.outside_label is not None:
        return record.outside_label
    return np.zeros(record.n_raw - record.n, np.uint8)


def raw_order(record: ScanRecord) -> NDArray[np.int64]:
    """(n_raw,) rows of [points inside, points outside], in the order of the raw file."""
    is_inside = np.zeros(record.n_raw, np.bool_)
    is_inside[record.raw_index] = True
    order = np.empty(record.n_raw, np.int64)
    order[is_inside] = np.arange(record.n)
    order[~is_inside] = np.arange(record.n, record.n_raw)
    return order


def raw_scan(record: ScanRecord) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
    """Put a scan back together as in its raw file.

    Args:
        record: Read with the points outside the volume.

    Returns:
        (n_raw, 4) x, y, z in metres and signal; (n_raw,) training ids, None without labels.
    """
    assert record.outside_xyz is not None
    assert record.outside_signal is not None
    order = raw_order(record)
    xyz = np.concatenate([record.xyz, record.outside_xyz], axis=1)
    signal = np.concatenate([record.signal, record.outside_signal])
    points = np.ascontiguousarray(np.concatenate([xyz, signal[None]])[:, order].T)
    if record.label is None:
        return points, None
    return points, np.concatenate([record.label, outside_labels(record)])[order]
