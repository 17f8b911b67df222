"""What a corruption takes and gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """What a corruption must know of a data set's lidar and classes; from the TOML tables."""

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
    """One scan as the sensor gave it: every point of the raw file, in its order."""

    xyz: NDArray[np.float32]
    """(3, N) metres, lidar frame."""
    signal: NDArray[np.float32]
    """(N,) 0..``sensor.signal_max``."""
    beam: NDArray[np.int32]
    """(N,) 0.. the laser that measured each point; in what order does not matter."""
    sensor: Sensor
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

    def range_m(self) -> NDArray[np.float64]:
        """(N,) distance of each point from the sensor."""
        xyz = self.xyz.astype(np.float64)
        return np.sqrt(np.einsum("an,an->n", xyz, xyz))


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """What a corruption makes of a cloud; the order of the points stays."""

    xyz: NDArray[np.float32]
    """(3, M) metres."""
    signal: NDArray[np.float32]
    """(M,)."""
    source: NDArray[np.int64]
    """(M,) the point of the cloud that each point is, increasing; -1 for noise: a return of a
    snowflake, of fog, of another lidar, which has no label, no instance and no pixel."""

    @property
    def is_noise(self) -> NDArray[np.bool_]:
        """(M,) points that are no part of the scene."""
        return self.source < 0

    def carried(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """(M,) what was stored per point of the cloud, for the points after; 0 for noise."""
        if not len(values):
            return np.zeros(len(self.source), values.dtype)
        return np.where(self.is_noise, values.dtype.type(0), values[self.source])


def keep(cloud: Cloud, kept: NDArray[np.bool_]) -> Corrupted:
    """A cloud without some of its points.

    Args:
        cloud: any.
        kept: (N,) the points that stay.
    """
    source = np.flatnonzero(kept)
    return Corrupted(xyz=cloud.xyz[:, source], signal=cloud.signal[source], source=source)


def replace_returns(
    cloud: Cloud,
    *,
    range_m: NDArray[np.float64],
    new_range_m: NDArray[np.float64],
    signal: NDArray[np.float64],
    is_noise: NDArray[np.bool_],
    kept: NDArray[np.bool_],
) -> Corrupted:
    """A cloud whose rays return other signals, some of them from another distance.

    Args:
        cloud: any.
        range_m: (N,) distances before.
        new_range_m: (N,) distances of the rays that are noise after; elsewhere not looked at.
        signal: (N,) after; cut to what the sensor can say.
        is_noise: (N,) rays that return something else than before.
        kept: (N,) rays that return anything.
    """
    factor = np.where(is_noise, new_range_m / np.maximum(range_m, 1e-6), 1.0)
    moved = np.where(is_noise, cloud.xyz * factor, cloud.xyz).astype(np.float32)
    heard = np.clip(signal, 0, cloud.sensor.signal_max).astype(np.float32)
    rows = np.flatnonzero(kept)
    return Corrupted(
        xyz=moved[:, rows], signal=heard[rows], source=np.where(is_noise[rows], -1, rows)
    )
