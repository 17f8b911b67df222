"""The nuScenes tables that lidar segmentation needs, read once and by column.

Of a table only the rows of the scenes that were asked for are kept, so that the whole data set
(sample_data and ego_pose have 2.6 million rows) needs a few hundred MB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cache.errors import DataError
from cache.progress import Progress
from pipeline.datasets.json_table import read_rows
from pipeline.problem import Problem, ProblemError
from pipeline.stages.ego_motion import Pose

LIDAR = "LIDAR_TOP"
_MIB = 1 << 20


class Scene(NamedTuple):
    """A drive of about 20 seconds."""

    token: str
    name: str


class Sample(NamedTuple):
    """A key frame: one lidar revolution and six pictures, taken at nearly the same time."""

    token: str
    timestamp_us: int


class SensorData(NamedTuple):
    """One file that a sensor wrote: a row of sample_data."""

    token: str
    ego_pose_token: str
    calibration_token: str
    timestamp_us: int
    filename: str
    """Below the root."""
    hw: tuple[int, int]
    """Height and width of a picture; (0, 0) of a lidar file."""
    prev: str
    """Token of the same sensor's last file in the scene; empty at its start."""


class Calibration(NamedTuple):
    """How a sensor sits on the vehicle."""

    ego_from_sensor: Pose
    intrinsics: tuple[float, ...]
    """Row by row of (3, 3); empty of a lidar."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the tables say of some scenes."""

    folder: Path
    samples: dict[str, list[Sample]]
    """By scene token, in the order of time."""
    data: dict[tuple[str, str], SensorData]
    """By sample token and channel: the key frames."""
    sweeps: dict[str, SensorData]
    """By token: all lidar files, key frames and those between them; empty when not asked for."""
    calibrations: dict[str, Calibration]
    ego_poses: dict[str, Pose]
    labels: dict[str, str] | None
    """Label file below the root by token of the lidar file; None without the table."""

    def calibration(self, data: SensorData) -> Calibration:
        """How the sensor sat that wrote a file.

        Raises:
            ProblemError: the tables do not fit together.
        """
        return self._linked(self.calibrations, data.calibration_token, "calibrated_sensor", data)

    def world_from_ego(self, data: SensorData) -> Pose:
        """Where the vehicle was when a file was written.

        Raises:
            ProblemError: the tables do not fit together.
        """
        return self._linked(self.ego_poses, data.ego_pose_token, "ego_pose", data)

    def _linked(self, rows: dict[str, Any], token: str, table: str, data: SensorData) -> Any:
        if token not in rows:
            raise ProblemError(
                Problem(
                    file=self.folder / f"{table}.json",
                    found=f"no row {token}",
                    expected=f"one, as row {data.token} of sample_data.json names it",
                    remedy="Are the tables of one version? Unpack them again.",
                )
            )
        return rows[token]


