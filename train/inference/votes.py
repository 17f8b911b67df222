"""Test-time augmentation: how a scan is moved before each vote (docs/maths.md, section 8)."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import ConfigError
from pass2d.train.data.sampling import SYMMETRIES

if TYPE_CHECKING:
    from torch import Tensor

Points = TypeVar("Points", "Tensor", NDArray[np.float32])

TRANSLATION_STD_M = 0.1
"""As in training (docs/maths.md, section 2)."""
PUBLISHED_VOTES = 12
MAX_VOTES = 1000


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A transform of the scan: ``[x y] @ xy_matrix + translation``, and z scaled and shifted."""

    xy_matrix: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    z_factor: float = 1.0
    translation_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    symmetry: int | None = None
    """Which of `SYMMETRIES` of the grid it is: cached hashes then stay exact."""

    def apply(self, points: Points) -> Points:
        """Move points.

        Args:
            points: (N, 4) float32, tensor or array: x, y, z in metres, signal.

        Returns:
            (N, 4) new, on the same device; the points themselves when nothing moves.
        """
        if self.symmetry == 0:
            return points
        moved = points * 1
        # Not `@`: on CUDA that may round to TF32, and a quarter turn must be exact.
        x, y = points[:, 0], points[:, 1]
        for axis in (0, 1):
            along_x, along_y = self.xy_matrix[0][axis], self.xy_matrix[1][axis]
            moved[:, axis] = x * along_x + y * along_y + self.translation_m[axis]
        moved[:, 2] = points[:, 2] * self.z_factor + self.translation_m[2]
        return moved


IDENTITY = Vote(symmetry=0)
LATTICE_VOTES = tuple(
    Vote(xy_matrix=((float(a), float(b)), (float(c), float(d))), symmetry=index)
    for index, ((a, b), (c, d)) in enumerate(SYMMETRIES)
)
"""The 8 symmetries of a grid that is square in x and y; the first one moves nothing."""


def _view(sign_x: float, sign_y: float, turn_rad: float, factor: float) -> Vote:
    """A flipped, rotated and scaled view; the plain one does not move points."""
    if (sign_x, sign_y, turn_rad, factor) == (1, 1, 0, 1):
        return IDENTITY
    cos, sin = math.cos(turn_rad) * factor, math.sin(turn_rad) * factor
    rows = ((sign_x * cos, sign_x * sin), (-sign_y * sin, sign_y * cos))
    return Vote(xy_matrix=rows, z_factor=factor)


VIEWS = tuple(
    _view(sign_x, sign_y, turn * math.pi / 4, factor)
    for sign_x in (1.0, -1.0)
    for sign_y in (1.0, -1.0)
    for turn in (0, -1, 1)
    for factor in (1.0, 0.95, 1.05)
)
"""4 flips x 3 rotations (0, 45 degrees to either side) x 3 scales (of x, y, z): the 36 fixed views
with which open-mmlab/mmdetection3d reports scores."""
SCALED_VIEWS = tuple(
    _view(sign, sign, 0, factor) for sign in (1.0, -1.0) for factor in (1.0, 0.9, 0.95, 1.05, 1.1)
)
"""5 scales (of x, y, z), each unflipped and flipped in x and y: the 10 fixed views with which
Pointcept/Pointcept reports scores of outdoor scans."""
ViewsName = Literal["flips-rotations-scales", "flips-scales"]
VIEW_SETS: dict[ViewsName, tuple[Vote, ...]] = {
    "flips-rotations-scales": VIEWS,
    "flips-scales": SCALED_VIEWS,
}
"""Fixed sets by name; each has the plain view, first."""


@dataclass(frozen=True, kw_only=True)
class VotePlan:
    """The votes of test-time augmentation."""

    kind: Literal["none", "random", "lattice"] | ViewsName = "none"
    count: int = 1
    """Votes per scan."""
    seed: int = 0
    """Of the random votes."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_VOTES:
            raise ConfigError(f"votes must be 1 to {MAX_VOTES} or a named set, got {self.count}")

    def of(self, scan_id: str) -> tuple[Vote, ...]:
        """The votes of a scan, as a function of plan and scan only."""
        if self.kind == "none":
            return (IDENTITY,)
        if self.kind == "lattice":
            return LATTICE_VOTES
        if self.kind != "random":
            return VIEW_SETS[self.kind]
        rng = np.random.default_rng([self.seed, zlib.crc32(scan_id.encode())])
        return tuple(_random_vote(rng) for _ in range(self.count))

    def __str__(self) -> str:
        """For reports: "no votes", "12 random votes", "8 lattice votes", "36 flips-... votes"."""
        return "no votes" if self.kind == "none" else f"{self.count} {self.kind} votes"


SINGLE_PASS = VotePlan()


def parse_votes(text: str, *, seed: int = 0) -> VotePlan:
    """Read the option: "1" ("none") for a plain pass, a number of random votes, or a set's name.

    Raises:
        ConfigError: None of these.
    """
    word = text.strip().lower()
    if word in ("none", "1"):
        return VotePlan(seed=seed)
    if word == "lattice":
        return VotePlan(kind="lattice", count=len(LATTICE_VOTES), seed=seed)
    for name, views in VIEW_SETS.items():
        if word == name:
            return VotePlan(kind=name, count=len(views), seed=seed)
    if word.isascii() and word.isdigit():
        return VotePlan(kind="random", count=int(word), seed=seed)
    raise ConfigError(
        f"votes must be a number (published: {PUBLISHED_VOTES}), lattice, "
        f"{' or '.join(VIEW_SETS)}, got {text!r}"
    )


def _random_vote(rng: np.random.Generator) -> Vote:
    angle = rng.uniform(0, 2 * np.pi)
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    x, y, z = rng.normal(0, TRANSLATION_STD_M, 3).tolist()
    return Vote(xy_matrix=((cosine, sine), (-sine, cosine)), translation_m=(x, y, z))
