"""The nuScenes tables that lidar segmentation needs, read once and by column.

Of a table only the rows of the scenes that were asked for are kept, so that the whole data set
(sample_data and ego_pose have 2.6 million rows) needs a few hundred MB.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pass2d.common.errors import DataError
from pass2d.common.progress import Progress
from pass2d.common.text import quoted, shown
from pass2d.pipeline.datasets.json_table import ANY, TEXT, TOKEN, YES_NO, Kind, is_text, read_rows
from pass2d.pipeline.datasets.nuscenes_sense import (
    Fault,
    direction_fault,
    jump_fault,
    mount_fault,
    picture_fault,
    pose_fault,
    zeroed_lidar_fault,
)
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.stages.ego_motion import Pose

LIDAR = "LIDAR_TOP"
NO_ROW = "no row"
"""Kind of a problem: a row that others name is not there."""
_MIB = 1 << 20
_LARGEST_SIDE = 1 << 16
"""Pixels; larger pictures have no 16 bit pixels."""
_LATEST = 1 << 62
"""Of time stamps; those of nuScenes are microseconds since 1970."""
_FARTHEST = 1e9
"""Of coordinates, focal lengths and parts of a quaternion: beyond it float64 products overflow."""


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
    channel: str
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
    sensorless: dict[str, str]
    """Token of the missing row of sensor, by token of the calibration that names it."""
    ego_poses: dict[str, Pose]
    labels: dict[str, str] | None
    """Label file below the root by token of the lidar file; None without the table."""
    lost: dict[str, str] = field(default_factory=dict)
    """Token of the missing row of sample, by token of the lidar's key frame that names it."""

    def lost_problem(self, token: str) -> Problem:
        """The problem of such a key frame, whose scene is unknown."""
        named_by = f"row {token} of sample_data.json"
        return self._no_row("sample", self.lost[token], named_by).problem

    def calibration(self, data: SensorData) -> Calibration:
        """How the sensor sat that wrote a file.

        Raises:
            ProblemError: the tables do not fit together, or no sensor can sit so.
        """
        token = data.calibration_token
        if (sensor := self.sensorless.get(token)) is not None:
            raise self._no_row("sensor", sensor, f"row {token} of calibrated_sensor.json")
        if token not in self.calibrations:
            raise self._no_row("calibrated_sensor", token, f"row {data.token} of sample_data.json")
        found = self.calibrations[token]
        fault = mount_fault(found.ego_from_sensor, found.intrinsics)
        if fault is None and found.intrinsics:
            fault = picture_fault(found.intrinsics, data.hw)
        self._require(fault, "calibrated_sensor", token, data)
        return found

    def world_from_ego(self, data: SensorData) -> Pose:
        """Where the vehicle was when a file was written.

        Raises:
            ProblemError: the tables do not fit together, or it is no pose.
        """
        token = data.ego_pose_token
        if token not in self.ego_poses:
            raise self._no_row("ego_pose", token, f"row {data.token} of sample_data.json")
        found = self.ego_poses[token]
        self._require(pose_fault(found), "ego_pose", token, data)
        return found

    def require_together(self, scan: SensorData, other: SensorData) -> None:
        """Refuse a scan and a picture or sweep whose rows, sensible each, contradict each other.

        Raises:
            ProblemError: naming the row.
        """
        here, there = self.calibration(scan), self.calibration(other)
        if there.intrinsics:
            fault = zeroed_lidar_fault(here.ego_from_sensor, there.ego_from_sensor)
            self._require(fault, "calibrated_sensor", scan.calibration_token, scan)
        time_s = (scan.timestamp_us - other.timestamp_us) * 1e-6
        fault = jump_fault(self.world_from_ego(scan), self.world_from_ego(other), time_s=time_s)
        self._require(fault, "ego_pose", other.ego_pose_token, other)

    def direction_doubt(self, data: SensorData) -> Problem | None:
        """A warning where a camera of sensible calibration looks the wrong way for its channel."""
        token = data.calibration_token
        fault = direction_fault(data.channel, self.calibration(data).ego_from_sensor)
        if fault is None:
            return None
        return replace(
            self._problem(fault, "calibrated_sensor", token, data),
            remedy="Are two cameras' rows swapped, or is the rotation of another sensor?",
            severity="warning",
            kind=f"direction {data.channel}",
        )

    def _require(self, fault: Fault | None, table: str, token: str, data: SensorData) -> None:
        if fault is not None:
            raise ProblemError(self._problem(fault, table, token, data))

    def _problem(self, fault: Fault, table: str, token: str, data: SensorData) -> Problem:
        return Problem(
            file=self.folder / f"{table}.json",
            found=f"{fault.found} as {fault.field} of row {shown(token)} ({data.channel})",
            expected=fault.expected,
            remedy="Mend the row, or unpack the table again.",
        )

    def _no_row(self, table: str, token: str, named_by: str) -> ProblemError:
        return ProblemError(
            Problem(
                file=self.folder / f"{table}.json",
                found=f"no row {shown(token)}",
                expected=f"one, as {named_by} names it",
                remedy="Are the tables of one version? Unpack them again.",
                kind=NO_ROW,
            )
        )


