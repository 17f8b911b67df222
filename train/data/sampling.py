"""The random draws for a scan: a pure function of (seed, epoch, scan).

Every number is drawn whether or not it is used, so that switching one augmentation off leaves the
others unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import GridConfig
from pass2d.common.text import unknown
from pass2d.corruptions.registry import (
    CORRUPTIONS,
    SEVERITIES,
    SeverityName,
    Variant,
)
from pass2d.train.data.augmentations import AUGMENTATIONS
from pass2d.train.data.dropout import DropoutKind
from pass2d.train.data.mixes import MIXES
from pass2d.train.data.scan import ScanDraw


def _require_probabilities(
    what: str, chosen: Mapping[str, float], known: Mapping[str, object]
) -> None:
    for name, probability in chosen.items():
        if name not in known:
            raise ValueError(unknown(name, known, what=what))
        if not 0 <= probability <= 1:
            raise ValueError(f"{what} {name} has a probability, 0..1, got {probability}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training scans (docs/maths.md, sections 2.3 to 2.6)."""

    mode: Literal["full", "noise", "lattice", "none"] = "full"
    """"full": as published, scans are voxelised; "noise": some scans are corrupted first (fog,
    lost beams, ...), then as "full"; "lattice": the symmetries of the grid, for which the cached
    hashes stay exact, and the picture's augmentation; "none": nothing at all."""
    dropout: DropoutKind = "copy"
    """What happens to a dropped point. "copy", as published: it becomes a copy of the scan's first
    point and counts in every mean and loss, also in those of the picture if that point is visible;
    "remove": it is removed. Modes full and noise."""
    dropout_ratio: float = 0.2
    """The share of points that a scan loses is uniform in 0..this. Modes full and noise."""
    rotate: bool = True
    """About z, by any angle. Mode full."""
    flip: bool = True
    """None, x, y, or x and y. Mode full."""
    scale: float = 0.05
    """One factor on x and y, uniform in 1 - this .. 1 + this. Mode full."""
    scale_z: bool = False
    """The factor is on z too."""
    translate_m: float = 0.1
    """Standard deviation of a shift per axis, metres. Mode full."""
    mixes: tuple[dict[str, float], ...] = ()
    """Mixes with a second scan: groups of names of `MIXES` and their probabilities, applied in this
    order. Of a group at most one is applied, with a newly drawn partner, e.g.
    [{instance-copy = 1.0}]. The probability of mix3d is that of a batch, whose scans it joins two
    by two. Modes full and noise."""
    extra: dict[str, float] = field(default_factory=dict)
    """More augmentations, names of `AUGMENTATIONS` (each of the corruptions, at any severity, and
    static-moving-switch, for stacks) and the probability that a scan gets them, in this order, e.g.
    {fog = 0.1}. Modes full and noise."""
    cameras: Literal["one", "all"] = "one"
    """"one": a sample sees one of its scan's pictures, each equally often (as published for
    nuScenes); "all": it sees them all."""
    crop_hw: tuple[int, int] | None = (320, 480)
    """Height and width of a crop at the bottom of the picture, its left edge uniform; "none": the
    whole picture. Smaller pictures use the largest multiples of 16 that fit all of them."""
    resize_hw: tuple[int, int] | None = None
    """Size to which the picture is resized after the crop; multiples of 16. Without a crop that is
    the whole picture, e.g. 1600 x 900 of nuScenes when the cache keeps it large."""
    jitter: float = 0.4
    """Brightness, contrast and saturation change by factors uniform in 1 - this .. 1 + this."""
    mirror: float = 0.5
    """Probability that the picture is flipped left to right."""
    noise_probability: float = 0.5
    """Probability that a scan is corrupted. Mode noise."""
    noise_corruptions: tuple[str, ...] = CORRUPTIONS
    """Corruptions to draw from, each equally likely. Mode noise."""
    noise_severities: tuple[SeverityName, ...] = SEVERITIES
    """Severities to draw from, each equally likely. Mode noise."""

    def __post_init__(self) -> None:
        for name in ("dropout_ratio", "scale", "jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        for name in ("mirror", "noise_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")
        for name in ("noise_corruptions", "noise_severities"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one; noise_probability = 0 is none")
        for name in self.noise_corruptions:
            if name not in CORRUPTIONS:
                raise ValueError(f"noise_corruptions: {unknown(name, CORRUPTIONS, what='name')}")
        if self.translate_m < 0:
            raise ValueError(f"translate_m must not be negative, got {self.translate_m}")
        for name in ("crop_hw", "resize_hw"):
            size = getattr(self, name)
            if size is not None and any(side < 16 or side % 16 for side in size):
                raise ValueError(f"{name} must be multiples of 16, got {list(size)}")
        self._check_tables()

    def _check_tables(self) -> None:
        for group in self.mixes:
            _require_probabilities("mix", group, MIXES)
            if not 0 < sum(group.values()) <= 1 + 1e-9:
                raise ValueError(
                    f"mixes: of {group} at most one is applied: the probabilities must add up to "
                    "more than 0 and at most 1"
                )
        _require_probabilities("augmentation", self.extra, AUGMENTATIONS)
        if (self.mixes or self.extra) and not self.is_free:
            name = "mixes" if self.mixes else "extra"
            raise ValueError(f"{name}: the voxels change, which needs mode = 'full' or 'noise'")

    @property
    def keeps_hashes(self) -> bool:
        """Whether the cached voxel hashes stay exact for the augmented points."""
        return not self.is_free

    @property
    def keeps_neighbours(self) -> bool:
        """Whether each point keeps its neighbours: none comes or goes, all move alike."""
        if not self.is_free:
            return True
        is_whole = not (self.mixes or self.extra or self.dropout_ratio or self.mode == "noise")
        return is_whole and (self.scale_z or not self.scale)

    @property
    def is_free(self) -> bool:
        """Whether points move freely, as published."""
        return self.mode in ("full", "noise")


SYMMETRIES: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = (
    ((1, 0), (0, 1)),
    ((-1, 0), (0, 1)),
    ((1, 0), (0, -1)),
    ((-1, 0), (0, -1)),
    ((0, 1), (1, 0)),
    ((0, -1), (1, 0)),
    ((0, 1), (-1, 0)),
    ((0, -1), (-1, 0)),
)
"""The symmetries of a square grid about z: [x y] <- [x y] @ entry. The first is none; the last four
swap x and y."""


def draw_scan(
    config: AugmentConfig, *, seed: int, epoch: int, scan: int, grid: GridConfig, salt: int = 0
) -> ScanDraw:
    """Draw everything for one scan.

    Args:
        config: strengths; what is off is drawn and not used.
        seed: of the run.
        epoch: counted from 0.
        scan: its position in the cache's table.
        grid: decides which symmetries exist.
        salt: distinguishes several draws for one scan and epoch (the partner of a mix).
    """
    rng = np.random.default_rng([seed, epoch, scan, salt])
    drop_ratio = float(rng.uniform(0, 1))
    yaw_rad = float(rng.uniform(0, 2 * math.pi))
    flip = int(rng.integers(4))
    factor = float(rng.uniform(-1, 1))
    shift = rng.normal(0, 1, 3)
    symmetry = int(rng.choice(grid_symmetries(grid)))
    camera_share, crop_share, partner_share = rng.uniform(0, 1, 3).tolist()
    jitter = rng.uniform(-1, 1, 3)
    jitter_order = rng.permutation(3)
    mirror = float(rng.uniform(0, 1))
    point_seed = int(rng.integers(2**62))
    corruption = _draw_corruption(config, *rng.uniform(0, 1, 3).tolist())
    corruption_seed = int(rng.integers(2**62))

    is_full, is_lattice = config.is_free, config.mode == "lattice"
    linear = np.eye(3)
    if is_full:
        linear = linear_map(
            yaw_rad=yaw_rad if config.rotate else 0.0,
            flip=flip if config.flip else 0,
            factor=1 + factor * config.scale,
            scale_z=config.scale_z,
        )
    elif is_lattice:
        linear[:2, :2] = SYMMETRIES[symmetry]
    shift_m = (shift * config.translate_m if is_full else np.zeros(3)).tolist()
    factors = (1 + jitter * config.jitter).tolist()
    is_plain = config.mode == "none"
    return ScanDraw(
        drop_ratio=drop_ratio * config.dropout_ratio if is_full else 0.0,
        point_seed=point_seed,
        linear=tuple((x, y, z) for x, y, z in linear.tolist()),
        shift_m=(shift_m[0], shift_m[1], shift_m[2]),
        symmetry=symmetry if is_lattice else 0,
        camera_share=camera_share,
        crop_share=0.5 if is_plain else crop_share,
        jitter=(1.0, 1.0, 1.0) if is_plain else (factors[0], factors[1], factors[2]),
        jitter_order=tuple(jitter_order.tolist()),
        is_mirrored=not is_plain and mirror < config.mirror,
        partner_share=partner_share,
        corruption=corruption,
        corruption_seed=corruption_seed,
    )


def _draw_corruption(
    config: AugmentConfig, whether: float, which: float, severity: float
) -> Variant | None:
    """Turn three numbers in 0..1 into a corruption, or none."""
    if config.mode != "noise" or whether >= config.noise_probability:
        return None
    names, severities = config.noise_corruptions, config.noise_severities
    return Variant(
        name=names[int(which * len(names))], severity=severities[int(severity * len(severities))]
    )


def without_symmetry(draw: ScanDraw) -> ScanDraw:
    """The same draw, but the points stay where they are; for mode lattice."""
    identity = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    return replace(draw, symmetry=0, linear=identity)


def linear_map(
    *, yaw_rad: float, flip: int, factor: float, scale_z: bool = False
) -> NDArray[np.float64]:
    """Rotation about z, then flip, then a factor on x and y, as one matrix for row vectors.

    Args:
        yaw_rad: [x y] <- [x y] @ [[cos, sin], [-sin, cos]].
        flip: 0 none, 1 x, 2 y, 3 x and y.
        factor: of x and y.
        scale_z: whether the factor is on z too.

    Returns:
        (3, 3): xyz_after = xyz @ matrix.
    """
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    rotation = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    signs = (-1.0 if flip in (1, 3) else 1.0, -1.0 if flip in (2, 3) else 1.0)
    return rotation @ np.diag([signs[0] * factor, signs[1] * factor, factor if scale_z else 1.0])


def grid_symmetries(grid: GridConfig) -> tuple[int, ...]:
    """Indices into `SYMMETRIES` that put the volume and all its cells onto themselves."""
    mirrors_x, mirrors_y = (grid.low[axis] == -grid.high[axis] for axis in (0, 1))
    may_swap = (
        grid.shape[0] == grid.shape[1]
        and grid.low[0] == grid.low[1]
        and grid.high[0] == grid.high[1]
    )
    return tuple(
        index
        for index, ((a, b), (c, d)) in enumerate(SYMMETRIES)
        if (may_swap or (b == 0 and c == 0))
        and (mirrors_x or a + c > 0)
        and (mirrors_y or b + d > 0)
    )
