"""Predictions of an earlier run, as the classes of past points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.motion import static_ids
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.scan_table import ScanTable
from pass2d.cache.schema import UNKNOWN_LABEL, DatasetInfo, ScanRecord
from pass2d.common.errors import ConfigError, DataError
from pass2d.common.files import other_than_folder, read_whole
from pass2d.train.stacks.config import StackConfig


def earlier_classes(
    reader: CacheReader, position: int, record: ScanRecord, config: StackConfig
) -> NDArray[np.uint8] | None:
    """(n_raw,) the classes, without motion, by which a past scan's points enter a stack.

    Args:
        reader: of the cache.
        position: of the past scan.
        record: it, with labels and the points outside the volume.
        config: of the stack.

    Returns:
        By an earlier run or by its labels, in the raw file's order; None where classes do not
        matter.

    Raises:
        DataError: as `EarlierPredictions.read`, or the scan has no labels.
    """
    if config.points != "steps":
        return None
    static = static_ids(reader.info)
    if config.predictions:
        found = EarlierPredictions(Path(config.predictions), reader.info)
        return static[found.read(reader.scans, position)]
    label = record.raw().label
    if label is None:
        raise DataError(
            f"{reader.root}: scan {record.scan_id} has no labels, by which stack.steps chooses "
            "past points. Give stack.predictions: a folder that `predict` or `submit` wrote."
        )
    return static[label]


class EarlierPredictions:
    """Label files of `pass2d predict` or `pass2d submit`, by scan."""

    def __init__(self, folder: Path, info: DatasetInfo) -> None:
        """Remember where they are.

        Raises:
            ConfigError: no such folder.
        """
        if other := other_than_folder(folder):
            raise ConfigError(f"{folder}: {other}. stack.predictions must be what `predict` wrote.")
        self._folder = folder
        self._is_wide = info.facts.label_bytes == 4
        self._lookup = info.labels.training_lookup()
        for training_id, raw_id in enumerate(info.labels.training_to_raw):
            if self._lookup[raw_id] == UNKNOWN_LABEL:
                self._lookup[raw_id] = training_id

    def read(self, scans: ScanTable, position: int) -> NDArray[np.uint8]:
        """(n_raw,) training ids of one scan's points.

        Raises:
            DataError: there is no file for it, or not of this scan.
        """
        path = self._find(scans, position)
        dtype = np.dtype("<u4" if self._is_wide else "u1")
        try:
            data = read_whole(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
        n_raw = int(scans.n_raw[position])
        if len(data) != n_raw * dtype.itemsize:
            raise DataError(
                f"{path}: {len(data)} bytes, expected {n_raw * dtype.itemsize} for the {n_raw} "
                f"points of scan {scans.scan_id[position]}. Does it belong to another data set?"
            )
        labels = self._lookup[np.frombuffer(data, dtype) & 0xFFFF]
        if (labels == UNKNOWN_LABEL).any():
            raise DataError(f"{path}: raw labels that this data set does not have.")
        return labels

    def _find(self, scans: ScanTable, position: int) -> Path:
        sequence, token = str(scans.sequence[position]), str(scans.token[position])
        name = f"{int(scans.frame_index[position]):06d}.label"
        places = [f"{token}_lidarseg.bin", f"lidarseg/{scans.split[position]}/{token}_lidarseg.bin"]
        if self._is_wide:
            own = (sequence, f"{sequence}/predictions")
            folders = [*own, *(f"sequences/{folder}" for folder in own)]
            places = [f"{folder}/{name}" for folder in folders]
        for place in places:
            if (path := self._folder / place).is_file():
                return path
        raise DataError(
            f"{self._folder}: no prediction of scan {scans.scan_id[position]} (looked for "
            f"{', '.join(places)})."
        )
