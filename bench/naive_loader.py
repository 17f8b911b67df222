"""The usual loader of a LiDAR and camera data set: everything per sample, from the raw files.

Written as such code is usually written, with NumPy, Pillow and torchvision, to stand beside ours:
read the .bin, map the labels, decode the PNG, crop the volume, project, augment, give tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import ColorJitter  # type: ignore[import-untyped]

LOW, HIGH = np.array([-50, -50, -4]), np.array([50, 50, 2])
CROP_HW = (320, 480)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@dataclass(frozen=True, kw_only=True)
class Files:
    """One scan's files and calibration."""

    points: Path
    labels: Path
    image: Path
    image_from_lidar: NDArray[np.float64]
    """(3, 4)."""


@dataclass(frozen=True, kw_only=True)
class NaiveLoader:
    """Samples, one at a time."""

    scans: tuple[Files, ...]
    learning_map: dict[int, int]
    mode: str = "full"
    """"full" or "none", as `AugmentConfig.mode`."""
    mix: bool = False
    map_by_table: bool = False
    """Map labels by an array, not as usual by a dictionary under `numpy.vectorize`."""

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """What a data set's ``__getitem__`` returns."""
        files = self.scans[index % len(self.scans)]
        points, labels, _ = self._read(files)
        image = Image.open(files.image).convert("RGB")
        keep, pixels = project(points, files.image_from_lidar, image.size)
        if self.mode == "full":
            is_dropped = rng.random(len(points)) < rng.uniform(0, 0.2)
            points[is_dropped], labels[is_dropped] = points[0], labels[0]
            keep, pixels = keep[~is_dropped[keep]], pixels[~is_dropped[keep]]
            points = augmented(points, rng)
        picture, keep, pixels = self._picture(image, keep, pixels, rng)
        if self.mix:
            other = self.scans[int(rng.integers(len(self.scans)))]
            more, more_labels, instance = self._read(other)
            more = augmented(more, rng)[instance != 0]
            points = np.concatenate([points, more])
            labels = np.concatenate([labels, more_labels[instance != 0]])
        return {
            "points": torch.from_numpy(points),
            "labels": torch.from_numpy(labels),
            "image": torch.from_numpy(picture).permute(2, 0, 1),
            "point_index": torch.from_numpy(keep),
            "pixels": torch.from_numpy(pixels),
        }

    def _read(
        self, files: Files
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.uint32]]:
        points = np.fromfile(files.points, dtype=np.float32).reshape(-1, 4)
        raw = np.fromfile(files.labels, dtype=np.uint32)
        semantic, instance = raw & 0xFFFF, raw >> 16
        if self.map_by_table:
            table = np.zeros(max(self.learning_map) + 1, np.int64)
            table[list(self.learning_map)] = list(self.learning_map.values())
            labels = table[semantic]
        else:
            labels = np.vectorize(self.learning_map.__getitem__)(semantic).astype(np.int64)
        inside = np.all((points[:, :3] > LOW) & (points[:, :3] < HIGH), axis=1)
        return points[inside], labels[inside], instance[inside]

    def _picture(
        self,
        image: Image.Image,
        keep: NDArray[np.int64],
        pixels: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Crop at the bottom, jitter, flip, normalise."""
        width, height = image.size
        room = width - CROP_HW[1]
        left = int(rng.integers(room + 1)) if self.mode == "full" else room // 2
        top = height - CROP_HW[0]
        image = image.crop((left, top, left + CROP_HW[1], height))
        pixels = pixels - [top, left]
        inside = (pixels[:, 0] >= 0) & (pixels[:, 1] >= 0) & (pixels[:, 1] < CROP_HW[1])
        keep, pixels = keep[inside], pixels[inside]
        if self.mode == "full":
            image = ColorJitter(0.4, 0.4, 0.4)(image)
        picture = np.array(image, dtype=np.float32) / 255
        if self.mode == "full" and rng.random() < 0.5:
            picture = np.ascontiguousarray(np.fliplr(picture))
            pixels[:, 1] = CROP_HW[1] - 1 - pixels[:, 1]
        return ((picture - MEAN) / STD).astype(np.float32), keep, pixels


def project(
    points: NDArray[np.float32], image_from_lidar: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(M,) rows of the points that the picture shows, (M, 2) their row and column."""
    ahead = np.flatnonzero(points[:, 0] > 0)
    homogeneous = np.column_stack([points[ahead, :3], np.ones(len(ahead))])
    projected = homogeneous @ image_from_lidar.T
    column, row = (projected[:, :2] / projected[:, 2:]).T
    seen = (column > 0) & (column < size[0]) & (row > 0) & (row < size[1])
    pixels = np.column_stack([row[seen], column[seen]]).astype(np.int64)
    return ahead[seen], pixels


def augmented(points: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Rotation about z, flip, scale, translation."""
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    points = points.copy()
    points[:, :2] = points[:, :2] @ np.array([[c, s], [-s, c]])
    flip = rng.integers(4)
    if flip in (1, 3):
        points[:, 0] = -points[:, 0]
    if flip in (2, 3):
        points[:, 1] = -points[:, 1]
    points[:, :2] *= rng.uniform(0.95, 1.05)
    points[:, :3] += rng.normal(0, 0.1, 3)
    return points


def voxelized(points: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Voxels and inverse of every scale, by torch's unique over rows."""
    found = []
    xyz = points[:, :3].numpy()
    for scale in (1, 2, 4, 8, 16):
        cells = np.ceil(np.array([1000, 1000, 60]) / scale)
        cell = np.floor(cells * (xyz - LOW) / (HIGH - LOW)).astype(np.int64)
        voxels, inverse = torch.unique(torch.from_numpy(cell), return_inverse=True, dim=0)
        found.append((voxels, inverse))
    return found
