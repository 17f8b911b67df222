"""The colours of pictures: of classes, of text, and the legend that explains them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pass2d.cache.schema import LabelTable
from pass2d.common.text import shown

BACKGROUND_RGB = (16, 17, 21)
TEXT_RGB = (226, 228, 233)
FAINT_RGB = (52, 55, 64)
IGNORED_RGB = (105, 108, 116)
"""Of class 0: the label tables have black, which would be invisible."""
LINE_PX = 20
"""Height of a legend line."""

ERRORS = LabelTable(
    raw_to_training={},
    training_to_raw=(0, 1, 2),
    names=("not counted", "right", "wrong"),
    colors_rgb=((0, 0, 0), (52, 128, 104), (240, 70, 50)),
)
"""Colours of the picture of errors."""


def outcomes(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N,) indices into ``ERRORS`` of predicted training ids."""
    return np.where(truth == 0, 0, np.where(predicted == truth, 1, 2)).astype(np.uint8)


def label_colors(labels: NDArray[np.uint8], table: LabelTable) -> NDArray[np.uint8]:
    """Give each point its class's colour.

    Args:
        labels: (N,) training ids.
        table: Names and colours of the classes.

    Returns:
        (N, 3) RGB.
    """
    return _palette(table)[labels]


def legend_column(labels: NDArray[np.uint8], table: LabelTable, *, height: int) -> Image.Image:
    """The classes of (N,) training ids and their share of the points, one below the other."""
    entries = _legend_entries(labels, table)
    legend = Image.new("RGB", (210, max(height, LINE_PX * (len(entries) + 1))), BACKGROUND_RGB)
    draw = ImageDraw.Draw(legend)
    for place, (name, color, share) in enumerate(entries):
        top = LINE_PX // 2 + place * LINE_PX
        _swatch(draw, 12, top, color)
        draw.text((34, top + 8), drawn(name, longest=18), fill=TEXT_RGB, font=font(13), anchor="lm")
        draw.text((198, top + 8), share, fill=IGNORED_RGB, font=font(12), anchor="rm")
    return legend


def legend_rows(labels: NDArray[np.uint8], table: LabelTable, *, width: int) -> Image.Image:
    """The classes of (N,) training ids, side by side, on as many lines as needed."""
    entries = _legend_entries(labels, table)
    column_px = 150
    per_row = max(1, width // column_px)
    n_rows = max(1, -(-len(entries) // per_row))
    legend = Image.new("RGB", (width, LINE_PX * n_rows + 12), BACKGROUND_RGB)
    draw = ImageDraw.Draw(legend)
    for place, (name, color, _) in enumerate(entries):
        left, top = place % per_row * column_px + 10, place // per_row * LINE_PX + 7
        _swatch(draw, left, top, color)
        draw.text(
            (left + 22, top + 8), drawn(name, longest=18), fill=TEXT_RGB, font=font(13), anchor="lm"
        )
    return legend


def drawn(text: str, *, longest: int) -> str:
    """A name as a picture has room for it; fonts know neither line breaks nor lone surrogates."""
    return shown(text, longest=longest)


def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that pictures look the same on every machine."""
    return ImageFont.load_default(size_px)


def _palette(table: LabelTable) -> NDArray[np.uint8]:
    return np.array([IGNORED_RGB, *table.colors_rgb[1:]], np.uint8)


def _legend_entries(
    labels: NDArray[np.uint8], table: LabelTable
) -> Sequence[tuple[str, tuple[int, ...], str]]:
    counts = np.bincount(labels, minlength=table.n_classes)
    palette = _palette(table).tolist()
    return [
        (table.names[c], tuple(palette[c]), _percent(counts[c] / len(labels)))
        for c in np.flatnonzero(counts)
    ]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _swatch(draw: ImageDraw.ImageDraw, left: int, top: int, color: tuple[int, ...]) -> None:
    box = (left, top + 1, left + 14, top + 15)
    draw.rounded_rectangle(box, radius=3, fill=color, outline=FAINT_RGB)
