"""From calibrations of a described data set to one matrix per camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.common.json import parse
from pass2d.common.path_pattern import fill
from pass2d.common.text import shown, unknown
from pass2d.pipeline.datasets.described.description import CalibPart, CameraPart, PointsPart
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.camera_sense import camera_fault, intrinsics_fault
from pass2d.pipeline.stages.raw_file import read_calibration

_ROTATION_ERROR = 0.02
"""Largest number of R R^T - I; real files are within 1e-5."""
_REMEDY = "Correct the calibration, or calib of the [[camera]] in the description."


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The contents of a calibration."""

    image_from_lidar: NDArray[np.float64]
    """(3, 4) pixels from metres of the lidar frame, after the description's rotation."""
    camera_from_file: NDArray[np.float64]
    """(4, 4) from the frame of the point files."""
    file: Path | None
    """The one file that says it; None where the description does."""


@dataclass(kw_only=True)
class Calibrations:
    """Reads each calibration once."""

    root: Path
    points: PointsPart
    _known: dict[tuple[int, str, str], Calibration | ProblemError] = field(default_factory=dict)

    def of(
        self, place: int, camera: CameraPart, words: Mapping[str, str]
    ) -> Calibration | ProblemError:
        """The calibration of a camera for a scan.

        Args:
            place: of the camera in the description.
            camera: as described.
            words: of the scan's path.

        Returns:
            It, or why it cannot be one.
        """
        calib = camera.calib
        key = place, fill(calib.file, words), fill(calib.lidar_file, words)
        if key not in self._known:
            try:
                self._known[key] = self._read(calib, words)
            except ProblemError as error:
                self._known[key] = error
            except OSError as error:
                reason = (error.strerror or type(error).__name__).lower()
                problem = _fault(self.root / key[1], reason, "a readable file")
                self._known[key] = problem
        return self._known[key]

    def _read(self, calib: CalibPart, words: Mapping[str, str]) -> Calibration:
        file = self.root / fill(calib.file, words) if calib.file else None
        where = file or Path("[[camera]]")
        if calib.kind == "inline":
            image_from_camera = _projection(np.array(calib.K, np.float64), where)
            camera_from_file = _rigid(np.array(calib.T, np.float64), calib, where, "T")
        else:
            assert file is not None, calib
            text = read_calibration(file)
            if calib.kind == "json":
                image_from_camera, camera_from_file = _from_json(text, calib, file)
            elif calib.kind == "kitti":
                image_from_camera = _named(text, calib.matrix or "P2", 12, file).reshape(3, 4)
                extrinsic = _named(text, calib.extrinsic or "Tr", 12, file).reshape(3, 4)
                camera_from_file = _rigid(extrinsic, calib, file, calib.extrinsic or "Tr")
            else:
                lidar_file = self.root / fill(calib.lidar_file, words)
                lidar_text = read_calibration(lidar_file)
                image_from_camera = _named(text, calib.matrix or "P_rect_02", 12, file)
                image_from_camera = image_from_camera.reshape(3, 4)
                rotation = _named(lidar_text, "R", 9, lidar_file).reshape(3, 3)
                shift = _named(lidar_text, "T", 3, lidar_file).reshape(3, 1)
                rectified = np.eye(4)
                rectified[:3, :3] = _named(text, "R_rect_00", 9, file).reshape(3, 3)
                velo = _rigid(np.hstack([rotation, shift]), calib, lidar_file, "R")
                camera_from_file = rectified @ velo
        image_from_lidar = (
            image_from_camera @ camera_from_file @ np.linalg.inv(lidar_from_file(self.points))
        )
        self._require_sensible(image_from_lidar, image_from_camera, where)
        return Calibration(
            image_from_lidar=image_from_lidar, camera_from_file=camera_from_file, file=file
        )

    def _require_sensible(
        self,
        image_from_lidar: NDArray[np.float64],
        image_from_camera: NDArray[np.float64],
        where: Path,
    ) -> None:
        """Refuse an impossible camera; it may point in any direction."""
        if found := intrinsics_fault(image_from_camera[:, :3]):
            raise _fault(where, f"intrinsics of {found}", "focal lengths and the middle in pixels")
        rotation = np.linalg.solve(image_from_camera[:, :3], image_from_lidar[:, :3])[2]
        level = np.array([rotation[0], rotation[1], 0.0])
        ahead = level / max(float(np.linalg.norm(level)), 1e-9)
        if found := camera_fault(image_from_lidar, ahead=(ahead[0], ahead[1], 0.0)):
            raise _fault(
                where,
                found,
                "a camera near the lidar, upright; T_is says what turns into what",
            )


