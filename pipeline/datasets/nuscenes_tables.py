"""The nuScenes tables that lidar segmentation needs, read once and by column.

Only the rows of the requested scenes are kept, so that the whole data set
(sample_data and ego_pose have 2.6 million rows) needs a few hundred MB.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pass2d.common.errors import DataError
from pass2d.common.text import quoted, shown
from pass2d.pipeline.datasets.json_table import ANY, TEXT, TOKEN, YES_NO, is_text
from pass2d.pipeline.datasets.nuscenes_rows import (
    LIDAR,
    Calibration,
    Sample,
    Scene,
    SensorData,
    Tables,
)
from pass2d.pipeline.datasets.nuscenes_values import (
    Once,
    TableReader,
    below_root,
    intrinsics_of,
    pose_of,
    whole_number,
    wrong_value,
)
from pass2d.pipeline.stages.ego_motion import Pose

_LARGEST_SIDE = 1 << 16
"""Pixels; larger pictures have no 16 bit pixels."""
_CLOSEST_S, _FARTHEST_S = 0.01, 60.0
"""Between key frames."""
_LATEST = 1 << 62
"""Of time stamps; those of nuScenes are microseconds since 1970."""


def read_scenes(reader: TableReader) -> list[Scene]:
    """All scenes of the version, by name.

    Raises:
        DataError: the table is damaged, or two scenes have one token or name.
    """
    file = reader.file("scene")
    tokens, names = Once(file, "token"), Once(file, "name")
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
    names = Once(file, "name")
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
    known: Collection[Scene],
    channels: Sequence[str],
    sweeps: bool = False,
) -> Tables:
    """Read what belongs to some scenes.

    Args:
        reader: of one version.
        scenes: to keep.
        known: all of the version.
        channels: sensors to keep, e.g. the lidar and six cameras.
        sweeps: keep the lidar files between key frames too.

    Raises:
        DataError: a table is missing or damaged.
    """
    known_tokens = {scene.token for scene in known}
    samples, every, sceneless = _samples(reader, {scene.token for scene in scenes}, known_tokens)
    found = _calibrations(reader, set(channels))
    wanted = {sample.token for of_scene in samples.values() for sample in of_scene}
    data, lidar, lost = _sensor_data(reader, wanted, found, every=every, sweeps=sweeps)
    used = {row.ego_pose_token for row in (*data.values(), *lidar.values())}
    kept = {row.token for row in data.values()}
    labels, panoptic = (
        _label_files(reader, kept, table) if reader.has(table) else None
        for table in ("lidarseg", "panoptic")
    )
    return Tables(
        folder=reader.folder,
        samples=samples,
        data=data,
        sweeps=lidar,
        calibrations=found.rows,
        sensorless=found.sensorless,
        ego_poses=_ego_poses(reader, used),
        lost=lost,
        sceneless=sceneless,
        labels=labels,
        panoptic=panoptic or {},
    )


def _label_files(reader: TableReader, kept: Collection[str], table: str) -> dict[str, str]:
    file = reader.file(table)
    once = Once(file, "sample_data_token")
    labels: dict[str, str] = {}
    for token, filename in reader.rows(table, {"sample_data_token": TOKEN, "filename": ANY}):
        if token in kept:
            with reader.checked(table):
                once.add(token)
                labels[token] = below_root(filename, f"{file}: row of {token}")
    return labels


def _samples(
    reader: TableReader, scene_tokens: Collection[str], known: Collection[str]
) -> tuple[dict[str, list[Sample]], set[str], dict[str, str]]:
    """Key frames by scene, in the order of time; the tokens of those of all known scenes; others.

    Others name a scene that has no row: its token by theirs.
    """
    every: set[str] = set()
    sceneless: dict[str, str] = {}
    file = reader.file("sample")
    once = Once(file, "token")
    samples: dict[str, list[Sample]] = {token: [] for token in scene_tokens}
    columns = {"token": TOKEN, "timestamp": ANY, "scene_token": TOKEN}
    for token, timestamp, scene in reader.rows("sample", columns):
        if scene in known:
            every.add(token)
        else:
            sceneless[token] = scene
        if scene in samples:
            with reader.checked("sample"):
                once.add(token)
                time_us = whole_number(timestamp, "timestamp", f"{file}: row {token}", most=_LATEST)
                samples[scene].append(Sample(token, time_us))
    for of_scene in samples.values():
        of_scene.sort(key=lambda sample: (sample.timestamp_us, sample.token))
    with reader.checked("sample"):
        _require_microseconds(samples.values(), file)
    return samples, every, sceneless


def _require_microseconds(scenes: Iterable[list[Sample]], file: Path) -> None:
    """Refuse time stamps of another unit, by the time between key frames: 0.5 s in nuScenes.

    Raises:
        DataError: key frames of a scene are too close or too far apart.
    """
    for samples in scenes:
        if len(samples) < 2:
            continue
        apart_s = statistics.median(b.timestamp_us - a.timestamp_us for a, b in pairwise(samples))
        apart_s *= 1e-6
        if not _CLOSEST_S <= apart_s <= _FARTHEST_S:
            raise DataError(
                f"{file}: timestamps of a scene's key frames {apart_s:.4g} s apart, expected about "
                "0.5 s, in microseconds. Are they in another unit?"
            )


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
    once = Once(reader.file("sensor"), "token")
    sensors: dict[str, str] = {}
    for token, channel in reader.rows("sensor", {"token": TOKEN, "channel": TEXT}):
        with reader.checked("sensor"):
            once.add(token)
            sensors[token] = channel
    file = reader.file("calibrated_sensor")
    once = Once(file, "token")
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
                ego_from_sensor=pose_of(rotation, translation, where),
                intrinsics=() if channel == LIDAR else intrinsics_of(intrinsics, where),
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
    tokens, frames = Once(file, "token"), Once(file, "key frame")
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
                whole_number(0 if height is None else height, "height", where, most=_LARGEST_SIDE),
                whole_number(0 if width is None else width, "width", where, most=_LARGEST_SIDE),
            )
            if prev not in (None, "") and not is_text(prev):
                raise wrong_value(where, "prev", prev, "a token or nothing")
            filename = below_root(filename, where)
            folder = filename.split("/")[-2:-1]
            if folder and folder[0] != channel and folder[0] in calibrations.channels:
                raise DataError(
                    f"{where}: filename {shown(filename)} with a calibration of {channel}, "
                    "expected both of one sensor. Correct the row, or unpack the table again."
                )
            kept = SensorData(
                token=token,
                channel=channel,
                ego_pose_token=ego,
                calibration_token=calibration,
                timestamp_us=whole_number(timestamp, "timestamp", where, most=_LATEST),
                filename=filename,
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
    once = Once(file, "token")
    poses: dict[str, Pose] = {}
    columns = {"token": TOKEN, "rotation": ANY, "translation": ANY}
    for token, rotation, translation in reader.rows("ego_pose", columns):
        if token in tokens:
            with reader.checked("ego_pose"):
                once.add(token)
                poses[token] = pose_of(rotation, translation, f"{file}: row {token}")
    return poses
