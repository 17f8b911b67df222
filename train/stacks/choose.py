"""The past scans of a scan, and their poses in its frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.reading.scan_table import ScanTable
from pass2d.common.errors import ConfigError
from pass2d.common.text import and_so_on
from pass2d.train.stacks.config import StackConfig


@dataclass(frozen=True, kw_only=True)
class PastScan:
    """An earlier scan of the same sequence."""

    position: int
    """Row in the scan table."""
    lag: int
    """How many prepared scans before the current one."""
    seconds: float
    """How long before it; NaN where times are not known."""
    current_from_past: NDArray[np.float64]
    """(3, 4)."""


def past_scans(scans: ScanTable, position: int, config: StackConfig) -> tuple[PastScan, ...]:
    """The past scans of a scan, the latest first.

    They are the prepared scans before it in its sequence: a gap in the frame numbers does not
    shorten the history, and at the start of a sequence there are fewer.

    Raises:
        ConfigError: a pose, or with ``within_s`` or ``time = "seconds"`` a time, is not known.
    """
    found: list[PastScan] = []
    for place in range(1, config.past + 1):
        lag = place * config.stride
        earlier = position - lag
        if earlier < 0 or scans.sequence[earlier] != scans.sequence[position]:
            break
        seconds = float(scans.time_s[position] - scans.time_s[earlier])
        if config.within_s is not None and seconds > config.within_s:
            break
        found.append(
            PastScan(
                position=earlier,
                lag=lag,
                seconds=seconds,
                current_from_past=current_from_past(scans.pose[position], scans.pose[earlier]),
            )
        )
    return tuple(found)


def current_from_past(
    current: NDArray[np.float64], past: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(3, 4) from two poses (3, 4) world_from_lidar: T_t^-1 T_p, in float64."""
    last = [0.0, 0.0, 0.0, 1.0]
    joined = np.linalg.inv(np.vstack([current, last])) @ np.vstack([past, last])
    return np.asarray(joined[:3])


def require_poses(
    scans: ScanTable, positions: NDArray[np.int64], config: StackConfig, *, where: str
) -> None:
    """Refuse scans that cannot be stacked, before hours are spent on them.

    Args:
        scans: of the cache.
        positions: of the scans that are to be stacked.
        config: of the stack.
        where: names the cache, for the message.

    Raises:
        ConfigError: names the sequences without poses or, where they are needed, without times.
    """
    if not config.past:
        return
    chosen = np.isin(scans.sequence, np.unique(scans.sequence[positions]))
    has_pose = np.isfinite(scans.pose).all(axis=(1, 2))
    needs_time = config.within_s is not None or config.time == "seconds"
    for what, is_there, file, is_needed in (
        ("poses", has_pose, "poses.txt and calib.txt", True),
        ("times", np.isfinite(scans.time_s), "times.txt", needs_time),
    ):
        if is_needed and (lacking := chosen & ~is_there).any():
            names = sorted(set(scans.sequence[lacking].tolist()))
            raise ConfigError(
                f"{where}: no {what} of sequence {and_so_on(names, 8)}, which several scans "
                f"together (stack.past = {config.past}) need. Run `prepare` again: it adds {what} "
                f"to a cache of an earlier version and says what is wrong with {file}."
            )
