"""`pass2d stats`: the statistics of a prepared data set as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from pass2d.cache.statistics import RANGE_EDGES_M, DatasetStatistics, SplitStatistics, Spread

SCAN_COLUMNS = ("split", "scans", "sequences", "seen by a picture", "no labels", "no picture")
"""Of the table of scans."""
POINT_COLUMNS = ("split", "points per scan", "least", "median", "most", "mean", "all scans")
"""Of the table of points."""
_BLOCKS = " ▁▂▃▄▅▆▇█"


def report_tables(statistics: DatasetStatistics) -> tuple[Table | Text, ...]:
    """Rich renderables for a terminal: classes, scans, ranges, remarks."""
    lines = remarks(statistics)
    return (
        _class_table(statistics),
        _table("scans", SCAN_COLUMNS, [scan_cells(split) for split in statistics.splits]),
        _table("points", POINT_COLUMNS, [row for s in statistics.splits for row in point_cells(s)]),
        _range_table(statistics),
        *(Text(f"{split.split}: {sequence_line(split)}") for split in statistics.splits),
        *(Text(line, style="yellow") for line in lines),
    )


def report_json(statistics: DatasetStatistics) -> dict[str, Any]:
    """Everything as plain data: counts and shares per class and split, and the rest."""
    return {
        "dataset": statistics.info.name,
        "range_edges_m": list(RANGE_EDGES_M),
        "splits": {split.split: _split_json(split, statistics) for split in statistics.splits},
        "remarks": list(remarks(statistics)),
    }


def remarks(statistics: DatasetStatistics) -> tuple[str, ...]:
    """What one should know before training: absent classes, missing pictures and labels."""
    lines: list[str] = []
    if not statistics.info.has_class_weights:
        lines.append(f"{statistics.info.name} is trained without class weights, as published")
    for split in statistics.splits:
        if split.absent:
            lines.append(
                f"{split.split}: no point of {_listing(split.absent)}; "
                "their class weight is the largest of the others"
            )
        if split.scans_without_image:
            lines.append(
                f"{split.split}: {split.scans_without_image} of {split.scans} scans have no picture"
                + _whole_sequences(split.sequences_without_image)
            )
        if split.scans_without_label:
            lines.append(
                f"{split.split}: {split.scans_without_label} of {split.scans} scans have no labels"
                + _whole_sequences(split.sequences_without_label)
            )
    return tuple(lines)


def _whole_sequences(sequences: Sequence[str]) -> str:
    return f" (all of sequence {_listing(sequences)})" if sequences else ""


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names)


def labelled_splits(statistics: DatasetStatistics) -> list[SplitStatistics]:
    """Those with at least one scan with labels."""
    return [s for s in statistics.splits if s.scans_without_label < s.scans]


def _class_table(statistics: DatasetStatistics) -> Table:
    names, colors = statistics.info.labels.names, statistics.info.labels.colors_rgb
    result = Table(title=f"{statistics.info.name}: classes", title_justify="left")
    result.add_column("id", justify="right")
    result.add_column("class")
    labelled = labelled_splits(statistics)
    for split in labelled:
        for column in ("points", "share", "weight"):
            result.add_column(f"{split.split} {column}", justify="right")
    for c, name in enumerate(names):
        cells = [
            text
            for split in labelled
            for text in (
                f"{split.class_counts[c]:,}",
                percent(float(split.class_shares[c])),
                f"{split.class_weights[c]:.3f}" if c else "ignored",
            )
        ]
        red, green, blue = colors[c]
        swatch = Text("■ ", style=f"rgb({red},{green},{blue})" if c else "default")
        result.add_row(str(c), swatch + Text(name), *cells)
    return result


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    result = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        result.add_column(column, justify="right" if place else "left")
    for row in rows:
        result.add_row(*row)
    return result


def scan_cells(split: SplitStatistics) -> tuple[str, ...]:
    """The row of a split below ``SCAN_COLUMNS``."""
    return (
        split.split,
        f"{split.scans:,}",
        f"{len(split.scans_per_sequence):,}",
        "-" if split.visible_share is None else percent(split.visible_share),
        f"{split.scans_without_label:,}",
        f"{split.scans_without_image:,}",
    )


def point_cells(split: SplitStatistics) -> tuple[tuple[str, ...], ...]:
    """The two rows of a split below ``POINT_COLUMNS``."""
    return (
        (split.split, "raw file", *_spread(split.points_raw), f"{split.total_raw:,}"),
        (split.split, "in the volume", *_spread(split.points_kept), f"{split.total_kept:,}"),
    )


def sequence_line(split: SplitStatistics) -> str:
    """E.g. "scans per sequence: 00 4541, 01 1101"."""
    return "scans per sequence: " + _listing([f"{n} {c}" for n, c in split.scans_per_sequence])


def _range_table(statistics: DatasetStatistics) -> Table:
    result = Table(title="points by range: bins of 5 m", title_justify="left")
    for column in ("split", "histogram", "median bin"):
        result.add_column(column)
    for split in statistics.splits:
        counts = split.range_histogram
        top = max(1, int(counts.max()))
        bars = "".join(_BLOCKS[math.ceil(8 * int(count) / top)] for count in counts)
        result.add_row(split.split, bars, _median_bin(split))
    return result


def _median_bin(split: SplitStatistics) -> str:
    total = split.range_histogram.cumsum()
    if not total[-1]:
        return "-"
    place = int((total * 2 >= total[-1]).argmax())
    return bin_name(place) + " m"


def bin_name(place: int) -> str:
    """Metres of a bin of the range histogram: "5-10"."""
    if place + 1 == len(RANGE_EDGES_M):
        return f"{RANGE_EDGES_M[place]}+"
    return f"{RANGE_EDGES_M[place]}-{RANGE_EDGES_M[place + 1]}"


def _split_json(split: SplitStatistics, statistics: DatasetStatistics) -> dict[str, Any]:
    names = statistics.info.labels.names
    return {
        "scans": split.scans,
        "scans_per_sequence": dict(split.scans_per_sequence),
        "points": {"raw": split.total_raw, "kept": split.total_kept},
        "points_per_scan": {
            "raw": asdict(split.points_raw),
            "kept": asdict(split.points_kept),
        },
        "visible_share": split.visible_share,
        "scans_without_label": split.scans_without_label,
        "scans_without_image": split.scans_without_image,
        "sequences_without_label": list(split.sequences_without_label),
        "sequences_without_image": list(split.sequences_without_image),
        "classes": [
            {
                "id": c,
                "name": name,
                "points": int(split.class_counts[c]),
                "share": float(split.class_shares[c]),
                "weight": float(split.class_weights[c]),
            }
            for c, name in enumerate(names)
        ],
        "absent_classes": list(split.absent),
        "range_histogram": split.range_histogram.tolist(),
    }


def percent(share: float) -> str:
    """0.0123 -> "1.23%"; tiny shares keep a digit."""
    if share and share < 0.0001:
        return f"{100 * share:.1g}%"
    return f"{share:.2%}"


def _spread(spread: Spread) -> tuple[str, ...]:
    numbers = (spread.low, spread.median, spread.high, spread.mean)
    return tuple(f"{number:,.0f}" for number in numbers)
