"""A SemanticKITTI folder of any size, written as fast as the disk takes it: for growth, not for
looks.

    python -m bench.many_scans OUT --scans 10000 [--points 2000] [--image 16 1241]

A street of ground, walls and cars is cast once; every scan is that street turned by its own angle,
with its own noise in range and remission, so that no two files are alike and the low bits of the
floats are as random as measured ones. Labels and instance ids follow the surfaces. The same
arguments give the same bytes. (`pass2d prepare synth` makes the world that networks can learn from;
a scan of it takes a thousand times longer.)
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SENSOR_HEIGHT_M = 1.73
GOLDEN_ANGLE_RAD = 2.399963
ROAD, SIDEWALK, BUILDING, CAR = 40, 48, 50, 10
"""Raw ids of SemanticKITTI."""
CALIBRATION = """P0: 700 0 600 0 0 700 180 0 0 0 1 0
P1: 700 0 600 -380 0 700 180 0 0 0 1 0
P2: 700 0 600 45 0 700 180 0.2 0 0 1 0.003
P3: 700 0 600 -335 0 700 180 2 0 0 1 0.003
Tr: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
"""


@dataclass(frozen=True, kw_only=True)
class ManyScans:
    """What to write."""

    scans: int
    points: int = 2000
    """Points per scan, about."""
    image_hw: tuple[int, int] = (16, 1241)
    """As wide as the real pictures, so that the manifest has as many strips per scan."""
    per_sequence: int = 1000
    """Scans per sequence; sequences are 00, 01, ... and 08 is always among them."""
    seed: int = 0


def write_many(root: Path, config: ManyScans) -> None:
    """Write ``root``/sequences/NN."""
    street = Street(config.points)
    rng = np.random.default_rng(config.seed)
    height, width = config.image_hw
    shade = np.linspace(60, 200, width)[None, :, None] * np.array([1.0, 0.9, 0.8])
    for number in range(config.scans):
        block, frame = divmod(number, config.per_sequence)
        folder = root / "sequences" / _sequence(block)
        if frame == 0:
            for name in ("velodyne", "labels", "image_2"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / "calib.txt").write_text(CALIBRATION)
        points, labels = street.scan(number, rng)
        (folder / "velodyne" / f"{frame:06d}.bin").write_bytes(points.tobytes())
        (folder / "labels" / f"{frame:06d}.label").write_bytes(labels.tobytes())
        picture = shade + rng.normal(0, 6, (height, width, 3))
        buffer = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "png", compress_level=1)
        (folder / "image_2" / f"{frame:06d}.png").write_bytes(buffer.getvalue())


def _sequence(block: int) -> str:
    order = [8, *range(8), *range(9, 11), *range(22, 9000)]  # 11 to 21 have no labels
    return f"{order[block]:02d}"


class Street:
    """Ground, two walls and parked cars around a turning sensor."""

    def __init__(self, points: int) -> None:
        beams = max(4, min(64, round((points / 30) ** 0.5)))
        yaw = np.linspace(0, 2 * np.pi, max(8, points // beams), endpoint=False)
        elevation = np.radians(np.linspace(2.0, -24.8, beams))
        self._elevation = np.repeat(elevation, len(yaw))
        self._yaw = np.tile(yaw, beams)
        ray_z, ray_y = np.sin(self._elevation), np.sin(self._yaw) * np.cos(self._elevation)
        with np.errstate(divide="ignore"):
            ground = np.where(ray_z < 0, -SENSOR_HEIGHT_M / ray_z, np.inf)
            wall = np.abs(12.0 / ray_y)
        is_car = (np.floor(self._yaw * 9) % 4 == 0) & (ground > 8) & (wall > 8)
        reach = np.where(is_car, 8.0, np.minimum(np.minimum(ground, wall), 78.0))
        self._range = reach
        x = reach * np.cos(self._yaw)
        surface = np.where(wall < ground, BUILDING, np.where(np.abs(x) % 20 < 12, ROAD, SIDEWALK))
        instance = np.where(is_car, 1 + np.floor(self._yaw * 9).astype(np.int64), 0)
        self._label = (np.where(is_car, CAR, surface) | (instance << 16)).astype("<u4")

    def scan(
        self, number: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
        """(N, 4) points and (N,) labels; 3 % of the rays come back empty."""
        kept = rng.random(len(self._range)) > 0.03
        reach = self._range[kept] * (1 + rng.normal(0, 0.002, int(kept.sum())))
        yaw, elevation = self._yaw[kept] + GOLDEN_ANGLE_RAD * number, self._elevation[kept]
        flat = reach * np.cos(elevation)
        signal = np.round(rng.random(len(reach)) * 99) / 100
        points = np.stack(
            [flat * np.cos(yaw), flat * np.sin(yaw), reach * np.sin(elevation), signal], axis=1
        )
        return points.astype("<f4"), self._label[kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--scans", type=int, required=True)
    parser.add_argument("--points", type=int, default=ManyScans.points)
    parser.add_argument("--image", type=int, nargs=2, default=ManyScans.image_hw)
    parser.add_argument("--per-sequence", type=int, default=ManyScans.per_sequence)
    options = parser.parse_args()
    config = ManyScans(
        scans=options.scans,
        points=options.points,
        image_hw=tuple(options.image),
        per_sequence=options.per_sequence,
    )
    write_many(options.out, config)
    print(f"{options.out}: {options.scans} scans")


if __name__ == "__main__":
    main()
