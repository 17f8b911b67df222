"""The statistics of a prepared data set: classes, scans, points, ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pass2d.cache.statistics import (
    LEAST_SHARE,
    RANGE_EDGES_M,
    DatasetStatistics,
    SplitStatistics,
    Spread,
)
from pass2d.common.html import Cell, column_chart, compact, section
from pass2d.reports.report import Part, Report, percent

SCAN_COLUMNS = ("split", "scans", "sequences", "seen by a picture", "no labels", "no picture")
"""Of the table of scans."""
POINT_COLUMNS = ("split", "points per scan", "least", "median", "most", "mean", "all scans")
"""Of the table of points."""
_BLOCKS = " ▁▂▃▄▅▆▇█"


def report(statistics: DatasetStatistics) -> Report:
    """The contents of a data set's report."""
    info, splits = statistics.info, statistics.splits
    volume = ", ".join(
        f"{axis} {low:g} to {high:g} m"
        for axis, low, high in zip("xyz", info.grid.low, info.grid.high, strict=True)
    )
    return Report(
        title=f"pass2d: {info.name}",
        subtitle=f"{info.labels.n_classes - 1} classes; volume {volume}",
        tiles=_headline(statistics),
        parts=[
            _class_part(statistics),
            Part(
                heading="scans", header=SCAN_COLUMNS, rows=[_scan_cells(split) for split in splits]
            ),
            Part(
                heading="points",
                header=POINT_COLUMNS,
                rows=[row for split in splits for row in _point_cells(split)],
            ),
            Part(
                heading="points by range: bins of 5 m",
                header=("split", "histogram", "median bin"),
                rows=[_range_cells(split) for split in splits],
                align="lll",
                on_page=False,
            ),
        ],
        lines=[f"{split.split}: {_sequence_line(split)}" for split in splits],
        remarks=remarks(statistics),
        remark_style="yellow",
        charts=lambda: [chart for split in splits for chart in _charts(split)],
        data={
            "dataset": info.name,
            "range_edges_m": list(RANGE_EDGES_M),
            "splits": {split.split: _split_json(split, statistics) for split in splits},
            "remarks": list(remarks(statistics)),
        },
    )


def remarks(statistics: DatasetStatistics) -> tuple[str, ...]:
    """Notes before training: absent classes, missing pictures and labels."""
    lines: list[str] = []
    if not statistics.info.has_class_weights:
        lines.append(f"{statistics.info.name} is trained without class weights, as published")
    for split in statistics.splits:
        if split.rare:
            lines.append(
                f"{split.split}: fewer than {LEAST_SHARE:g} of the points are "
                f"{_listing(split.rare)}; their class weight is limited"
            )
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


def _class_part(statistics: DatasetStatistics) -> Part:
    labels = statistics.info.labels
    labelled = [s for s in statistics.splits if s.scans_without_label < s.scans]
    header = ["id", "class"]
    for split in labelled:
        header += [f"{split.split} {column}" for column in ("points", "share", "weight")]
    rows: list[list[str | Cell]] = []
    for c, name in enumerate(labels.names):
        row: list[str | Cell] = [str(c), Cell(text=name, color_rgb=labels.colors_rgb[c])]
        for split in labelled:
            share = float(split.class_shares[c])
            row.append(f"{split.class_counts[c]:,}")
            row.append(Cell(text=percent(share), bar=_log_length(share)))
            row.append(f"{split.class_weights[c]:.3f}" if c else "ignored")
        rows.append(row)
    return Part(heading=f"{statistics.info.name}: classes", header=header, rows=rows, align="rl")


def _log_length(share: float) -> float:
    """0 for 1e-5 and below, 1 for all: on a linear bar the rare classes would vanish."""
    return max(0.0, 1 + math.log10(share) / 5) if share else 0.0


def _scan_cells(split: SplitStatistics) -> tuple[str, ...]:
    """The row of a split below ``SCAN_COLUMNS``."""
    return (
        split.split,
        f"{split.scans:,}",
        f"{len(split.scans_per_sequence):,}",
        "-" if split.visible_share is None else percent(split.visible_share),
        f"{split.scans_without_label:,}",
        f"{split.scans_without_image:,}",
    )


def _point_cells(split: SplitStatistics) -> tuple[tuple[str, ...], ...]:
    """The two rows of a split below ``POINT_COLUMNS``."""
    return (
        (split.split, "raw file", *_spread(split.points_raw), f"{split.total_raw:,}"),
        (split.split, "in the volume", *_spread(split.points_kept), f"{split.total_kept:,}"),
    )


def _sequence_line(split: SplitStatistics) -> str:
    """E.g. "scans per sequence: 00 4541, 01 1101"."""
    return "scans per sequence: " + _listing([f"{n} {c}" for n, c in split.scans_per_sequence])


def _range_cells(split: SplitStatistics) -> tuple[str, str, str]:
    counts = split.range_histogram
    top = max(1, int(counts.max()))
    bars = "".join(_BLOCKS[math.ceil(8 * int(count) / top)] for count in counts)
    return split.split, bars, _median_bin(split)


def _charts(split: SplitStatistics) -> list[str]:
    names, counts = zip(*split.scans_per_sequence, strict=True)
    labels = [_bin_name(place) for place in range(len(RANGE_EDGES_M))]
    ranges = column_chart(labels, split.range_histogram.tolist(), unit="points")
    return [
        section(f"Scans per sequence: {split.split}", column_chart(names, counts, unit="scans")),
        section(f"Points by range in metres: {split.split}", ranges),
    ]


def _headline(statistics: DatasetStatistics) -> list[tuple[str, str]]:
    values = [
        ("scans", f"{sum(s.scans for s in statistics.splits):,}"),
        ("points", compact(sum(s.total_raw for s in statistics.splits))),
        ("in the volume", compact(sum(s.total_kept for s in statistics.splits))),
    ]
    return values + [(f"{s.split} scans", f"{s.scans:,}") for s in statistics.splits]


def _median_bin(split: SplitStatistics) -> str:
    total = split.range_histogram.cumsum()
    if not total[-1]:
        return "-"
    place = int((total * 2 >= total[-1]).argmax())
    return _bin_name(place) + " m"


def _bin_name(place: int) -> str:
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


def _spread(spread: Spread) -> tuple[str, ...]:
    numbers = (spread.low, spread.median, spread.high, spread.mean)
    return tuple(f"{number:,.0f}" for number in numbers)
