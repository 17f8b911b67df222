"""A data set's table: the TOML file with its classes, splits and layout."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pass2d.cache.check_manifest import fact_faults, moving_faults
from pass2d.cache.layout import DATASET
from pass2d.cache.schema import (
    KNOWN_FACTS,
    DatasetFacts,
    DatasetInfo,
    GridConfig,
    LabelTable,
)
from pass2d.common.errors import CacheError, ConfigError
from pass2d.common.files import read_fault
from pass2d.common.json import from_json
from pass2d.pipeline.datasets.words import read_once, read_table
from pass2d.pipeline.source import CameraRule

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DatasetTable:
    """The contents of a TOML file of this folder."""

    info: DatasetInfo
    """What training and prediction must know about it."""
    raw_names: dict[int, str]
    """Name of every raw id."""
    splits: dict[str, tuple[str, ...]]
    """Sequences (nuScenes: scenes) of each split."""
    scan_counts: dict[str, int]
    """Scans of each sequence in the whole data set; empty if not published."""
    cameras: tuple[str, ...]
    """Names of the cameras in the order of the cache; empty where there is only one."""
    camera_rule: CameraRule = "x_ahead"
    """Which points a camera may see."""
    stored_hw: tuple[int, int] | None = None
    """Height and width that pictures are resized to by default; None keeps them as taken."""
    usual_roots: tuple[str, ...] = ()
    """Paths below the current folder where the data set usually lies, the likeliest first."""

    @property
    def sequences(self) -> frozenset[str]:
        """Names of all sequences of all splits."""
        return frozenset(name for names in self.splits.values() for name in names)

    def split_of(self, sequence: str) -> str | None:
        """The split that a sequence belongs to; None when the table does not know it."""
        for split, sequences in self.splits.items():
            if sequence in sequences:
                return split
        return None


def load_table(file: Path) -> DatasetTable:
    """Read and check a data set's table.

    Raises:
        ConfigError: not TOML, a key missing, or parts that contradict each other.
    """
    with _named(file):
        return _table(read_table(file))


def name_and_layout(file: Path) -> tuple[str, str]:
    """What a table is found by, without the checks of the rest.

    Raises:
        ConfigError: as `load_table`.
    """
    with _named(file):
        raw = read_once(file)
        return raw["name"], raw["layout"]


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Name the file that is wrong."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {read_fault(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from error
    except KeyError as error:
        raise ConfigError(f"{file}: key {error} is missing. See semkitti.toml.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: {error}") from error


def _table(raw: Mapping[str, Any]) -> DatasetTable:
    if DATASET.fullmatch(raw["name"]) is None:
        raise ValueError(f"name {raw['name'][:40]!r}: expected letters, digits, '-' and '_'")
    labels = _labels(raw["classes"], raw["raw_labels"])
    grid = raw["grid"]
    info = DatasetInfo(
        name=raw["name"],
        layout=raw["layout"],
        labels=labels,
        grid=GridConfig(
            low=_triple(grid["low"], float),
            high=_triple(grid["high"], float),
            shape=_triple(grid["shape"], int),
        ),
        n_cameras=raw["n_cameras"],
        has_class_weights=raw["has_class_weights"],
        signal_name=raw["signal_name"],
        raw_columns=raw["raw_columns"],
        own_facts=_own_facts(raw["layout"], raw["facts"], n_classes=labels.n_classes),
    )
    _check_grid(info.grid)
    cameras = tuple(raw.get("cameras", ()))
    if max(1, len(cameras)) != info.n_cameras:
        raise ValueError(f"n_cameras is {info.n_cameras}, but {len(cameras)} cameras are named")
    rule = raw.get("camera_rule", "x_ahead")
    if rule not in get_args(CameraRule):
        raise ValueError(f"camera_rule {rule!r}: expected {' or '.join(get_args(CameraRule))}")
    splits = {split: tuple(names) for split, names in raw["splits"].items()}
    return DatasetTable(
        info=info,
        raw_names={int(raw_id): entry["name"] for raw_id, entry in raw["raw_labels"].items()},
        splits=splits,
        scan_counts=dict(raw.get("scan_counts", {})),
        cameras=cameras,
        camera_rule=rule,
        stored_hw=None if "stored_hw" not in raw else _pair(raw["stored_hw"]),
        usual_roots=tuple(raw.get("usual_roots", ())),
    )


def _own_facts(layout: str, raw: Mapping[str, Any], *, n_classes: int) -> DatasetFacts | None:
    """None where they are those that caches of this layout have without saying so."""
    try:
        facts = from_json(DatasetFacts, raw, where="[facts]")
    except CacheError as error:
        raise ValueError(f"{error.__cause__}. See semkitti.toml.") from error
    for faults in (fact_faults, moving_faults):
        for wrong in faults(facts, n_classes=n_classes):
            raise ValueError(f"[facts]: {wrong}")
    return None if KNOWN_FACTS.get(layout) == facts else facts


def _labels(classes: list[Mapping[str, Any]], raw_labels: Mapping[str, Any]) -> LabelTable:
    names = tuple(entry["name"] for entry in classes)
    if len(set(names)) != len(names):
        raise ValueError("two classes have the same name")
    unknown = {entry["class"] for entry in raw_labels.values()} - set(names)
    if unknown:
        raise ValueError(f"raw_labels name classes that do not exist: {sorted(unknown)}")
    raw_to_training = {int(key): names.index(entry["class"]) for key, entry in raw_labels.items()}
    training_to_raw = tuple(int(entry["raw"]) for entry in classes)
    for training_id, raw_id in enumerate(training_to_raw):
        if raw_to_training.get(raw_id) != training_id:
            raise ValueError(f"class {names[training_id]!r} writes raw {raw_id}, which is not its")
    return LabelTable(
        raw_to_training=dict(sorted(raw_to_training.items())),
        training_to_raw=training_to_raw,
        names=names,
        colors_rgb=tuple(_triple(entry["color_rgb"], int) for entry in classes),
    )


def _triple(values: list[T], kind: type[T]) -> tuple[T, T, T]:
    if len(values) != 3 or any(not isinstance(value, kind) for value in values):
        raise ValueError(f"{values} must be three of {kind.__name__}")
    return values[0], values[1], values[2]


def _pair(values: list[int]) -> tuple[int, int]:
    if len(values) != 2 or any(type(value) is not int or value < 1 for value in values):
        raise ValueError(f"stored_hw {values}: expected height and width")
    return values[0], values[1]


def _check_grid(grid: GridConfig) -> None:
    if any(high <= low for low, high in zip(grid.low, grid.high, strict=True)):
        raise ValueError(f"grid: high {grid.high} must be above low {grid.low} on every axis")
    if any(cells < 1 for cells in grid.shape):
        raise ValueError(f"grid: shape {grid.shape} must be at least 1 on every axis")
