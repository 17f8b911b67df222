"""Files of the scans before a scan, for networks that were trained on several together."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.train.inference.segmenter import PastPoints
from pass2d.train.stacks.choose import current_from_past
from pass2d.train.stacks.config import StackConfig


@dataclass(frozen=True, kw_only=True)
class FilePose:
    """Pose and time of a file's scan."""

    pose: NDArray[np.float64]
    """(3, 4) world_from_lidar."""
    time_s: float = float("nan")
    """NaN where it is not known."""


FolderPoses = Callable[[Path], Mapping[Path, FilePose]]
"""The files of a folder in the order in which they were taken; empty without poses."""


def no_poses(_folder: Path) -> Mapping[Path, FilePose]:
    """`FolderPoses` if poses are unknown."""
    return {}


class PastFiles:
    """Finds the scans before that of a file; called in threads."""

    def __init__(
        self,
        stack: StackConfig,
        poses: FolderPoses,
        read: Callable[[Path], NDArray[np.float32]],
    ) -> None:
        """Remember where to look.

        Args:
            stack: of the network.
            poses: of a folder's files.
            read: the (N, 4 or more) points of a file.
        """
        self._stack, self._poses, self._read = stack, poses, read
        self._folders: dict[Path, Mapping[Path, FilePose]] = {}
        self._kept: OrderedDict[Path, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def has_poses(self, file: Path) -> bool:
        """Whether the pose of a file's scan is known."""
        return file in self._of_folder(file.parent)

    def identity(self, file: Path) -> list[int]:
        """A number of the earlier files and poses that a result depends on; none without stacks."""
        if not self._stack.past:
            return []
        known = self._of_folder(file.parent)
        if file not in known:
            return [0]
        files = list(known)
        place, stride = files.index(file), self._stack.stride
        used = files[max(0, place - self._stack.past * stride) : place + 1][::-1][::stride]
        words = [
            (one.name, known[one].pose.tolist(), known[one].time_s, *_size_and_time(one))
            for one in used
        ]
        return [zlib.crc32(repr(words).encode())]

    def before(self, file: Path) -> tuple[PastPoints, ...]:
        """The scans before that of a file, the latest first; none without poses."""
        known = self._of_folder(file.parent)
        if not self._stack.past or file not in known:
            return ()
        files = list(known)
        place, own = files.index(file), known[file]
        found: list[PastPoints] = []
        for step in range(1, self._stack.past + 1):
            lag = step * self._stack.stride
            if lag > place:
                break
            earlier = files[place - lag]
            seconds = own.time_s - known[earlier].time_s
            if self._stack.within_s is not None and seconds > self._stack.within_s:
                break
            found.append(
                PastPoints(
                    points=self._points(earlier),
                    current_from_past=current_from_past(own.pose, known[earlier].pose),
                    lag=lag,
                    seconds=seconds,
                )
            )
        return tuple(found)

    def _of_folder(self, folder: Path) -> Mapping[Path, FilePose]:
        with self._lock:
            if folder not in self._folders:
                self._folders[folder] = self._poses(folder)
            return self._folders[folder]

    def _points(self, file: Path) -> NDArray[np.float32]:
        with self._lock:
            if (known := self._kept.get(file)) is not None:
                self._kept.move_to_end(file)
                return known
        points = self._read(file)
        with self._lock:
            self._kept[file] = points
            while len(self._kept) > self._stack.past * self._stack.stride + 8:
                self._kept.popitem(last=False)
        return points


def _size_and_time(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
