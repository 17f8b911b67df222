"""Settings of the synthetic world, checked when made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pass2d.common.errors import ConfigError

Traffic = Literal["flowing", "mixed"]

TEST_SEQUENCES = frozenset(f"{n:02d}" for n in range(11, 22))
"""SemanticKITTI publishes these without labels."""
LONGEST_M = 10_000.0
"""Farther from the origin, float32 no longer resolves a millimetre."""


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """What `generate` makes. Two equal configurations give the same bytes, whatever ``workers``."""

    seed: int = 0
    """Every street, object and noise value follows from it."""
    sequences: tuple[str, ...] = ("00", "01", "08", "11")
    """Two digits each: 00-07, 09, 10 are for training, 08 for validation, 11-21 have no labels."""
    scans: int = 50
    """Scans per sequence."""
    beams: int = 64
    """Rows of the LiDAR, spread over the elevations of an HDL-64E."""
    columns: int = 2083
    """Shots of one beam per revolution."""
    image_hw: tuple[int, int] = (376, 1241)
    """Height and width of the picture in pixels."""
    interval_s: float = 0.1
    """Time between two scans in seconds."""
    speed_mps: float = 8.0
    """Speed of the car that carries the sensors, in metres per second."""
    traffic: Traffic = "flowing"
    """"flowing": everything in its lane moves. "mixed": half of the cars, trucks, riders and people
    in the same places stand still, so that several scans show which ones move, and a single one
    does not."""
    workers: int = 0
    """Processes; 0 works inside the calling process."""

    def __post_init__(self) -> None:
        _check_sequences(self.sequences)
        check_whole("seed", self.seed, 0, 2**63 - 1)
        check_whole("scans", self.scans, 1, 1_000_000)
        check_whole("beams", self.beams, 1, 512)
        check_whole("columns", self.columns, 8, 16384)
        check_whole("image height", self.image_hw[0], 8, 8192)
        check_whole("image width", self.image_hw[1], 8, 8192)
        check_whole("workers", self.workers, 0, 1024)
        check_above_zero("interval_s", self.interval_s, 60.0)
        check_above_zero("speed_mps", self.speed_mps, 60.0)
        if self.traffic not in get_args(Traffic):
            raise ConfigError(
                f"traffic {self.traffic!r} does not exist; choose one of "
                f"{', '.join(get_args(Traffic))}"
            )
        if self.length_m > LONGEST_M:
            raise ConfigError(
                f"scans x interval_s x speed_mps is a drive of {self.length_m:g} m, the longest is "
                f"{LONGEST_M:g} m; lower one of the three"
            )

    @property
    def length_m(self) -> float:
        """Way that the sensors travel in one sequence, in metres."""
        return self.scans * self.interval_s * self.speed_mps


PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "small": {"columns": 512, "image_hw": (96, 304), "interval_s": 0.4, "scans": 30},
    "demo": {
        "columns": 256,
        "image_hw": (96, 304),
        "interval_s": 0.8,
        "scans": 20,
        "sequences": tuple(f"{number:02d}" for number in range(12)),
    },
    "movers": {
        "beams": 32,
        "columns": 256,
        "image_hw": (96, 304),
        "interval_s": 0.2,
        "scans": 20,
        "sequences": tuple(f"{number:02d}" for number in range(12)),
        "traffic": "mixed",
    },
    "tiny": {
        "beams": 16,
        "columns": 128,
        "image_hw": (32, 96),
        "interval_s": 0.8,
        "scans": 3,
        "sequences": ("00", "08", "11"),
    },
}
"""Named sizes: "full" is like KITTI, "small" trains a small network in minutes, "demo" in a
few: twelve streets, 6.4 m from scan to scan; "movers" is for several scans together: twelve
streets with mixed traffic, 1.6 m from scan to scan; "tiny" tests."""


def preset(name: str, **changes: Any) -> SynthConfig:
    """Make the configuration of a named size.

    Args:
        name: a key of ``PRESETS``.
        changes: fields of `SynthConfig` that differ from the preset.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: an unknown name, or a value that cannot work.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} does not exist; choose one of {', '.join(PRESETS)}")
    return SynthConfig(**{**PRESETS[name], **changes})


def _check_sequences(sequences: tuple[str, ...]) -> None:
    if not sequences:
        raise ConfigError("sequences is empty; name at least one, e.g. 00")
    for sequence in sequences:
        if not re.fullmatch(r"0[0-9]|1[0-9]|2[01]", sequence):
            raise ConfigError(f"sequence {sequence!r} does not exist; expected 00 to 21")
    if len(set(sequences)) != len(sequences):
        raise ConfigError(f"sequences {', '.join(sequences)} list one twice; list each once")


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """Refuse anything but a whole number from ``low`` to ``high``.

    Raises:
        ConfigError: naming the setting.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def check_above_zero(name: str, value: float, high: float) -> None:
    """Refuse anything but a number above 0 and at most ``high``.

    Raises:
        ConfigError: naming the setting.
    """
    if not (math.isfinite(value) and 0 < value <= high):
        raise ConfigError(f"{name} must be above 0 and at most {high:g}, got {value!r}")
