"""Pictures of labelled scans: from above, as a range image, on the camera's picture; with a legend.

All functions take arrays and return a Pillow image; `save_png` writes one. No display is needed.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pass2d.cache.schema import LabelTable
from pass2d.common.errors import ShapeError
from pass2d.common.files import written_whole
from pass2d.train.drawing.legend import (
    BACKGROUND_RGB,
    FAINT_RGB,
    TEXT_RGB,
    drawn,
    font,
    label_colors,
    legend_column,
    legend_rows,
)

RANGE_ROWS, RANGE_COLUMNS = 64, 1024
"""Cells of a range image: the beams of a common sensor, and 0.35 degrees."""
LARGEST_GAP_ROWS = 4
"""Rows without a return that a range image closes: few or unevenly spaced beams leave them."""


def facing_ahead(xyz: NDArray[np.float32], forward_axis: str) -> NDArray[np.float32]:
    """(3, N) a scan rotated so that x points forward and y to the left, as pictures need it.

    Args:
        xyz: (3, N) lidar frame.
        forward_axis: "x", or "y" as the lidar of nuScenes has it: x is to its right.
    """
    return np.stack([xyz[1], -xyz[0], xyz[2]]) if forward_axis == "y" else xyz


def birds_eye(
    xyz: NDArray[np.float32],
    labels: NDArray[np.uint8],
    table: LabelTable,
    *,
    half_width_m: float = 50.0,
    size_px: int = 1000,
    title: str = "",
) -> Image.Image:
    """Draw a scan seen from above: ahead is up, higher points cover lower ones.

    Args:
        xyz: (3, N) metres, x ahead (``facing_ahead``); points with a NaN are left out.
        labels: (N,) training ids.
        table: Names and colours of the classes.
        half_width_m: The picture shows x and y from minus this to this.
        size_px: Width and height of the scan's part; the legend comes to its right.
        title: A line above, e.g. the file's name.

    Returns:
        RGB with rings of distance, a scale bar and a legend of the classes that occur.

    Raises:
        ShapeError: ``xyz`` is not (3, N) or ``labels`` not (N,).
    """
    _check_scan(xyz, labels)
    shown = np.flatnonzero((np.abs(xyz[:2]) < half_width_m).all(axis=0) & np.isfinite(xyz[2]))
    shown = shown[np.argsort(xyz[2, shown], kind="stable")]
    px_per_m = size_px / (2 * half_width_m)
    column = ((half_width_m - xyz[1, shown]) * px_per_m).astype(np.int64)
    row = ((half_width_m - xyz[0, shown]) * px_per_m).astype(np.int64)
    ground = Image.new("RGB", (size_px, size_px), BACKGROUND_RGB)
    _draw_rings(ground, half_width_m=half_width_m)
    canvas = np.array(ground)
    _paint(canvas, row, column, label_colors(labels[shown], table), size=2)
    picture = Image.fromarray(canvas)
    _draw_scale_bar(picture, px_per_m=px_per_m)
    return _beside(picture, legend_column(labels, table, height=size_px), title=title)


def range_image(
    xyz: NDArray[np.float32],
    labels: NDArray[np.uint8],
    table: LabelTable,
    *,
    title: str = "",
) -> Image.Image:
    """Draw a scan as its sensor sees it: azimuth across (ahead in the middle), elevation up.

    Args:
        xyz: (3, N) metres, lidar frame; points with a NaN are left out.
        labels: (N,) training ids.
        table: Names and colours of the classes.
        title: A line above.

    Returns:
        RGB, the nearest point of each cell, with a legend below.

    Raises:
        ShapeError: ``xyz`` is not (3, N) or ``labels`` not (N,).
    """
    _check_scan(xyz, labels)
    cells = np.zeros((RANGE_ROWS, RANGE_COLUMNS, 3), np.uint8)
    cells[:] = BACKGROUND_RGB
    row, column, order = _range_cells(xyz)
    cells[row, column] = label_colors(labels[order], table)
    filled = np.zeros((RANGE_ROWS, RANGE_COLUMNS), np.bool_)
    filled[row, column] = True
    _close_gaps(cells, filled)
    size = (RANGE_COLUMNS * 2, RANGE_ROWS * 5)
    picture = Image.fromarray(cells).resize(size, Image.Resampling.NEAREST)
    return _above(picture, legend_rows(labels, table, width=size[0]), title=title)


def on_picture(
    image: NDArray[np.uint8],
    pixel_rc: NDArray[np.uint16],
    labels: NDArray[np.uint8],
    table: LabelTable,
    *,
    distance_m: NDArray[np.float32] | None = None,
    title: str = "",
) -> Image.Image:
    """Draw the points that a camera sees on its picture, which is dimmed.

    Args:
        image: (H, W, 3) RGB.
        pixel_rc: (2, M) row and column of each visible point.
        labels: (M,) training ids.
        table: Names and colours of the classes.
        distance_m: (M,) near points are drawn over far ones; the order given without it.
        title: A line above.

    Returns:
        RGB with a legend below.

    Raises:
        ShapeError: A pixel lies outside the picture, or the shapes do not fit.
    """
    if pixel_rc.shape != (2, len(labels)):
        raise ShapeError("pixel_rc", expected=f"(2, {len(labels)})", got=pixel_rc.shape)
    row, column = pixel_rc.astype(np.int64)
    if len(row) and (row.max() >= image.shape[0] or column.max() >= image.shape[1]):
        raise ShapeError("pixel_rc", expected=f"inside {image.shape}", got=pixel_rc.max(axis=1))
    canvas = (image * 0.55).astype(np.uint8)
    order = np.arange(len(labels)) if distance_m is None else np.argsort(-distance_m, kind="stable")
    colors = label_colors(labels[order], table)
    _paint(canvas, row[order], column[order], colors, size=max(2, image.shape[1] // 500))
    legend = legend_rows(labels, table, width=image.shape[1])
    return _above(Image.fromarray(canvas), legend, title=title)


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG under a temporary name and rename it, so that readers never see a partial file.

    Raises:
        DataError: The folder is missing or not writable, or the disk is full.
    """
    with written_whole(path, "the picture") as aside:
        picture.save(aside, format="PNG")


