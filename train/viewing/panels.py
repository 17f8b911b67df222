"""`pass2d view --png`: a scan from above, as a range image and on the camera, in panels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pass2d.cache.schema import LabelTable
from pass2d.common.files import make_folder
from pass2d.train.drawing.legend import BACKGROUND_RGB, ERRORS
from pass2d.train.drawing.render import birds_eye, facing_ahead, on_picture, range_image, save_png
from pass2d.train.viewing.colors import Scale, binned, robust_scale
from pass2d.train.viewing.scan import ViewCamera, ViewScan, ViewSet

PER_ROW = 2


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One way of colouring a scan's points."""

    title: str
    labels: NDArray[np.uint8]
    """(N,) indices into the table."""
    table: LabelTable


def panels_of(scan: ViewScan, table: LabelTable, *, signal_name: str) -> tuple[Panel, ...]:
    """What is known of ground truth, prediction, error and confidence, else height and signal.

    The cache's further fields of points follow.
    """
    panels = []
    if scan.truth is not None:
        panels.append(Panel(title="ground truth", labels=scan.truth, table=table))
    if scan.predicted is not None:
        panels.append(Panel(title="prediction", labels=scan.predicted, table=table))
    if scan.error is not None:
        panels.append(Panel(title="error", labels=scan.error, table=ERRORS))
    if scan.confidence is not None:
        labels, bins = binned(scan.confidence, Scale(low=0.0, high=1.0, unit=""))
        panels.append(Panel(title="confidence", labels=labels, table=bins))
    if not panels:
        for title, values, unit in (("height", scan.xyz[2], "m"), (signal_name, scan.signal, "")):
            labels, bins = binned(values, robust_scale(values, unit=unit))
            panels.append(Panel(title=title, labels=labels, table=bins))
    for name, values in scan.extra.items():
        labels, bins = binned(values, robust_scale(values, unit=""))
        panels.append(Panel(title=name, labels=labels, table=bins))
    return tuple(panels)


def write_panels(scan: ViewScan, folder: Path, of: ViewSet) -> tuple[Path, ...]:
    """Write ``NAME_above.png``, ``NAME_range.png`` and one ``NAME_camera.png`` per camera.

    Args:
        scan: What to draw.
        folder: Must exist; files of the same names are replaced.
        of: Names and colours of the classes, the signal's name, the layout.

    Raises:
        DataError: They cannot be written there.
    """
    panels = panels_of(scan, of.table, signal_name=of.signal_name)
    stem = scan.name.replace("/", "_")

    def title(panel: Panel) -> str:
        return f"{scan.name}: {panel.title}"

    xyz = facing_ahead(scan.xyz, of.forward_axis)
    above = [birds_eye(xyz, p.labels, p.table, title=title(p)) for p in panels]
    ranges = [range_image(xyz, p.labels, p.table, title=title(p)) for p in panels]
    pictures = {"above": _grid(above), "range": _stack(ranges)}
    for number, camera in enumerate(scan.cameras):
        views = [_on_camera(scan, camera, p, title(p)) for p in panels]
        pictures[f"camera{number if len(scan.cameras) > 1 else ''}"] = _stack(views)
    written = []
    for name, picture in pictures.items():
        path = folder / f"{stem}_{name}.png"
        save_png(picture, path)
        written.append(path)
    return tuple(written)


def _on_camera(scan: ViewScan, camera: ViewCamera, panel: Panel, title: str) -> Image.Image:
    seen = camera.point_index
    return on_picture(
        camera.image,
        camera.pixel_rc,
        panel.labels[seen],
        panel.table,
        distance_m=np.linalg.norm(scan.xyz[:, seen], axis=0),
        title=title,
    )


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    return _placed(pictures, lambda place: (place, 0))


def _grid(pictures: Sequence[Image.Image]) -> Image.Image:
    return _placed(pictures, lambda place: divmod(place, PER_ROW))


def _placed(pictures: Sequence[Image.Image], cell: Callable[[int], tuple[int, int]]) -> Image.Image:
    """Pictures in rows and columns; each cell is as large as the largest."""
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    cells = [cell(place) for place in range(len(pictures))]
    size = (
        width * (1 + max(column for _, column in cells)),
        height * (1 + max(row for row, _ in cells)),
    )
    page = Image.new("RGB", size, BACKGROUND_RGB)
    for picture, (row, column) in zip(pictures, cells, strict=True):
        page.paste(picture, (column * width, row * height))
    return page


def drawn(
    scans: Iterable[ViewScan], folder: Path, of: ViewSet, written: list[Path]
) -> Iterator[ViewScan]:
    """Draw scans as they pass by; the folder is made if needed.

    Args:
        scans: To draw, and to hand on.
        folder: Of the pictures.
        of: Table and signal.
        written: Receives every file.

    Raises:
        DataError: They cannot be written there.
    """
    make_folder(folder, "pictures")
    for scan in scans:
        written += write_panels(scan, folder, of)
        yield scan
