"""`pass2d stats`: the statistics of a prepared data set as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from cache.statistics import RANGE_EDGES_M, DatasetStatistics, SplitStatistics, Spread

SCAN_COLUMNS = (
    "split",
    "scans",
    "sequences",
    "points per scan",
    "of them in the volume",
    "seen by a picture",
    "no labels",
    "no picture",
)
"""Of the table of scans."""
_BLOCKS = " ▁▂▃▄▅▆▇█"


def report_tables(statistics: DatasetStatistics) -> tuple[Table | Text, ...]:
    """Rich renderables for a terminal: classes, scans, ranges, remarks."""
    lines = remarks(statistics)
    return (
        _class_table(statistics),
        _scan_table(statistics),
        _range_table(statistics),
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


def _scan_table(statistics: DatasetStatistics) -> Table:
    result = Table(title="scans", title_justify="left")
    for column in SCAN_COLUMNS:
        result.add_column(column, justify="left" if column == "split" else "right")
    for split in statistics.splits:
        result.add_row(*scan_cells(split))
    return result


def scan_cells(split: SplitStatistics) -> tuple[str, ...]:
    """The row of a split below ``SCAN_COLUMNS``."""
    return (
        split.split,
        f"{split.scans:,}",
        f"{len(split.scans_per_sequence):,}",
        _spread(split.points_raw),
        _spread(split.points_kept),
        "-" if split.visible_share is None else percent(split.visible_share),
        f"{split.scans_without_label:,}",
        f"{split.scans_without_image:,}",
    )


def _range_table(statistics: DatasetStatistics) -> Table:
    result = Table(title="points by range, 0 to 100 m and beyond, 5 m each", title_justify="left")
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
        return f"{share:.1e}"
    return f"{share:.2%}"


def _spread(spread: Spread) -> str:
    if spread.low == spread.high:
        return f"{spread.low:,.0f}"
    return f"{spread.low:,.0f} / {spread.median:,.0f} / {spread.high:,.0f}, mean {spread.mean:,.0f}"