class TableReader:
    """Opens the tables of one version and reports what was read."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self._progress = progress

    def rows(
        self, name: str, columns: Sequence[str], *, optional: Sequence[str] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of one table; a progress phase of its own when it is large."""
        file = self.file(name)
        size = file.stat().st_size if file.is_file() else 0
        if size < 16 * _MIB:
            return read_rows(file, columns, optional=optional)
        self._progress.start(f"reading {file.name}", total=size // _MIB, unit="MiB")
        return read_rows(file, columns, optional=optional, advance=self._advance())

    def has(self, name: str) -> bool:
        """Whether there is such a table."""
        return self.file(name).is_file()

    def file(self, name: str) -> Path:
        """Where a table is."""
        return self.folder / f"{name}.json"

    def _advance(self) -> Callable[[int], None]:
        rest = 0

        def advance(nbytes: int) -> None:
            nonlocal rest
            whole, rest = divmod(rest + nbytes, _MIB)
            self._progress.advance(whole, nbytes=nbytes)

        return advance


def read_scenes(reader: TableReader) -> list[Scene]:
    """All scenes of the version, by name."""
    scenes = [Scene(*row) for row in reader.rows("scene", ("token", "name"))]
    return sorted(scenes, key=lambda scene: scene.name)


def read_label_ids(reader: TableReader) -> dict[str, int] | None:
    """Raw id of every label name, from category.json.

    Returns:
        None when there is no such table, or it is that of a set without lidarseg (no ``index``).

    Raises:
        DataError: some rows have an index and others have not, one is no number 0..255, or two
            names have the same.
    """
    if not reader.has("category"):
        return None
    rows = list(reader.rows("category", ("name",), optional=("index",)))
    if all(index is None for _, index in rows):
        return None
    file = reader.file("category")
    ids: dict[str, int] = {}
    for name, index in rows:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= 255:
            raise DataError(
                f"{file}: {name} has index {index!r}, expected a number 0..255. "
                "Unpack the tables of nuScenes-lidarseg again."
            )
        if index in ids.values():
            raise DataError(f"{file}: index {index} stands for two names. Unpack it again.")
        ids[name] = index
    return ids


def read_tables(
    reader: TableReader,
    scenes: Collection[Scene],
    *,
    channels: Sequence[str],
    sweeps: bool = False,
) -> Tables:
    """Read what belongs to some scenes.

    Args:
        reader: of one version.
        scenes: to keep.
        channels: sensors to keep, e.g. the lidar and six cameras.
        sweeps: keep the lidar files between key frames too.

    Raises:
        DataError: a table is missing or damaged.
    """
    samples = _samples(reader, {scene.token for scene in scenes})
    calibrations, channel_of = _calibrations(reader, set(channels))
    wanted = {sample.token for of_scene in samples.values() for sample in of_scene}
    data, lidar = _sensor_data(reader, wanted, channel_of, sweeps=sweeps)
    used = {row.ego_pose_token for row in (*data.values(), *lidar.values())}
    labels = None
    if reader.has("lidarseg"):
        kept = {row.token for row in data.values()}
        rows = reader.rows("lidarseg", ("sample_data_token", "filename"))
        labels = {token: filename for token, filename in rows if token in kept}
    return Tables(
        folder=reader.folder,
        samples=samples,
        data=data,
        sweeps=lidar,
        calibrations=calibrations,
        ego_poses=_ego_poses(reader, used),
        labels=labels,
    )


def _samples(reader: TableReader, scene_tokens: Collection[str]) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {token: [] for token in scene_tokens}
    for token, timestamp, scene in reader.rows("sample", ("token", "timestamp", "scene_token")):
        if scene in samples:
            where = f"{reader.file('sample')}: row {token}"
            samples[scene].append(Sample(token, _whole(timestamp, "timestamp", where)))
    for of_scene in samples.values():
        of_scene.sort(key=lambda sample: (sample.timestamp_us, sample.token))
    return samples


def _calibrations(
    reader: TableReader, channels: Collection[str]
) -> tuple[dict[str, Calibration], dict[str, str]]:
    """Calibrations by token, and the channel of each; those of other sensors are left out."""
    sensors = dict(reader.rows("sensor", ("token", "channel")))
    columns = ("token", "sensor_token", "rotation", "translation", "camera_intrinsic")
    calibrations: dict[str, Calibration] = {}
    channel_of: dict[str, str] = {}
    for token, sensor, rotation, translation, intrinsics in reader.rows(
        "calibrated_sensor", columns
    ):
        channel = sensors.get(sensor)
        if channel is None or channel not in channels:
            continue
        where = f"{reader.file('calibrated_sensor')}: row {token} ({channel})"
        channel_of[token] = channel
        calibrations[token] = Calibration(
            ego_from_sensor=_pose(rotation, translation, where),
            intrinsics=() if channel == LIDAR else _intrinsics(intrinsics, where),
        )
    return calibrations, channel_of


def _sensor_data(
    reader: TableReader, samples: Collection[str], channel_of: dict[str, str], *, sweeps: bool
) -> tuple[dict[tuple[str, str], SensorData], dict[str, SensorData]]:
    columns = (
        "token",
        "sample_token",
        "ego_pose_token",
        "calibrated_sensor_token",
        "timestamp",
        "is_key_frame",
        "filename",
    )
    data: dict[tuple[str, str], SensorData] = {}
    lidar: dict[str, SensorData] = {}
    for row in reader.rows("sample_data", columns, optional=("height", "width", "prev")):
        token, sample, ego, calibration, timestamp, is_key, filename, height, width, prev = row
        channel = channel_of.get(calibration)
        is_sweep = sweeps and channel == LIDAR
        if channel is None or sample not in samples or not (is_key or is_sweep):
            continue
        where = f"{reader.file('sample_data')}: row {token}"
        hw = (_whole(height or 0, "height", where), _whole(width or 0, "width", where))
        time_us = _whole(timestamp, "timestamp", where)
        if not isinstance(filename, str) or not filename:
            raise DataError(f"{where}: filename is {filename!r}. Unpack the table again.")
        kept = SensorData(token, ego, calibration, time_us, filename, hw, prev or "")
        if is_key:
            data[sample, channel] = kept
        if is_sweep:
            lidar[token] = kept
    return data, lidar


def _ego_poses(reader: TableReader, tokens: Collection[str]) -> dict[str, Pose]:
    return {
        token: _pose(rotation, translation, f"{reader.file('ego_pose')}: row {token}")
        for token, rotation, translation in reader.rows(
            "ego_pose", ("token", "rotation", "translation")
        )
        if token in tokens
    }


def _pose(rotation: Any, translation: Any, where: str) -> Pose:
    w, x, y, z = _numbers(rotation, 4, "rotation", where)
    if not any((w, x, y, z)):
        raise DataError(f"{where}: rotation {rotation} is no quaternion. Unpack the table again.")
    a, b, c = _numbers(translation, 3, "translation", where)
    return Pose(rotation_wxyz=(w, x, y, z), translation_m=(a, b, c))


def _intrinsics(rows: Any, where: str) -> tuple[float, ...]:
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        rows = [[]]
    return _numbers([v for row in rows for v in row], 9, "camera_intrinsic", where)


def _whole(value: Any, name: str, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(
            f"{where}: {name} is {value!r}, expected a whole number. Unpack the table again."
        )
    return value


def _numbers(values: Any, count: int, name: str, where: str) -> tuple[float, ...]:
    is_good = (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    )
    if not is_good:
        raise DataError(
            f"{where}: {name} is {values!r}, expected {count} finite numbers. "
            "Unpack the table again."
        )
    return tuple(float(v) for v in values)
