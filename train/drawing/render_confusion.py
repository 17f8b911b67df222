"""A picture of a confusion matrix: which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pass2d.common.errors import ShapeError
from pass2d.train.drawing.legend import (
    BACKGROUND_RGB,
    FAINT_RGB,
    IGNORED_RGB,
    TEXT_RGB,
    drawn,
    font,
)

CELL_PX = 36
LEFT_PX = 150
TOP_PX = 190
RIGHT_PX = 120
BOTTOM_PX = 44
NAME_CHARS = 20
RIGHT_RGB = (38, 134, 98)
WRONG_RGB = (196, 78, 60)


def confusion_picture(
    counts: NDArray[np.int64], names: Sequence[str], *, title: str = ""
) -> Image.Image:
    """Draw a confusion matrix, each row in percent of its label's points.

    Args:
        counts: (C, C) rows are labels, columns predictions; row 0 (ignored) is left out, column 0
            (no prediction) is shown last.
        names: (C,) of the classes.
        title: A line above.

    Returns:
        RGB: green on the diagonal, red beside it, the row's points to the right.

    Raises:
        ShapeError: The matrix does not fit the names.
    """
    n_classes = len(names)
    if counts.shape != (n_classes, n_classes):
        raise ShapeError("counts", expected=f"({n_classes}, {n_classes})", got=counts.shape)
    columns = [*range(1, n_classes), 0]
    cells = counts[1:][:, columns]
    points = cells.sum(axis=1)
    percent = 100 * cells / np.maximum(points, 1)[:, None]
    width = LEFT_PX + n_classes * CELL_PX + RIGHT_PX
    picture = Image.new("RGB", (width, TOP_PX + len(cells) * CELL_PX + BOTTOM_PX), BACKGROUND_RGB)
    draw = ImageDraw.Draw(picture)
    for row, values in enumerate(percent):
        for column, value in enumerate(values):
            _draw_cell(draw, row, column, value, is_right=row == column)
        y = TOP_PX + row * CELL_PX + CELL_PX // 2
        name = drawn(names[row + 1], longest=NAME_CHARS)
        draw.text((LEFT_PX - 8, y), name, fill=TEXT_RGB, font=font(13), anchor="rm")
        draw.text((width - 12, y), f"{points[row]:,}", fill=IGNORED_RGB, font=font(12), anchor="rm")
    for column, training_id in enumerate(columns):
        name = names[training_id] if training_id else "no prediction"
        _draw_upright(
            picture,
            LEFT_PX + column * CELL_PX + CELL_PX // 2,
            TOP_PX - 8,
            drawn(name, longest=NAME_CHARS),
        )
    draw.text((14, 18), drawn(title, longest=120), fill=TEXT_RGB, font=font(15), anchor="lm")
    draw.text((width - 12, TOP_PX - 12), "points", fill=IGNORED_RGB, font=font(12), anchor="rm")
    note = "rows: label, columns: prediction, numbers: percent of the label's points"
    draw.text((14, picture.height - 20), note, fill=IGNORED_RGB, font=font(12), anchor="lm")
    return picture


def _draw_cell(
    draw: ImageDraw.ImageDraw, row: int, column: int, percent: float, *, is_right: bool
) -> None:
    left, top = LEFT_PX + column * CELL_PX, TOP_PX + row * CELL_PX
    strength = (percent / 100) ** 0.5  # small confusions are what one looks for
    full = RIGHT_RGB if is_right else WRONG_RGB
    fill = tuple(
        round(base + (tone - base) * strength)
        for base, tone in zip((26, 28, 34), full, strict=True)
    )
    draw.rectangle((left, top, left + CELL_PX - 2, top + CELL_PX - 2), fill=fill)
    if percent >= 0.5:
        centre = (left + CELL_PX // 2 - 1, top + CELL_PX // 2 - 1)
        draw.text(centre, f"{percent:.0f}", fill=TEXT_RGB, font=font(12), anchor="mm")
    elif percent > 0:
        box = (left + CELL_PX // 2 - 2, top + CELL_PX // 2 - 2)
        draw.rectangle((*box, box[0] + 1, box[1] + 1), fill=FAINT_RGB)


def _draw_upright(picture: Image.Image, x: int, bottom: int, text: str) -> None:
    strip = Image.new("RGB", (TOP_PX - 40, 20), BACKGROUND_RGB)
    ImageDraw.Draw(strip).text((2, 10), text, fill=TEXT_RGB, font=font(13), anchor="lm")
    picture.paste(strip.rotate(90, expand=True), (x - 11, bottom - strip.width))