def _check_scan(xyz: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
    if xyz.ndim != 2 or len(xyz) != 3:
        raise ShapeError("xyz", expected="(3, N)", got=xyz.shape)
    if labels.shape != xyz.shape[1:]:
        raise ShapeError("labels", expected=f"({xyz.shape[1]},)", got=labels.shape)


def _paint(
    canvas: NDArray[np.uint8],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    colors: NDArray[np.uint8],
    *,
    size: int,
) -> None:
    """Paint squares; of those that overlap, the later one in the arrays covers the earlier."""
    height, width = canvas.shape[:2]
    offsets = np.arange(size) - size // 2
    # One assignment for all: in an indexed assignment with repeats the last one wins.
    rows = np.clip(row[:, None, None] + offsets[:, None], 0, height - 1)
    columns = np.clip(column[:, None, None] + offsets[None, :], 0, width - 1)
    canvas[rows, columns] = colors[:, None, None]


def _range_cells(
    xyz: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, column and point of the cells to fill, far points first so that near ones cover them."""
    distance = np.sqrt(np.square(xyz.astype(np.float64)).sum(axis=0))
    seen = np.flatnonzero(np.isfinite(distance) & (distance > 0))
    order = seen[np.argsort(-distance[seen], kind="stable")]
    x, y, z = xyz[:, order].astype(np.float64)
    elevation = np.arcsin(z / distance[order])
    # A few stray points far above or below would squeeze all others into some rows.
    low, high = np.quantile(elevation, [0.002, 0.998]) if len(order) else (0.0, 0.0)
    row = (high - elevation) / max(high - low, 1e-6) * RANGE_ROWS
    column = (0.5 - np.arctan2(y, x) / (2 * np.pi)) * RANGE_COLUMNS
    return (
        np.clip(row, 0, RANGE_ROWS - 1).astype(np.int64),
        np.clip(column, 0, RANGE_COLUMNS - 1).astype(np.int64),
        order,
    )


def _close_gaps(cells: NDArray[np.uint8], filled: NDArray[np.bool_]) -> None:
    """Give empty cells between two filled ones of a column the colour of the one above."""
    below_soon = np.zeros_like(filled)
    for gap in range(1, LARGEST_GAP_ROWS + 1):
        below_soon[:-gap] |= filled[gap:]
    for _ in range(LARGEST_GAP_ROWS):
        take = np.zeros_like(filled)
        take[1:] = ~filled[1:] & filled[:-1] & below_soon[1:]
        cells[take] = np.roll(cells, 1, axis=0)[take]
        filled |= take


def _draw_rings(picture: Image.Image, *, half_width_m: float) -> None:
    draw = ImageDraw.Draw(picture)
    centre = picture.width / 2
    for distance in range(10, math.ceil(half_width_m), 10):
        radius = distance / half_width_m * centre
        box = (centre - radius, centre - radius, centre + radius, centre + radius)
        draw.ellipse(box, outline=FAINT_RGB)
    sensor = [(centre, centre - 9), (centre - 6, centre + 7), (centre + 6, centre + 7)]
    draw.polygon(sensor, fill=TEXT_RGB)


def _draw_scale_bar(picture: Image.Image, *, px_per_m: float) -> None:
    draw = ImageDraw.Draw(picture)
    left, bottom = 16, picture.height - 16
    right = left + 10 * px_per_m
    draw.rectangle((left - 8, bottom - 28, right + 8, bottom + 8), fill=BACKGROUND_RGB)
    draw.line([(left, bottom - 5), (left, bottom), (right, bottom), (right, bottom - 5)], TEXT_RGB)
    draw.text(((left + right) / 2, bottom - 8), "10 m", fill=TEXT_RGB, font=font(13), anchor="mb")


def _beside(picture: Image.Image, legend: Image.Image, *, title: str) -> Image.Image:
    top = _title_px(title)
    height = top + max(picture.height, legend.height)
    page = Image.new("RGB", (picture.width + legend.width, height), BACKGROUND_RGB)
    page.paste(picture, (0, top))
    page.paste(legend, (picture.width, top))
    _write_title(page, title)
    return page


def _above(picture: Image.Image, legend: Image.Image, *, title: str) -> Image.Image:
    top = _title_px(title)
    height = top + picture.height + legend.height
    page = Image.new("RGB", (max(picture.width, legend.width), height), BACKGROUND_RGB)
    page.paste(picture, (0, top))
    page.paste(legend, (0, top + picture.height))
    _write_title(page, title)
    return page


def _title_px(title: str) -> int:
    return 34 if title else 0


def _write_title(page: Image.Image, title: str) -> None:
    if title:
        ImageDraw.Draw(page).text(
            (14, 17), drawn(title, longest=120), fill=TEXT_RGB, font=font(15), anchor="lm"
        )
