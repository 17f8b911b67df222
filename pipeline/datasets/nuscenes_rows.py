"""Rows of the nuScenes tables, and contradictions in them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pass2d.common.text import shown
from pass2d.pipeline.datasets.nuscenes_sense import (
    Fault,
    direction_fault,
    jump_fault,
    mount_fault,
    picture_fault,
    pose_fault,
    tilt_fault,
    zeroed_lidar_fault,
)
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.stages.ego_motion import Pose

LIDAR = "LIDAR_TOP"
NO_ROW = "no row"
"""Kind of a problem: a row that others name is not there."""


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
    """The mounting of a sensor on the vehicle."""

    ego_from_sensor: Pose
    intrinsics: tuple[float, ...]
    """Row by row of (3, 3); empty of a lidar."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The contents of the tables for some scenes."""

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
    panoptic: dict[str, str]
    """File with the instance ids of each lidar file; empty without such a table."""
    labels: dict[str, str] | None
    """Label file below the root by token of the lidar file; None without the table."""
    lost: dict[str, str] = field(default_factory=dict)
    """Token of the sample, by token of the lidar's key frame that names it: of samples that have
    no row, or whose scene has none."""
    sceneless: dict[str, str] = field(default_factory=dict)
    """Token of the missing row of scene, by token of the sample that names it."""

    def lost_problem(self, token: str) -> Problem:
        """The problem of such a key frame, whose scene is unknown."""
        sample = self.lost[token]
        if (scene := self.sceneless.get(sample)) is not None:
            return self._no_row("scene", scene, f"row {sample} of sample.json").problem
        return self._no_row("sample", sample, f"row {token} of sample_data.json").problem

    def calibration(self, data: SensorData) -> Calibration:
        """The mounting of the sensor that wrote a file.

        Raises:
            ProblemError: the tables are inconsistent, or the mounting is impossible.
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
        """The vehicle's pose when a file was written.

        Raises:
            ProblemError: the tables are inconsistent, or it is not a pose.
        """
        token = data.ego_pose_token
        if token not in self.ego_poses:
            raise self._no_row("ego_pose", token, f"row {data.token} of sample_data.json")
        found = self.ego_poses[token]
        fault = pose_fault(found) or tilt_fault(found, "a vehicle")
        self._require(fault, "ego_pose", token, data)
        return found

    def require_together(self, scan: SensorData, other: SensorData) -> None:
        """Refuse a scan and a picture or sweep whose rows, each plausible, contradict each other.

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

    def require_earlier(self, sweep: SensorData, earlier: SensorData) -> None:
        """Refuse a past sweep that is not earlier than the one that names it.

        Raises:
            ProblemError: naming the row.
        """
        if earlier.timestamp_us >= sweep.timestamp_us:
            found = f"timestamp {earlier.timestamp_us}, of {shown(sweep.token)} after it"
            fault = Fault(
                "timestamp", f"{found} {sweep.timestamp_us},", "an earlier one, as prev says"
            )
            self._require(fault, "sample_data", earlier.token, earlier)

    def direction_doubt(self, data: SensorData) -> Problem | None:
        """A warning if a plausibly calibrated camera points the wrong way for its channel."""
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
            remedy="Correct the row, or unpack the table again.",
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
