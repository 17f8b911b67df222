"""`pass2d stats --html`: the statistics of a prepared data set as one page that opens offline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pass2d.cache.statistics import RANGE_EDGES_M, DatasetStatistics, SplitStatistics
from pass2d.common.html import (
    Cell,
    column_chart,
    compact,
    notes,
    page,
    section,
    table,
    tiles,
    write_page,
)
from pass2d.reports.statistics import (
    POINT_COLUMNS,
    SCAN_COLUMNS,
    bin_name,
    labelled_splits,
    percent,
    point_cells,
    remarks,
    scan_cells,
)


def write_html(statistics: DatasetStatistics, path: Path) -> None:
    """Write a page that needs no other file and no network.

    Raises:
        DataError: It cannot be written there.
    """
    info = statistics.info
    labelled = labelled_splits(statistics)
    sections = [tiles(_headline(statistics)), notes(remarks(statistics))]
    if labelled:
        sections.append(section("Classes", _class_html(statistics, labelled)))
    sections.append(section("Scans", _scan_html(statistics)))
    for split in statistics.splits:
        sections += _charts(split)
    volume = ", ".join(
        f"{axis} {low:g} to {high:g} m"
        for axis, low, high in zip("xyz", info.grid.low, info.grid.high, strict=True)
    )
    subtitle = f"{info.labels.n_classes - 1} classes; volume {volume}"
    write_page(path, page(f"pass2d: {info.name}", subtitle, sections))


def _charts(split: SplitStatistics) -> list[str]:
    names, counts = zip(*split.scans_per_sequence, strict=True)
    labels = [bin_name(place) for place in range(len(RANGE_EDGES_M))]
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


def _class_html(statistics: DatasetStatistics, labelled: Sequence[SplitStatistics]) -> str:
    labels = statistics.info.labels
    header = ["class"]
    for split in labelled:
        header += [f"{split.split} share (bar: log)", "points", "weight"]
    rows: list[list[str | Cell]] = []
    for c, name in enumerate(labels.names):
        row: list[str | Cell] = [Cell(text=name, color_rgb=labels.colors_rgb[c])]
        for split in labelled:
            share = float(split.class_shares[c])
            row.append(Cell(text=percent(share), bar=_log_length(share)))
            row.append(f"{split.class_counts[c]:,}")
            row.append(f"{split.class_weights[c]:.3f}" if c else "ignored")
        rows.append(row)
    return table(header, rows)


def _log_length(share: float) -> float:
    """0 for 1e-5 and below, 1 for all: on a linear bar the rare classes would vanish."""
    return max(0.0, 1 + math.log10(share) / 5) if share else 0.0


def _scan_html(statistics: DatasetStatistics) -> str:
    points = [row for split in statistics.splits for row in point_cells(split)]
    return table(SCAN_COLUMNS, [scan_cells(split) for split in statistics.splits]) + table(
        POINT_COLUMNS, points
    )
