"""The corruptions by name, their severities, and the random generator of each scan."""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xxhash

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import ConfigError
from pass2d.common.plain import require_known
from pass2d.corruptions import (
    beam_missing,
    cross_sensor,
    crosstalk,
    fog,
    incomplete_echo,
    motion_blur,
    snow,
    wet_ground,
)
from pass2d.corruptions.cloud import Cloud, Corrupted, Sensor
from pass2d.corruptions.corruption import Corruption

CODE_VERSION = 1
"""Part of the key of corrupted scans: raise it when a corruption's output changes."""
COLLECTION = "pass2d-C"
"""The name in reports, so that they are not mistaken for the published sets."""

KNOWN: dict[str, Corruption] = {
    "fog": fog.CORRUPTION,
    "wet_ground": wet_ground.CORRUPTION,
    "snow": snow.CORRUPTION,
    "motion_blur": motion_blur.CORRUPTION,
    "beam_missing": beam_missing.CORRUPTION,
    "crosstalk": crosstalk.CORRUPTION,
    "incomplete_echo": incomplete_echo.CORRUPTION,
    "cross_sensor": cross_sensor.CORRUPTION,
}
"""By name, in the order of the published tables."""
CORRUPTIONS: tuple[str, ...] = tuple(KNOWN)
_REFERENCE = "semantickitti"
"""The layout whose severities a described lidar has, for the same shares of its beams."""
SeverityName = Literal["light", "moderate", "heavy"]
SEVERITIES: tuple[SeverityName, ...] = get_args(SeverityName)


@dataclass(frozen=True, kw_only=True, order=True)
class Variant:
    """A corruption at a severity."""

    name: str
    severity: SeverityName

    @property
    def slug(self) -> str:
        """As a part of names: "wet_ground-heavy"."""
        return f"{self.name}-{self.severity}"


@dataclass(frozen=True, kw_only=True)
class CorruptionTable:
    """What a TOML file of this folder says."""

    sensor: Sensor
    settings: dict[Variant, Any]
    baseline_miou: dict[str, float] = field(default_factory=dict)
    """Robo3D's baseline, by corruption and for "clean"; empty where none was measured."""

    def noise_labels(self) -> set[int]:
        """Raw ids of points that a corruption added."""
        return {getattr(settings, "noise_label", 0) for settings in self.settings.values()} - {0}

    def parameters(self, variant: Variant) -> dict[str, Any]:
        """Everything that decides a corruption's output but the scan, as plain data for keys."""
        plain: dict[str, Any] = json.loads(
            json.dumps(
                {
                    "name": variant.name,
                    "severity": variant.severity,
                    "code_version": CODE_VERSION,
                    "settings": asdict(self.settings[variant]),
                    "sensor": asdict(self.sensor),
                }
            )
        )
        return plain


def corruption_table(layout: str) -> CorruptionTable:
    """The table of a data set's layout: "semantickitti" or "nuscenes".

    Args:
        layout: names a TOML file of this folder.

    Raises:
        ConfigError: no table for that layout, or a damaged one.
    """
    return _read_table(layout, tuple(KNOWN.values()))


