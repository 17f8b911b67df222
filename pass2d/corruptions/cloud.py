"""The inputs and outputs of corruptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import ShapeError

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """What a corruption must know about a data set's lidar and classes, from the TOML tables."""

    beams: int
    """Beams that the severities are meant for."""
    elevation_deg: tuple[float, float]
    """Lowest and highest beam; used where neither the file nor the order of points tells beams."""
    signal_max: float
    """The largest signal: 1 (SemanticKITTI) or 255 (nuScenes)."""
    sealed_ground: tuple[int, ...]
    """Training ids of ground on which water stands as a film."""
    vehicles: tuple[int, ...]
    """Training ids of vehicles."""

    @property
    def white_signal(self) -> float:
        """Signal of a white matt target that fills the beam.

        Velodyne's calibrated reflectivity: 0..100 of 255 for matt targets of 0..100 %, above that
        for retroreflectors. Source: VLP-16 and HDL-32E user manuals.
        """
        return self.signal_max * 100 / 255


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """One scan as measured: every point of the raw file, in its order."""

    xyz: NDArray[np.float32]
    """(3, N) metres, lidar frame."""
    signal: NDArray[np.float32]
    """(N,) 0..``sensor.signal_max``."""
    sensor: Sensor
    beam: NDArray[np.int32] | None = None
    """(N,) the laser that measured each point, 0..; None: unknown; `beams_of` estimates it."""
    label: NDArray[np.uint8] | None = None
    """(N,) training ids; None for scans without labels."""
    instance: NDArray[np.uint32] | None = None
    """(N,) instance ids; None for scans without labels."""

    def __post_init__(self) -> None:
        if self.xyz.ndim != 2 or len(self.xyz) != 3:
            raise ShapeError("xyz", expected="(3, N)", got=self.xyz.shape)
        for name in ("signal", "beam", "label", "instance"):
            values = getattr(self, name)
            if values is not None and values.shape != (self.n,):
                raise ShapeError(name, expected=f"({self.n},)", got=values.shape)

    @property
    def n(self) -> int:
        """N."""
        return self.xyz.shape[1]

    def range_m(self) -> NDArray[np.float32]:
        """(N,) distance of each point from the sensor."""
        return np.sqrt(np.einsum("an,an->n", self.xyz, self.xyz))


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """The result of a corruption; the order of points does not change."""

    xyz: NDArray[np.float32]
    """(3, M) metres."""
    signal: NDArray[np.float32]
    """(M,)."""
    source: NDArray[np.int64]
    """(M,) the point of the cloud that each point is, increasing; -1 for noise: a return of a
    snowflake, of fog, of another lidar, which has no label, no instance and no pixel. A noise point
    has the position in the order that its beam's own point had."""

    @property
    def is_noise(self) -> NDArray[np.bool_]:
        """(M,) points that do not belong to the scene."""
        return self.source < 0

    def carried(self, values: NDArray[T]) -> NDArray[T]:
        """(M,) values per point of the cloud, (N,), for the points after corruption; 0 for noise.

        The published noise ids (21, 22, 23 and 41, 42, 43) all mean: ignored, training id 0.
        """
        after = values[np.maximum(self.source, 0)] if len(values) else np.zeros(0, values.dtype)
        after[self.is_noise] = 0
        return after


def keep(cloud: Cloud, kept: NDArray[np.bool_]) -> Corrupted:
    """A cloud without some of its points.

    Args:
        cloud: any.
        kept: (N,) the points that are kept.
    """
    source = np.flatnonzero(kept)
    return Corrupted(xyz=cloud.xyz[:, source], signal=cloud.signal[source], source=source)


def replace_returns(
    cloud: Cloud,
    *,
    signal: NDArray[np.floating],
    kept: NDArray[np.bool_],
    is_noise: NDArray[np.bool_],
    noise_share: NDArray[np.floating],
) -> Corrupted:
    """A cloud whose beams return other signals, some of them from a point before the target.

    Args:
        cloud: any.
        signal: (N,) after; cut to what the sensor can say.
        kept: (N,) beams that return anything.
        is_noise: (N,) beams that return something before their target.
        noise_share: (N,) 0..1 of the way to the target, where that is; read for noise only.
    """
    rows = np.flatnonzero(kept)
    noise = is_noise[rows]
    xyz = cloud.xyz[:, rows]
    xyz[:, noise] *= noise_share[rows[noise]].astype(np.float32)
    heard = np.clip(signal[rows], 0, cloud.sensor.signal_max).astype(np.float32)
    return Corrupted(xyz=xyz, signal=heard, source=np.where(noise, -1, rows))
