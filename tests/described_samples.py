"""A small folder of made-up scans in a layout of its own, and its description."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

DESCRIPTION = """
[dataset]
name = "yard"
title = "The yard"
absent_classes = "zero"

[points]
files = "drives/{sequence}/clouds/{scan}.bin"
columns = ["time", "x", "y", "z", "signal"]
dtype = "f8"
unit = "cm"
rotate = "90,0,0"
z_offset = 0.5
signal = { name = "intensity", scale = 0.5, full = 1.0 }

[labels]
files = "drives/{sequence}/truth/{scan}.label"
dtype = "u2"
mask = 0x3F
instance = { shift = 8 }

[ignored]
name = "nothing"
raw = [0, 63]

[[class]]
name = "hedge"
raw = [7, 9]
write = 9
color = "#102030"

[[class]]
name = "cart"
raw = [1]
thing = true
vehicle = true

[splits]
train = { sequences = ["a"] }
val = { sequences = ["b"] }

[volume]
low = [-20, -20, -3]
high = [20, 20, 3]
cells = [200, 200, 30]

[sensor]
beams = 16
fov_deg = [10, -12]

[[camera]]
files = "drives/{sequence}/left/{scan}_*.png"
[camera.calib]
kind = "json"
file = "drives/{sequence}/rig.json"
matrix = "left.K"
extrinsic = "left.T"

[poses]
file = "drives/{sequence}/poses.txt"
hz = 5.0
"""
N = 400
INTRINSICS = [[40.0, 0.0, 32.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]]
CAMERA_FROM_FILE = [[1, 0, 0, 0.1], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
"""In the files y looks ahead and x to the right; rotated by 90 degrees, y is left and x... -y."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one file holds, as the stages should see it."""

    points: np.ndarray
    """(N, 4) float32 metres in the lidar frame, signal."""
    raw: np.ndarray
    """(N,) raw ids."""
    instance: np.ndarray
    """(N,) instance ids."""


def write_yard(root: Path) -> dict[str, Scan]:
    """Two drives of two scans and one; scan id to what it holds."""
    found = {}
    for seed, (sequence, scan) in enumerate([("a", "0001"), ("a", "0002"), ("b", "0001")]):
        drive = root / "drives" / sequence
        for folder in ("clouds", "truth", "left"):
            (drive / folder).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        file_m = rng.uniform(-21, 21, (N, 3))
        file_m[:, 2] = rng.uniform(-2, 0, N)
        signal = rng.uniform(0, 2, N)
        rows = np.column_stack([np.linspace(0, 0.1, N), file_m * 100, signal])
        (drive / "clouds" / f"{scan}.bin").write_bytes(rows.astype("<f8").tobytes())
        raw = rng.choice([0, 7, 9, 1, 63], N)
        instance = np.where(raw == 1, rng.integers(1, 5, N), 0)
        packed = raw | 0x40 | instance << 8  # bit 6 is a flag that the mask takes away
        (drive / "truth" / f"{scan}.label").write_bytes(packed.astype("<u2").tobytes())
        picture = rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(drive / "left" / f"{scan}_17.png")
        # yaw 90: x of the lidar frame is -y of the file's, y is x.
        lidar = np.column_stack([-file_m[:, 1], file_m[:, 0], file_m[:, 2] + 0.5, signal / 2])
        found[f"{sequence}/{scan}"] = Scan(
            points=lidar.astype(np.float32), raw=raw, instance=instance
        )
        rig = {"left": {"K": INTRINSICS, "T": CAMERA_FROM_FILE}}
        (drive / "rig.json").write_text(json.dumps(rig))
        # One metre along the file's y from scan to scan.
        lines = [f"1 0 0 0 0 1 0 {place} 0 0 1 0" for place in range(3)]
        (drive / "poses.txt").write_text("\n".join(lines))
    return found


def write_description(root: Path, text: str = DESCRIPTION) -> Path:
    file = root / "yard.toml"
    file.write_text(text)
    return file