@functools.cache
def _read_table(layout: str, known: tuple[Corruption, ...]) -> CorruptionTable:
    file = _file_of(layout)
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
        sensor = Sensor(**{key: _frozen(value) for key, value in raw["sensor"].items()})
        settings = {
            Variant(name=one.name, severity=severity): _settings(
                raw[one.name] if one.name in raw or not one.usual else dict(one.usual),
                one.settings,
                place,
            )
            for one in known
            for place, severity in enumerate(SEVERITIES)
        }
    except FileNotFoundError as error:
        raise ConfigError(
            f"no corruptions for layout {layout!r}: pass2d/corruptions/ has no table {file.name}."
        ) from error
    except (tomllib.TOMLDecodeError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{file}: {type(error).__name__}: {error}. See README.md.") from error
    return CorruptionTable(
        sensor=sensor, settings=settings, baseline_miou=raw.get("baseline_miou", {})
    )


def benchmark_table(info: DatasetInfo) -> CorruptionTable | None:
    """The table of a data set's benchmark; None where there is none."""
    benchmark = info.facts.benchmark
    return corruption_table(benchmark) if benchmark and _file_of(benchmark).is_file() else None


def _file_of(layout: str) -> Path:
    return Path(__file__).with_name(f"{layout}.toml")


def table_of(info: DatasetInfo) -> CorruptionTable:
    """The table of a data set: that of its layout, or one for the lidar that its facts describe.

    The severities of a described lidar are SemanticKITTI's, for the same shares of its beams.

    Raises:
        ConfigError: as `corruption_table`.
    """
    lidar = info.facts.lidar
    if lidar is None:
        return corruption_table(info.layout)
    table = corruption_table(_REFERENCE)
    sensor = Sensor(
        beams=lidar.beams,
        elevation_deg=lidar.fov_deg,
        signal_max=info.facts.full_scale,
        sealed_ground=lidar.sealed_ground,
        vehicles=lidar.vehicles,
    )
    share = lidar.beams / table.sensor.beams
    settings = {variant: _for_beams(one, share) for variant, one in table.settings.items()}
    return CorruptionTable(sensor=sensor, settings=settings)


def _for_beams(settings: Any, share: float) -> Any:
    """Settings of one corruption with its counts of beams multiplied, and no published label."""
    names = {field.name for field in fields(settings)}
    changed: dict[str, Any] = {"noise_label": 0} if "noise_label" in names else {}
    for name in names & {"draws", "beams_dropped"}:
        changed[name] = round(getattr(settings, name) * share)
    if "beam_range" in names:
        changed["beam_range"] = tuple(round(beam * share) for beam in settings.beam_range)
    return replace(settings, **changed)


def corrupt(
    cloud: Cloud, variant: Variant, *, table: CorruptionTable, rng: np.random.Generator
) -> Corrupted:
    """Corrupt a scan.

    Args:
        cloud: every point that the sensor gave.
        variant: what to do to it.
        table: of the data set.
        rng: source of all random draws; see `scan_generator`.

    Raises:
        DataError: the corruption needs labels and the cloud has none.
    """
    if cloud.n == 0:
        return Corrupted(xyz=cloud.xyz, signal=cloud.signal, source=np.arange(0))
    return KNOWN[variant.name].apply(cloud, table.settings[variant], rng)


def scan_generator(
    variant: Variant, *, sequence: str, frame_index: int, part: int = 0
) -> np.random.Generator:
    """The random generator of a scan, which depends only on these arguments.

    So the result is the same whatever the number of workers and the order of scans.

    Args:
        variant: corruption and severity.
        sequence: of the scan.
        frame_index: of the scan.
        part: 0 for the scan itself, 1, 2... for added sweeps.
    """
    text = f"{variant.name}/{variant.severity}/{sequence}/{frame_index}/{part}"
    return np.random.default_rng(xxhash.xxh3_128_intdigest(text.encode()))


def parse_variants(text: str) -> tuple[Variant, ...]:
    """Read a list such as "fog:heavy,snow"; without a severity all three; "all" is everything.

    Args:
        text: the list.

    Returns:
        Each once, in the order of the tables.

    Raises:
        ConfigError: an unknown corruption or severity; proposes the nearest.
    """
    found: set[Variant] = set()
    every = tuple(KNOWN)
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ConfigError(f"`corrupt`: found {text!r}, expected e.g. fog:heavy,snow or all.")
    for word in words:
        name, colon, severity = (part.strip() for part in word.partition(":"))
        names = every if name == "all" else (_known(name, every, word, "corruption"),)
        if colon:
            levels: Sequence[SeverityName] = (_known(severity, SEVERITIES, word, "severity"),)
        else:
            levels = SEVERITIES
        found |= {Variant(name=n, severity=level) for n in names for level in levels}
    return tuple(
        variant
        for variant in (Variant(name=n, severity=s) for n in every for s in SEVERITIES)
        if variant in found
    )


def _known(word: str, known: Sequence[Any], where: str, what: str) -> Any:
    spelled = word.lower().replace("-", "_")
    choices = (*known, "all") if what == "corruption" else known
    require_known(spelled, choices, where=f"`corrupt`, {where!r}", what=what)
    return spelled


def _settings(raw: dict[str, Any], kind: type[Any], place: int) -> Any:
    values = {}
    for each in fields(kind):
        value = raw.get(each.name, each.default) if each.name == "noise_label" else raw[each.name]
        if isinstance(value, list):
            value = value[place] if len(value) > 1 else value[0]
        values[each.name] = _frozen(value)
    if unknown := set(raw) - set(values):
        raise KeyError(f"unknown key {sorted(unknown)[0]}")
    return kind(**values)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
