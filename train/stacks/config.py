"""How several scans are put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pass2d.common.errors import ConfigError

MOST_PAST = 100


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """A scan and earlier ones of its sequence, in its frame (docs/maths.md, section 13)."""

    past: int = 0
    """Earlier scans at most; 0: each scan by itself. At the start of a sequence there are fewer."""
    stride: int = 1
    """1: the scans directly before it; 2: every second one; ..."""
    within_s: float | None = None
    """Only scans that were taken at most this many seconds before; "none": all."""
    time: Literal["none", "flag", "lag", "seconds"] = "none"
    """A fifth channel of each point: 0 (current) or 1 (past), how many scans ago, or how many
    seconds ago. The current scan has 0."""
    points: Literal["all", "steps", "shared-voxels"] = "all"
    """Which past points enter: all; by class, see `steps`; those that share a voxel of `voxel_m`
    with the current scan."""
    steps: tuple[int, ...] = ()
    """Per class (training ids without motion): its points enter from scans whose lag is a multiple
    of this; 0: never."""
    predictions: str = ""
    """Where `steps` takes the classes of past points from: a folder that `pass2d predict` or
    `pass2d submit` wrote. Empty: the labels, which a test set does not have."""
    voxel_m: float = 0.1
    """Edge of the voxels of "shared-voxels", metres."""
    loss: Literal["all", "current"] = "all"
    """Whether the losses count all points or those of the current scan."""

    def __post_init__(self) -> None:
        if not 0 <= self.past <= MOST_PAST:
            raise ValueError(f"past must lie in 0..{MOST_PAST}, got {self.past}")
        if not 1 <= self.stride <= MOST_PAST:
            raise ValueError(f"stride must lie in 1..{MOST_PAST}, got {self.stride}")
        if self.within_s is not None and self.within_s <= 0:
            raise ValueError(f"within_s must be above 0, got {self.within_s}")
        if self.voxel_m <= 0:
            raise ValueError(f"voxel_m must be above 0, got {self.voxel_m}")
        if any(step < 0 for step in self.steps):
            raise ValueError(f"steps must not be negative, got {list(self.steps)}")
        if (self.points == "steps") != bool(self.steps):
            raise ValueError('steps: give them together with points = "steps", one per class')
        if self.predictions and self.points != "steps":
            raise ValueError('predictions: only points = "steps" uses them')

    @property
    def has_time(self) -> bool:
        """Whether points have a fifth channel."""
        return self.past > 0 and self.time != "none"

    def require_classes(self, n_classes: int) -> None:
        """Refuse steps that are not one per class (without motion).

        Raises:
            ConfigError: another number.
        """
        if self.steps and len(self.steps) != n_classes:
            raise ConfigError(
                f"stack.steps: {len(self.steps)} numbers, expected {n_classes}: one per class, the "
                "ignored one included"
            )


SINGLE_SCAN = StackConfig()
"""Each scan by itself."""