class TableReader:
    """Opens the tables of one version and reports what was read."""

    def __init__(
        self, folder: Path, progress: Progress, *, faults: list[Problem] | None = None
    ) -> None:
        """Read from ``folder``; with ``faults`` rows that cannot be read are added there."""
        self.folder = folder
        self._progress = progress
        self._faults = faults

    @contextlib.contextmanager
    def checked(self, name: str) -> Iterator[None]:
        """Around the use of one row of a table: what is wrong with it ends it, or all."""
        try:
            yield
        except DataError as error:
            self._refuse(error, self.file(name))

    def _refuse(self, error: DataError, file: Path) -> None:
        if self._faults is None:
            raise error
        text = str(error).removeprefix(f"{file}: ")
        found, is_told, rest = text.rpartition(", expected ")
        if not is_told:
            found, _, remedy = text.partition(". ")
            rest = f"a table as nuScenes has it. {remedy or 'Unpack it again.'}"
        expected, _, remedy = rest.partition(". ")
        self._faults.append(Problem(file=file, found=found, expected=expected, remedy=remedy))

    def rows(
        self,
        name: str,
        columns: Mapping[str, Kind],
        *,
        optional: Mapping[str, Kind] | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of one table; a progress phase of its own when it is large."""
        file = self.file(name)
        size = file.stat().st_size if file.is_file() else 0
        advance = None
        if size >= 16 * _MIB:
            self._progress.start(f"reading {file.name}", total=size // _MIB, unit="MiB")
            advance = self._advance()
        try:
            yield from read_rows(
                file,
                columns,
                optional=optional,
                advance=advance or (lambda _nbytes: None),
                on_fault=lambda fault: self._refuse(fault, file),
            )
        except DataError as error:
            self._refuse(error, file)

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
    """All scenes of the version, by name.

    Raises:
        DataError: the table is damaged, or two scenes have one token or name.
    """
    file = reader.file("scene")
    tokens, names = _Once(file, "token"), _Once(file, "name")
    scenes = []
    for token, name in reader.rows("scene", {"token": TOKEN, "name": TEXT}):
        with reader.checked("scene"):
            tokens.add(token)
            names.add(name)
            scenes.append(Scene(token, name))
    return sorted(scenes, key=lambda scene: scene.name)


def read_label_ids(reader: TableReader) -> dict[str, int] | None:
    """Raw id of every label name, from category.json.

    Returns:
        None when there is no such table, or it is that of a set without lidarseg (no ``index``).

    Raises:
        DataError: some rows have an index and others have not, one is no number 0..255, or two
            rows have the same index or name.
    """
    if not reader.has("category"):
        return None
    rows = list(reader.rows("category", {"name": TEXT}, optional={"index": ANY}))
    if all(index is None for _, index in rows):
        return None
    file = reader.file("category")
    names = _Once(file, "name")
    ids: dict[str, int] = {}
    for name, index in rows:
        with reader.checked("category"):
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= 255:
                raise DataError(
                    f"{file}: {shown(name)} has index {quoted(index)}, expected a number 0..255. "
                    "Unpack the tables of nuScenes-lidarseg again."
                )
            if index in ids.values():
                raise DataError(
                    f"{file}: index {index} stands for two names, the second {shown(name)}, "
                    "expected one name each. Unpack it again."
                )
            names.add(name)
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
    samples, every = _samples(reader, {scene.token for scene in scenes})
    found = _calibrations(reader, set(channels))
    wanted = {sample.token for of_scene in samples.values() for sample in of_scene}
    data, lidar, lost = _sensor_data(reader, wanted, found, every=every, sweeps=sweeps)
    used = {row.ego_pose_token for row in (*data.values(), *lidar.values())}
    labels = None
    if reader.has("lidarseg"):
        labels = _label_files(reader, {row.token for row in data.values()})
    return Tables(
        folder=reader.folder,
        samples=samples,
        data=data,
        sweeps=lidar,
        calibrations=found.rows,
        sensorless=found.sensorless,
        ego_poses=_ego_poses(reader, used),
        lost=lost,
        labels=labels,
    )


class _Once:
    """Refuses a value of a key that comes twice: which row holds would be chance."""

    def __init__(self, file: Path, column: str) -> None:
        self._file, self._column = file, column
        self._seen: set[Any] = set()

    def add(self, value: Any, what: str = "") -> None:
        """Remember one.

        Raises:
            DataError: it is there already.
        """
        if value in self._seen:
            named = what or f"{self._column} {shown(value)}"
            raise DataError(
                f"{self._file}: {named} is there twice, expected one row for each. Are two "
                "versions mixed? Unpack the table again."
            )
        self._seen.add(value)


def _label_files(reader: TableReader, kept: Collection[str]) -> dict[str, str]:
    file = reader.file("lidarseg")
    once = _Once(file, "sample_data_token")
    labels: dict[str, str] = {}
    for token, filename in reader.rows("lidarseg", {"sample_data_token": TOKEN, "filename": ANY}):
        if token in kept:
            with reader.checked("lidarseg"):
                once.add(token)
                labels[token] = _below_root(filename, f"{file}: row of {token}")
    return labels


def _samples(
    reader: TableReader, scene_tokens: Collection[str]
) -> tuple[dict[str, list[Sample]], set[str]]:
    """Key frames by scene, in the order of time, and the tokens of those of all scenes."""
    every: set[str] = set()
    file = reader.file("sample")
    once = _Once(file, "token")
    samples: dict[str, list[Sample]] = {token: [] for token in scene_tokens}
    columns = {"token": TOKEN, "timestamp": ANY, "scene_token": TOKEN}
    for token, timestamp, scene in reader.rows("sample", columns):
        every.add(token)
        if scene in samples:
            with reader.checked("sample"):
                once.add(token)
                time_us = _whole(timestamp, "timestamp", f"{file}: row {token}", most=_LATEST)
                samples[scene].append(Sample(token, time_us))
    for of_scene in samples.values():
        of_scene.sort(key=lambda sample: (sample.timestamp_us, sample.token))
    return samples, every


@dataclass(frozen=True, kw_only=True)
class _Calibrations:
    """The rows of the sensors that are kept, by token."""

    channels: Collection[str]
    rows: dict[str, Calibration]
    channel_of: dict[str, str]
    sensorless: dict[str, str]
    others: set[str]
    """Those of other sensors."""

    def channel(self, token: str, filename: Any) -> str | None:
        """Of a file: as its calibration says, or its folder where that row is missing."""
        if token in self.channel_of:
            return self.channel_of[token]
        if token in self.others or not is_text(filename):
            return None
        folder = filename.split("/")[-2:-1]
        return folder[0] if folder and folder[0] in self.channels else None


def _calibrations(reader: TableReader, channels: Collection[str]) -> _Calibrations:
    once = _Once(reader.file("sensor"), "token")
    sensors: dict[str, str] = {}
    for token, channel in reader.rows("sensor", {"token": TOKEN, "channel": TEXT}):
        with reader.checked("sensor"):
            once.add(token)
            sensors[token] = channel
    file = reader.file("calibrated_sensor")
    once = _Once(file, "token")
    columns = {
        "token": TOKEN,
        "sensor_token": TOKEN,
        "rotation": ANY,
        "translation": ANY,
        "camera_intrinsic": ANY,
    }
    found = _Calibrations(channels=channels, rows={}, channel_of={}, sensorless={}, others=set())
    for token, sensor, rotation, translation, intrinsics in reader.rows(
        "calibrated_sensor", columns
    ):
        channel = sensors.get(sensor)
        if channel is None:
            found.sensorless[token] = sensor
            continue
        if channel not in channels:
            found.others.add(token)
            continue
        with reader.checked("calibrated_sensor"):
            once.add(token)
            where = f"{file}: row {token} ({channel})"
            found.channel_of[token] = channel
            found.rows[token] = Calibration(
                ego_from_sensor=_pose(rotation, translation, where),
                intrinsics=() if channel == LIDAR else _intrinsics(intrinsics, where),
            )
    return found


def _sensor_data(
    reader: TableReader,
    samples: Collection[str],
    calibrations: _Calibrations,
    *,
    every: Collection[str],
    sweeps: bool,
) -> tuple[dict[tuple[str, str], SensorData], dict[str, SensorData], dict[str, str]]:
    """Key frames and sweeps, and by its token the sample of a lidar key frame that has no row."""
    lost: dict[str, str] = {}
    columns = {
        "token": TOKEN,
        "sample_token": TOKEN,
        "ego_pose_token": TOKEN,
        "calibrated_sensor_token": TOKEN,
        "timestamp": ANY,
        "is_key_frame": YES_NO,
        "filename": ANY,
    }
    optional = {"height": ANY, "width": ANY, "prev": ANY}
    file = reader.file("sample_data")
    tokens, frames = _Once(file, "token"), _Once(file, "key frame")
    data: dict[tuple[str, str], SensorData] = {}
    lidar: dict[str, SensorData] = {}
    for row in reader.rows("sample_data", columns, optional=optional):
        token, sample, ego, calibration, timestamp, is_key, filename, height, width, prev = row
        if sample not in samples:
            if (
                is_key
                and sample not in every
                and calibrations.channel(calibration, filename) == LIDAR
            ):
                lost[token] = sample
            continue
        channel = calibrations.channel(calibration, filename)
        is_sweep = sweeps and channel == LIDAR
        if channel is None or not (is_key or is_sweep):
            continue
        with reader.checked("sample_data"):
            where = f"{file}: row {token}"
            tokens.add(token)
            hw = (
                _whole(0 if height is None else height, "height", where, most=_LARGEST_SIDE),
                _whole(0 if width is None else width, "width", where, most=_LARGEST_SIDE),
            )
            if prev not in (None, "") and not is_text(prev):
                raise _wrong(where, "prev", prev, "a token or nothing")
            kept = SensorData(
                token=token,
                channel=channel,
                ego_pose_token=ego,
                calibration_token=calibration,
                timestamp_us=_whole(timestamp, "timestamp", where, most=_LATEST),
                filename=_below_root(filename, where),
                hw=hw,
                prev=prev or "",
            )
            if is_key:
                frames.add((sample, channel), f"a key frame of {channel} for sample {sample}")
                data[sample, channel] = kept
            if is_sweep:
                lidar[token] = kept
    return data, lidar, lost


def _ego_poses(reader: TableReader, tokens: Collection[str]) -> dict[str, Pose]:
    file = reader.file("ego_pose")
    once = _Once(file, "token")
    poses: dict[str, Pose] = {}
    columns = {"token": TOKEN, "rotation": ANY, "translation": ANY}
    for token, rotation, translation in reader.rows("ego_pose", columns):
        if token in tokens:
            with reader.checked("ego_pose"):
                once.add(token)
                poses[token] = _pose(rotation, translation, f"{file}: row {token}")
    return poses


def _pose(rotation: Any, translation: Any, where: str) -> Pose:
    w, x, y, z = _numbers(rotation, 4, "rotation", where)
    if math.hypot(w, x, y, z) < 1e-6:
        raise DataError(
            f"{where}: rotation {shown(rotation)} is not a quaternion. Unpack the table again."
        )
    a, b, c = _numbers(translation, 3, "translation", where)
    return Pose(rotation_wxyz=(w, x, y, z), translation_m=(a, b, c))


def _intrinsics(rows: Any, where: str) -> tuple[float, ...]:
    is_square = (
        isinstance(rows, list)
        and len(rows) == 3
        and all(isinstance(row, list) and len(row) == 3 for row in rows)
    )
    if not is_square:
        raise _wrong(where, "camera_intrinsic", rows, "3 rows of 3 numbers")
    return _numbers([v for row in rows for v in row], 9, "camera_intrinsic", where)


def _below_root(filename: Any, where: str) -> str:
    """A file's name as the tables have it: relative, without a step upwards."""
    if not is_text(filename):
        raise _wrong(where, "filename", filename, "the name of a file")
    if filename.startswith("/") or ".." in filename.split("/"):
        raise _wrong(where, "filename", filename, "a file below the data set's root")
    return str(filename)


def _whole(value: Any, name: str, where: str, *, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _wrong(where, name, value, f"a whole number 0..{most}")
    return value


def _numbers(values: Any, count: int, name: str, where: str) -> tuple[float, ...]:
    is_good = (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        and all(-_FARTHEST <= v <= _FARTHEST for v in values)  # NaN and infinity are not
    )
    if not is_good:
        raise _wrong(where, name, values, f"{count} finite numbers")
    return tuple(float(v) for v in values)


def _wrong(where: str, name: str, value: Any, expected: str) -> DataError:
    return DataError(
        f"{where}: {name} is {quoted(value)}, expected {expected}. Unpack the table again."
    )
