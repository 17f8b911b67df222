"""What readers of raw data sets pass to the runner: one small record per scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pass2d.cache.rows import FailedScan
from pass2d.cache.schema import DatasetInfo
from pass2d.pipeline.problem import Warned

CameraRule = Literal["x_ahead", "in_front", "recorded"]
"""Which points a camera may see: those with x > 0 in the lidar frame (as KITTI's tools have it), or
those in front of the camera (nuScenes), or those for which the data set says a pixel (Waymo)."""


@dataclass(frozen=True, kw_only=True)
class SweepSource:
    """An earlier revolution of the lidar, to be added to a scan."""

    points: Path
    lidar_from_sweep: tuple[float, ...]
    """12 numbers of a (3, 4) matrix, row by row: the scan's lidar frame from the sweep's."""
    time_s: float
    """Seconds before the scan."""


@dataclass(frozen=True, kw_only=True)
class ScanSource:
    """Everything a worker needs to read one scan; picklable and small."""

    scan_id: str
    """Stable and unique in the data set, e.g. "08/000123"."""
    split: str
    """"train", "val" or "test"."""
    sequence: str
    """e.g. "08"."""
    frame_index: int
    """Frame number in the sequence, from the file's name."""
    token: str = ""
    """nuScenes sample_data token; empty elsewhere."""
    points: Path
    labels: Path | None
    """None for scans without labels."""
    images: tuple[Path | None, ...] = ()
    """One per camera; None where the scan has no picture of that camera."""
    image_from_lidar: tuple[tuple[float, ...], ...] | None = None
    """Per camera the 12 numbers of a (3, 4) matrix, row by row: homogeneous pixels of the picture
    as taken from lidar metres. Zeros for a camera without calibration, which then has no picture;
    None without any."""
    calibration: Path | None = None
    """The file that says ``image_from_lidar``, where one file does: it is recorded among the
    sources, so that a change is noticed, while only the numbers count for keys."""
    camera_rule: CameraRule = "x_ahead"
    taken_hw: tuple[tuple[int, int], ...] = ()
    """Per camera height and width that the calibration is for, (0, 0) if unknown; empty: that of
    the pictures."""
    stored_hw: tuple[int, int] | None = None
    """Height and width that pictures are resized to; None: stored as taken."""
    panoptic: Path | None = None
    """Instance ids beside the labels, where a data set has them in a file of their own."""
    sweeps: tuple[SweepSource, ...] = ()
    """To be added to the points, the latest first."""
    lidar_beside: tuple[tuple[str, Path], ...] = ()
    """Role and path of other files that the points are made of, in data sets that have such."""
    camera_beside: tuple[tuple[str, Path], ...] = ()
    """Role and path of other files that say where the points lie on the pictures."""
    pose: tuple[float, ...] | None = None
    """world_from_lidar, 12 numbers of a (3, 4) matrix row by row; None where it is not known."""
    time_s: float | None = None
    """When it was taken, on the clock of its sequence; None where that is not known."""

    def files(self) -> tuple[Path, ...]:
        """The scan's own files that exist: points, labels, instance ids, pictures, sweeps."""
        sweeps = (sweep.points for sweep in self.sweeps)
        files = (self.points, self.labels, self.panoptic, *self.images, *sweeps)
        return tuple(file for file in files if file is not None)

    def lidar_files(self) -> tuple[tuple[str, Path], ...]:
        """Role and path of what the container `lidar` is made from."""
        labels = () if self.labels is None else (("labels", self.labels),)
        panoptic = () if self.panoptic is None else (("panoptic", self.panoptic),)
        sweeps = ((f"sweep{place}", sweep.points) for place, sweep in enumerate(self.sweeps))
        return (("points", self.points), *labels, *panoptic, *sweeps, *self.lidar_beside)

    def camera_files(self) -> tuple[tuple[str, Path], ...]:
        """Role and path of the pictures and of the calibration that they are projected with."""
        images = [(f"image{c}", path) for c, path in enumerate(self.images) if path is not None]
        calibration = [("calib", self.calibration)] if images and self.calibration else []
        return (*images, *(self.camera_beside if images else ()), *calibration)


@dataclass(frozen=True, kw_only=True)
class SourceListing:
    """The requested scans of a raw data set, sequence by sequence in frame order."""

    info: DatasetInfo
    scans: tuple[ScanSource, ...]
    notes: tuple[str, ...]
    """What is missing but legal, one line per fact, e.g. "sequence 08: no image_2"."""
    warned: tuple[Warned, ...] = ()
    """Warnings about files that apply to many scans."""
    failed: tuple[FailedScan, ...] = ()
    """Parts of scans that cannot be prepared, because a file of the whole sequence is damaged."""
