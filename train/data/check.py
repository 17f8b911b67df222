"""Whether a cache's scans can be trained on or scored, and look as expected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.likeness import Expectation, differences
from pass2d.cache.clouds.statistics import measured_points
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.statistics import lacks_classes
from pass2d.common.errors import ConfigError
from pass2d.train.data.positions import evenly_spaced

_SAMPLE_SCANS = 4
"""Enough to see another unit, frame or scale: all scans of a data set share it."""
_CHECK = "`check` says what the files look like."


def require_usable(reader: CacheReader, positions: NDArray[np.int64], *, split: str) -> None:
    """Refuse useless scans before hours are spent on them. Reads no scan.

    Args:
        reader: of the cache.
        positions: labelled scans, at least one.
        split: where they are from, for the message.

    Raises:
        ConfigError: no point lies in the volume, or (nearly) none has a class.
    """
    where = f"{reader.root}: split {split}"
    scans, grid = reader.scans, reader.info.grid
    if not scans.n[positions].any():
        raise ConfigError(
            f"{where}: of {int(scans.n_raw[positions].sum()):,} points in {len(positions)} scans "
            f"none lies in the volume {grid.low} to {grid.high} m. Are the points in metres and in "
            f"the sensor's frame? {_CHECK}"
        )
    if found := lacks_classes(scans.label_histogram[positions].sum(axis=0)):
        raise ConfigError(
            f"{where}: {found}. Such labels cannot be used for training or evaluation. "
            f"Are they those of another tool, or of a test set? {_CHECK}"
        )


def say_differences(
    reader: CacheReader,
    positions: NDArray[np.int64],
    expected: Expectation,
    say: Callable[[str], None],
) -> None:
    """Compare a few scans with what is expected, and report each kind of difference once.

    Args:
        reader: of the cache; corrupted data sets are not compared, as they differ on purpose.
        positions: a few of these, evenly spread, are read.
        expected: of the checkpoint's card, or of the data set.
        say: receives a message for each difference.
    """
    if reader.info.corruption is not None or not len(positions):
        return
    speaker = DifferenceSpeaker(expected, say)
    fields = Fields(label=False, outside=True)
    for place in positions[evenly_spaced(len(positions), _SAMPLE_SCANS)]:
        scan = measured_points(reader.read(int(place), fields))
        speaker.look(scan, where=f"scan {reader.scans.scan_id[place]}")


class DifferenceSpeaker:
    """Reports the first difference of each kind."""

    def __init__(self, expected: Expectation, say: Callable[[str], None]) -> None:
        self._expected, self._say = expected, say
        self._said: set[str] = set()

    def look(self, points: NDArray[np.floating], *, where: str) -> None:
        """Compare one scan, (4, N) x, y, z in metres, signal."""
        for difference in differences(points, self._expected):
            if difference.kind not in self._said:
                self._said.add(difference.kind)
                self._say(f"warning: {where}: {difference}")