def lidar_from_file(points: PointsPart) -> NDArray[np.float64]:
    """(4, 4) what the description's rotation and height do to points in metres."""
    matrix = np.eye(4)
    rotation = points.rotation()
    if rotation is not None:
        matrix[:3, :3] = rotation
    matrix[2, 3] = points.z_offset
    return matrix


def _projection(intrinsics: NDArray[np.float64], where: Path) -> NDArray[np.float64]:
    if intrinsics.shape != (3, 3) or not np.isfinite(intrinsics).all():
        raise _fault(where, f"intrinsics of shape {intrinsics.shape}", "3x3 finite numbers")
    return np.hstack([intrinsics, np.zeros((3, 1))])


def _rigid(
    matrix: NDArray[np.float64], calib: CalibPart, where: Path, name: str
) -> NDArray[np.float64]:
    """(4, 4) camera from the files' frame, of a (3, 4) or (4, 4) matrix in either direction."""
    if matrix.shape not in {(3, 4), (4, 4)} or not np.isfinite(matrix).all():
        raise _fault(where, f"{name} of shape {matrix.shape}", "3x4 or 4x4 finite numbers")
    rotation = matrix[:3, :3]
    determinant = float(np.linalg.det(rotation))
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if off > _ROTATION_ERROR or determinant < 0:
        raise _fault(
            where,
            f"a {name} that is not a rotation (first three columns: determinant {determinant:.4g})",
            "a rotation and a translation in metres",
        )
    whole = np.eye(4)
    whole[:3] = matrix[:3]
    if calib.T_is == "lidar_from_camera":
        whole = np.asarray(np.linalg.inv(whole), np.float64)
    return whole


def _named(text: str, name: str, n: int, file: Path) -> NDArray[np.float64]:
    """The numbers of a line "name: numbers"."""
    rows = {
        key.strip(): rest for key, _, rest in (line.partition(":") for line in text.splitlines())
    }
    if name not in rows:
        named = [key for key in rows if key.isidentifier()]
        raise _fault(file, unknown(name, named, what="line"), f"a line '{name}:' of {n} numbers")
    words = rows[name].split()
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise _fault(file, f"{name}: {error}", f"{n} numbers") from error
    if len(numbers) != n or not np.isfinite(numbers).all():
        raise _fault(file, f"{len(numbers)} numbers for {name}", f"{n} finite numbers")
    return numbers


def _from_json(
    text: str, calib: CalibPart, file: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        value = parse(text)
    except ValueError as error:
        raise _fault(file, f"invalid JSON ({error})", "a JSON file") from error
    intrinsics = _json_matrix(value, calib.matrix, file, ((3, 3),))
    extrinsic = _json_matrix(value, calib.extrinsic, file, ((3, 4), (4, 4)))
    return _projection(intrinsics, file), _rigid(extrinsic, calib, file, calib.extrinsic)


def _json_matrix(
    value: Any, key: str, file: Path, shapes: tuple[tuple[int, int], ...]
) -> NDArray[np.float64]:
    """The numbers at a key of words with dots between, nested or in one list."""
    for word in key.split("."):
        if isinstance(value, Mapping) and word in value:
            value = value[word]
        elif isinstance(value, list) and word.isdecimal() and int(word) < len(value):
            value = value[int(word)]
        else:
            known = list(value) if isinstance(value, Mapping) else []
            raise _fault(file, f"{unknown(word, known, what='key')} (of {key})", f"a matrix {key}")
    try:
        numbers = np.array(value, np.float64)
    except (ValueError, TypeError) as error:
        raise _fault(file, f"{key} = {shown(value)}", "a matrix of numbers") from error
    for shape in shapes:
        if numbers.size == shape[0] * shape[1]:
            return numbers.reshape(shape)
    words = " or ".join(f"{rows}x{columns}" for rows, columns in shapes)
    raise _fault(file, f"{key} of {numbers.size} numbers", f"{words} numbers")


def _fault(file: Path, found: str, expected: str) -> ProblemError:
    return ProblemError.of(file=file, found=found, expected=expected, remedy=_REMEDY)
