"""Past scans of a cache for scans that are read one after the other."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import GridConfig, ScanRecord
from pass2d.train.stacks.build import past_record, point_rows, shared_voxels
from pass2d.train.stacks.choose import past_scans
from pass2d.train.stacks.config import StackConfig
from pass2d.train.stacks.predictions import earlier_classes


class CachedPast:
    """The past points of a cache's scans. Neighbours share what was read; called in threads."""

    def __init__(
        self, reader: CacheReader, config: StackConfig, *, volume: GridConfig | None
    ) -> None:
        """Remember where the scans are.

        Args:
            reader: of the cache.
            config: which past points enter.
            volume: only points inside it enter; None: all.
        """
        self._reader, self._config, self._volume = reader, config, volume
        self._kept: OrderedDict[int, ScanRecord] = OrderedDict()
        self._most = config.past * config.stride + 8
        self._lock = threading.Lock()

    def points(
        self, position: int, current_xyz: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], ...]:
        """The points of each past scan, the latest first.

        Args:
            position: of the current scan.
            current_xyz: (3, N) its points.

        Returns:
            (K, 4 or 5) each: x, y, z in the current frame, signal, time.

        Raises:
            CacheError: missing or damaged data.
            DataError: classes of past points are not known.
        """
        found = []
        shared = shared_voxels(current_xyz, self._config)
        for past in past_scans(self._reader.scans, position, self._config):
            whole = self._read(past.position)
            classes = earlier_classes(self._reader, past.position, whole, self._config)
            record = past_record(
                whole,
                past,
                config=self._config,
                shared=shared,
                classes=classes,
                volume=self._volume,
            )
            found.append(point_rows(record))
        return tuple(found)

    def _read(self, position: int) -> ScanRecord:
        with self._lock:
            if (known := self._kept.get(position)) is not None:
                self._kept.move_to_end(position)
                return known
        by_label = self._config.points == "steps" and not self._config.predictions
        record = self._reader.read(position, Fields(label=by_label, outside=True))
        with self._lock:
            self._kept[position] = record
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return record
