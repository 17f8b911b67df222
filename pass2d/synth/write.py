"""The SemanticKITTI layout on disk. Every file is written under a temporary name and renamed."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.common.files import read_whole, remove_leftovers, whole_file
from pass2d.common.json import parse
from pass2d.synth.config import TEST_SEQUENCES, SynthConfig
from pass2d.synth.frame import Frame
from pass2d.synth.sensors import CameraModel

MARKER = "synth.json"
WORLD_VERSION = 1
"""Raise when the same settings give other bytes: files of two versions are not mixed."""
BASELINE_M = 0.54
"""Between KITTI's left and right cameras."""


def settings_of(config: SynthConfig) -> dict[str, object]:
    """All that decides a sequence's bytes, for the marker file.

    The number of workers does not, nor which other sequences there are.
    """
    settings = json.loads(json.dumps(asdict(config)))
    del settings["workers"], settings["sequences"]
    if config.traffic == SynthConfig.traffic:  # worlds from before there was a choice do not say it
        del settings["traffic"]
    return {"world_version": WORLD_VERSION, **settings}


def claim_folder(out: Path, settings: dict[str, object]) -> None:
    """Make the output folder ours, or see that it is and was made with the same settings.

    Args:
        out: the folder.
        settings: all that decides what will be written, see `settings_of`.

    Raises:
        DataError: something else lies there, or a world with other settings.
    """
    marker = out / MARKER
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; name a folder for the synthetic world")
    remove_leftovers(out)  # of a run that was killed before it wrote its marker
    if marker.is_file():
        _check_same(marker, settings)
    elif out.is_dir() and any(out.iterdir()):
        raise DataError(
            f"{out}: is not empty and holds no {MARKER} of an earlier run; "
            "name a new or empty folder"
        )
    else:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"made_by": "pass2d prepare synth", **settings}, indent=1)
        write_aside(marker, text.encode())


def _check_same(marker: Path, wanted: dict[str, object]) -> None:
    try:
        found = parse(read_whole(marker))
    except ValueError as error:
        raise DataError(
            f"{marker}: is not JSON ({error}); delete the folder and run again"
        ) from error
    old = found if isinstance(found, dict) else {}
    for key in (*wanted, *(key for key in old if key not in wanted and key != "made_by")):
        here, asked = (known.get(key, "the default") for known in (old, wanted))
        if here != asked:
            raise DataError(
                f"{marker.parent}: holds a synthetic world with {key} = {here}, asked for {asked}; "
                "name another folder, or delete this one"
            )


def sequence_folder(out: Path, sequence: str) -> Path:
    """Where a sequence lies."""
    return out / "sequences" / sequence


def frame_files(out: Path, sequence: str, frame_index: int) -> dict[str, Path]:
    """The files of one scan by kind; test sequences have no "labels"."""
    kinds = {"velodyne": "bin", "labels": "label", "image_2": "png"}
    if sequence in TEST_SEQUENCES:
        del kinds["labels"]
    folder = sequence_folder(out, sequence)
    return {kind: folder / kind / f"{frame_index:06d}.{end}" for kind, end in kinds.items()}


def write_frame(out: Path, sequence: str, frame_index: int, frame: Frame) -> int:
    """Write scan, labels and picture; returns their bytes.

    Raises:
        DataError: the disk is full, or writing is not allowed.
    """
    contents = {
        "velodyne": frame.scan.points.astype("<f4").tobytes(),
        "labels": frame.scan.labels.astype("<u4").tobytes(),
        "image_2": png_bytes(frame.image),
    }
    files = frame_files(out, sequence, frame_index)
    for kind, path in files.items():
        write_aside(path, contents[kind])
    return sum(len(contents[kind]) for kind in files)


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Encode an (H, W, 3) picture; the same bytes for the same picture."""
    from PIL import Image

    buffer = io.BytesIO()
    # Noise hardly packs: level 1 takes a quarter of the time of the default for the same size.
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_sequence(
    out: Path,
    sequence: str,
    *,
    camera: CameraModel,
    poses: NDArray[np.float64],
    times_s: NDArray[np.float64],
) -> None:
    """Make a sequence's folders, calib.txt, poses.txt and times.txt; clears broken-off files.

    Args:
        out: the data set's folder.
        sequence: two digits.
        camera: calibration.
        poses: (S, 3, 4) of camera 0 in the frame of the first one.
        times_s: (S,) seconds.

    Raises:
        DataError: the disk is full, or writing is not allowed.
    """
    folder = sequence_folder(out, sequence)
    try:
        for path in frame_files(out, sequence, 0).values():
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
    except OSError as error:
        raise _write_error(folder, error) from error
    write_aside(folder / "calib.txt", calibration_text(camera).encode())
    lines = "".join(_numbers(pose.reshape(-1), 6) + "\n" for pose in poses)
    write_aside(folder / "poses.txt", lines.encode())
    write_aside(folder / "times.txt", "".join(f"{t:.6e}\n" for t in times_s).encode())


def calibration_text(camera: CameraModel) -> str:
    """The lines of calib.txt: P0 (the reference), P1 (its right twin), P2 (colour), P3, Tr."""
    left = np.column_stack([camera.image_from_cam0[:, :3], np.zeros(3)])
    right = left.copy()
    right[0, 3] = -BASELINE_M * left[0, 0]
    color_right = camera.image_from_cam0.copy()
    color_right[0, 3] += right[0, 3]
    rows = {
        "P0": left,
        "P1": right,
        "P2": camera.image_from_cam0,
        "P3": color_right,
        "Tr": camera.cam0_from_lidar[:3],
    }
    return "".join(f"{name}: {_numbers(matrix.reshape(-1), 12)}\n" for name, matrix in rows.items())


def _numbers(values: NDArray[np.float64], digits: int) -> str:
    return " ".join(f"{value:.{digits}e}" for value in values)


def write_aside(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is complete or missing.

    Raises:
        DataError: the disk is full, or writing is not allowed.
    """
    try:
        with whole_file(path, is_durable=False) as aside:
            aside.write_bytes(content)
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: cannot write: {error.strerror or error}; free some space or choose another "
        "folder, then run again: finished scans are kept"
    )
