"""The inputs of a shard's key besides its settings: typed records, with a writer and a parser.

On disk the inputs are lists in the order of the fields here (`docs/format.md`, section Keys). Their
bytes are hashed: a change of the order or of a number's type would invalidate every cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pass2d.cache.rows import ScanSources, ShardHeader, SourceFile
from pass2d.common.errors import CacheError

Matrix = tuple[float, ...]
"""12 numbers of a (3, 4) matrix, row by row."""


@dataclass(frozen=True, kw_only=True)
class HashedFile:
    """A source file, wherever it lies."""

    role: str
    """As of `SourceFile`, but never "calib": of it the numbers count."""
    nbytes: int
    xxh3: str
    """"" with 0 bytes: it could not be read."""


@dataclass(frozen=True, kw_only=True)
class LidarScanInputs:
    """What one scan of a `lidar` shard is made from."""

    scan_id: str
    split: str
    frame_index: int
    token: str
    files: tuple[HashedFile, ...]
    sweeps: tuple[tuple[Matrix, float], ...] = ()
    """Per added sweep lidar_from_sweep, and its seconds before the scan."""


@dataclass(frozen=True, kw_only=True)
class CameraScanInputs:
    """What one scan of a `camera` shard is made from, besides its points."""

    scan_id: str
    files: tuple[HashedFile, ...]
    image_from_lidar: tuple[Matrix, ...] | None
    """Per camera; None without calibration."""
    taken_hw: tuple[tuple[int, int], ...] = ()
    """Per camera the picture height and width that the calibration refers to; empty for the
    pictures' own size."""


@dataclass(frozen=True, kw_only=True)
class MotionScanInputs:
    """What one scan of a `motion` shard is made from, besides its points and label file."""

    scan_id: str
    pose: Matrix | None
    """world_from_lidar."""
    time_s: float | None
    files: tuple[HashedFile, ...] = ()
    """No files of its own: the key of the `lidar` shard contains the hash of the label file."""


@dataclass(frozen=True, kw_only=True)
class KeyInputs:
    """The inputs of one shard's key; `lidar` has a sequence, the others a `lidar` key."""

    sequence: str = ""
    lidar_key: str = ""
    lidar_scans: tuple[LidarScanInputs, ...] = ()
    camera_scans: tuple[CameraScanInputs, ...] = ()
    motion_scans: tuple[MotionScanInputs, ...] = ()

    @property
    def scans(self) -> tuple[LidarScanInputs | CameraScanInputs | MotionScanInputs, ...]:
        """The scans of its container; a `voxel` or `thinned` shard has none."""
        return self.lidar_scans or self.camera_scans or self.motion_scans


def hashed_files(scan: ScanSources) -> tuple[HashedFile, ...]:
    """The files of a scan that count for a key."""
    return tuple(
        HashedFile(role=f.role, nbytes=f.nbytes, xxh3=f.xxh3)
        for f in scan.files
        if f.role != "calib"
    )


def encode_inputs(container: str, inputs: KeyInputs) -> dict[str, Any]:
    """The JSON-like form that is hashed and stored."""
    if container == "lidar":
        scans = [
            [s.scan_id, s.split, s.frame_index, s.token, _file_lists(s.files), s.sweeps]
            for s in inputs.lidar_scans
        ]
        return {"sequence": inputs.sequence, "scans": scans}
    if container in ("voxel", "thinned"):
        return {"lidar": inputs.lidar_key}
    if container == "motion":
        moved = [[s.scan_id, s.pose, s.time_s] for s in inputs.motion_scans]
        return {"lidar": inputs.lidar_key, "scans": moved}
    return {
        "lidar": inputs.lidar_key,
        "scans": [
            [s.scan_id, _file_lists(s.files), s.image_from_lidar, s.taken_hw]
            for s in inputs.camera_scans
        ],
    }


def _file_lists(files: Sequence[HashedFile]) -> list[list[Any]]:
    return [[file.role, file.nbytes, file.xxh3] for file in files]


def parse_inputs(container: str, value: Any, *, where: str) -> KeyInputs:
    """Parse what `encode_inputs` wrote; scans of earlier versions may lack the last part.

    Raises:
        CacheError: the text has another form.
    """
    try:
        if container == "lidar":
            scans = tuple(_lidar_scan(scan) for scan in value["scans"])
            return KeyInputs(sequence=_text(value["sequence"]), lidar_scans=scans)
        lidar_key = _text(value["lidar"])
        if container in ("voxel", "thinned"):
            return KeyInputs(lidar_key=lidar_key)
        if container == "motion":
            moved = tuple(_motion_scan(scan) for scan in value["scans"])
            return KeyInputs(lidar_key=lidar_key, motion_scans=moved)
        pictures = tuple(_camera_scan(scan) for scan in value["scans"])
        return KeyInputs(lidar_key=lidar_key, camera_scans=pictures)
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(
            f"{where}: the inputs are not those of a {container} shard ({type(error).__name__}: "
            f"{error!s:.100}). Run `prepare` again."
        ) from error


def header_inputs(header: ShardHeader) -> KeyInputs:
    """The inputs of a shard, parsed.

    Raises:
        CacheError: they are not those of its container.
    """
    where = f"{header.container} {header.key}"
    return parse_inputs(header.container, header.inputs, where=where)


def source_files(header: ShardHeader) -> tuple[ScanSources, ...]:
    """The source files that a key names, by scan; paths and times are not part of it."""
    return tuple(
        ScanSources(
            scan_id=scan.scan_id,
            files=tuple(
                SourceFile(role=f.role, path="", nbytes=f.nbytes, mtime_ns=0, xxh3=f.xxh3)
                for f in scan.files
            ),
        )
        for scan in header_inputs(header).scans
    )


def _lidar_scan(values: Any) -> LidarScanInputs:
    scan_id, split, frame_index, token, files, sweeps = _filled(values, 6)
    return LidarScanInputs(
        scan_id=_text(scan_id),
        split=_text(split),
        frame_index=frame_index,
        token=_text(token),
        files=_hashed_files(files),
        sweeps=tuple((tuple(matrix), time_s) for matrix, time_s in sweeps),
    )


def _camera_scan(values: Any) -> CameraScanInputs:
    scan_id, files, matrices, taken_hw = _filled(values, 4)
    return CameraScanInputs(
        scan_id=_text(scan_id),
        files=_hashed_files(files),
        image_from_lidar=None if matrices is None else tuple(tuple(m) for m in matrices),
        taken_hw=tuple((height, width) for height, width in taken_hw),
    )


def _motion_scan(values: Any) -> MotionScanInputs:
    scan_id, pose, time_s = values
    return MotionScanInputs(
        scan_id=_text(scan_id), pose=None if pose is None else tuple(pose), time_s=time_s
    )


def _filled(values: Any, count: int) -> list[Any]:
    """The parts of a scan, where the last one may be missing."""
    return [*values, ()] if len(values) == count - 1 else list(values)


def _hashed_files(files: Any) -> tuple[HashedFile, ...]:
    return tuple(
        HashedFile(role=_text(role), nbytes=nbytes, xxh3=_text(xxh3))
        for role, nbytes, xxh3 in files
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r:.60}")
    return value
