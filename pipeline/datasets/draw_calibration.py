"""A scan's points on a picture, coloured by depth: shows at a glance whether a calibration fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pass2d.cache.schema import DatasetInfo
from pass2d.common.files import make_folder, written_whole
from pass2d.common.progress import Progress
from pass2d.pipeline.compose import read_picture, visible_points
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.source import ScanSource
from pass2d.pipeline.stages.read import read_point_file

NEAR_M, FAR_M = 3.0, 50.0
_COLORS = ((255, 60, 40), (255, 210, 50), (80, 220, 90), (60, 190, 255), (110, 80, 255))
"""From near to far, evenly over the logarithm of the depth."""
_DIMMED = 0.6


def draw_calibrations(
    scans: Sequence[ScanSource],
    info: DatasetInfo,
    folder: Path,
    *,
    problems: Sequence[Problem] = (),
    cameras: Sequence[str] = (),
    progress: Progress,
) -> list[Path]:
    """Write one picture per sequence and camera.

    Args:
        scans: calibrated; of each sequence the first one with a problem is drawn, else the first.
        info: layout of the point files.
        folder: made when missing; files are SEQUENCE.png, or SEQUENCE-CAMERA.png.
        problems: what a check found.
        cameras: names of the cameras where there are several.
        progress: receives pictures that cannot be drawn, and the folder.

    Returns:
        The files.

    Raises:
        DataError: the folder cannot be made, or a picture cannot be written.
    """
    make_folder(folder, "pictures")
    written = []
    for (sequence, camera), scan in _chosen(scans, problems).items():
        name = f"{sequence}-{cameras[camera]}" if cameras else sequence
        file = folder / f"{name}.png"
        try:
            picture = _drawn(scan, camera, info)
        except ProblemError as error:
            progress.say(f"{file.name} is not drawn: {error}")
            continue
        with written_whole(file, "the picture") as aside:
            picture.save(aside, format="PNG")
        written.append(file)
    progress.say(f"pictures: {len(written)} in {folder}")
    return written


def on_picture_by_depth(
    image: NDArray[np.uint8], pixel_rc: NDArray[np.uint16], depth_m: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """Paint points over a dimmed picture, near ones over far ones.

    Args:
        image: (H, W, 3) RGB.
        pixel_rc: (2, M) row and column, inside the picture.
        depth_m: (M,) metres.

    Returns:
        (H, W, 3) RGB: red is near, blue is far.
    """
    canvas = (image * _DIMMED).astype(np.uint8)
    order = np.argsort(-depth_m, kind="stable")
    row, column = pixel_rc[:, order].astype(np.int64)
    share = np.log(np.clip(depth_m[order], NEAR_M, FAR_M) / NEAR_M) / np.log(FAR_M / NEAR_M)
    stops = np.linspace(0, 1, len(_COLORS))
    table = np.array(_COLORS, np.float64)
    colors = np.stack([np.interp(share, stops, table[:, c]) for c in range(3)], axis=1)
    size = max(2, image.shape[1] // 500)
    for d_row in range(size):
        for d_column in range(size):
            rows = np.minimum(row + d_row, image.shape[0] - 1)
            columns = np.minimum(column + d_column, image.shape[1] - 1)
            canvas[rows, columns] = colors.astype(np.uint8)
    return canvas


def _chosen(
    scans: Sequence[ScanSource], problems: Sequence[Problem]
) -> dict[tuple[str, int], ScanSource]:
    """The scan to draw by sequence and camera."""
    unlikely = {problem.file for problem in problems if problem.severity == "warning"}
    chosen: dict[tuple[str, int], ScanSource] = {}
    has_problem: set[tuple[str, int]] = set()
    for scan in scans:
        if scan.image_from_lidar is None:
            continue
        for camera, file in enumerate(scan.images):
            key = scan.sequence, camera
            if file is None or (key in chosen and (file not in unlikely or key in has_problem)):
                continue
            chosen[key] = scan
            if file in unlikely:
                has_problem.add(key)
    return chosen


def _drawn(scan: ScanSource, camera: int, info: DatasetInfo) -> Image.Image:
    xyz = np.ascontiguousarray(read_point_file(scan.points, info, scan_id=scan.scan_id)[:, :3].T)
    image = read_picture(scan, camera, info)
    height, width, _ = image.shape
    rows = np.arange(xyz.shape[1])
    seen = visible_points(scan, camera, xyz, info, rows=rows, image_hw=(height, width))
    depth_m = np.linalg.norm(xyz[:, seen.point_index], axis=0)
    picture = Image.fromarray(on_picture_by_depth(image, seen.pixel_rc, depth_m))
    text = (
        f"{scan.scan_id}: {len(depth_m):,} points, red {NEAR_M:g} m, blue {FAR_M:g} m and more; "
        "edges of objects should coincide"
    )
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width, 13), fill=(0, 0, 0))
    draw.text((4, 1), text, fill=(255, 255, 255))
    return picture
