"""Settings of the runner."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pass2d.cache.fields import PROFILES
from pass2d.common.errors import ConfigError
from pass2d.common.processes import require_few

MAX_PICTURE_SIDE = 8192


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Settings of `prepare`. Only `profile` and `shard_scans` affect the bytes."""

    workers: int | None = None
    """Ray workers; 0: in this process, without Ray; None: decided by workers.py. With
    `ray_address`: number of simultaneous tasks; None: as many as the cluster accepts."""
    ray_address: str | None = None
    """Join this cluster ("auto", "host:port", "ray://..."); None starts a local one, whatever
    RAY_ADDRESS says."""
    profile: str = "speed"
    """"speed", "size" (smaller) or "raw" (uncompressed); see FIELDS."""
    shard_scans: int = 64
    """K, scans per shard; a shard never crosses a sequence."""
    max_retries: int = 3
    """Attempts after the first for a task whose worker died or whose disk failed."""

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ConfigError(
                f"`profile`: found {self.profile!r}, expected one of {', '.join(PROFILES)}."
            )
        if self.shard_scans < 1:
            raise ConfigError(f"shard_scans must be at least 1, found {self.shard_scans}.")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"`workers` must be 0 (inline) or more, found {self.workers}.")
        if self.ray_address is None:
            require_few(self.workers or 0, "workers")
        if self.ray_address is not None and not self.ray_address.strip():
            raise ConfigError("`ray_address` is empty: give host:port or auto, or leave it out.")
        if self.workers == 0 and self.ray_address is not None:
            raise ConfigError("`workers=0` runs without Ray: leave out `ray_address`.")


def image_size_hw(text: str) -> tuple[int, int] | None:
    """Read the size of stored pictures: "400x240" (width x height) -> (240, 400).

    Returns:
        Height and width; None for "original": pictures stay as taken.

    Raises:
        ConfigError: anything else.
    """
    if text.strip().lower() == "original":
        return None
    match = re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", text)
    sides = [int(side) for side in match.groups()] if match else []
    if not sides or not all(16 <= side <= MAX_PICTURE_SIDE for side in sides):
        raise ConfigError(
            f"`image_size`: found {text!r}, expected WIDTHxHEIGHT (e.g. 400x240, each "
            f"16..{MAX_PICTURE_SIDE}) or original."
        )
    return sides[1], sides[0]
