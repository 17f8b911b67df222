"""An evaluation as tables, JSON, a page and a picture of its confusion matrix."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from pass2d.common.html import Cell, notes, page, picture, section, table, tiles, write_page
from pass2d.train.evaluation.confusion import confusion
from pass2d.train.evaluation.counts import BAND_NAMES, EvalReport, PassResult, ScanScore
from pass2d.train.inference.metric import Scores

LISTED_SCANS = 5
"""Worst and best scans in tables and pages; the JSON has all."""


def report_tables(report: EvalReport) -> tuple[Table | Text, ...]:
    """Rich renderables for a terminal: scores by both protocols, IoU per class, ranges, scans."""
    return (
        _table("scores", *score_rows(report)),
        _table("IoU per class in percent", *class_rows(report), colors=_colors(report)),
        _table("by range (official, classes labelled or predicted there)", *range_rows(report)),
        _table(
            "scans, the worst first (official, classes labelled or predicted there)",
            *scan_rows(report),
        ),
        *(Text(line) for line in remarks(report)),
    )


def report_json(report: EvalReport) -> dict[str, Any]:
    """Everything as plain data; shares 0..1, null where a class is left out."""
    return {
        "dataset": report.info.name,
        "checkpoint": report.checkpoint,
        "architecture": report.architecture,
        "split": report.split,
        "outside": report.outside,
        "scans": report.scans,
        "scans_without_label": report.scans_without_label,
        "seconds": report.seconds,
        "scans_per_s": report.scans / max(report.seconds, 1e-9),
        "class_names": list(report.info.labels.names),
        "protocol": "official",
        "miou": report.best.official.miou,
        "accuracy": report.best.official.accuracy,
        "passes": [_pass_json(result, report) for result in report.passes],
    }


def write_html(report: EvalReport, path: Path) -> None:
    """Write a page that needs no other file and no network.

    Raises:
        DataError: It cannot be written there.
    """
    best = report.best
    png = io.BytesIO()
    confusion(report).save(png, format="PNG")
    header, rows = class_rows(report)
    named: list[list[str | Cell]] = [
        [Cell(text=row[0], color_rgb=color), *row[1:]]
        for row, color in zip(rows, _colors(report), strict=True)
    ]
    headline = [
        ("mIoU (official)", _percent(best.official.miou)),
        ("mIoU (published)", _percent(best.published.miou)),
        ("accuracy (official)", _percent(best.official.accuracy)),
        ("votes", best.votes),
        ("scans", f"{report.scans:,}"),
    ]
    sections = [
        tiles(headline),
        section("Scores", table(*score_rows(report)), notes(remarks(report))),
        section("IoU per class in percent", table(header, named)),
        section(
            "By range (official, classes labelled or predicted there)", table(*range_rows(report))
        ),
        section(
            "Scans, the worst first (official, classes labelled or predicted there)",
            table(*scan_rows(report)),
        ),
        section("Confusion", picture(png.getvalue(), alt="Which class is taken for which")),
    ]
    title = f"pass2d: {report.info.name} {report.split}"
    write_page(path, page(title, report.checkpoint, sections))


def score_rows(report: EvalReport) -> tuple[list[str], list[list[str]]]:
    """Both protocols side by side, with and without votes."""
    header = ["protocol", "votes", "mIoU", "accuracy", "misses counted", "points", "missed"]
    rows = [
        [
            scores.protocol,
            result.votes,
            _percent(scores.miou),
            _percent(scores.accuracy),
            _percent(scores.accuracy_with_misses),
            f"{scores.points:,}",
            f"{scores.missed:,}",
        ]
        for result in report.passes
        for scores in (result.official, result.published)
    ]
    return header, rows


def class_rows(report: EvalReport) -> tuple[list[str], list[list[str]]]:
    """One row per class but the ignored one, and the mean."""
    header, columns = ["class", "points"], []
    for result in report.passes:
        suffix = "" if result is report.passes[0] else f", {result.votes}"
        header += [f"official{suffix}", f"published{suffix}"]
        columns += [result.official, result.published]
    points = report.best.confusion.sum(axis=1)
    rows = [
        [name, f"{points[c]:,}", *(_iou(float(scores.iou[c])) for scores in columns)]
        for c, name in enumerate(report.info.labels.names)
        if c
    ]
    means = [_iou(scores.miou) for scores in columns]
    return header, [*rows, ["mean", f"{points[1:].sum():,}", *means]]


def range_rows(report: EvalReport) -> tuple[list[str], list[list[str]]]:
    """One row per range band."""
    header = ["range", "points", *(f"mIoU, {result.votes}" for result in report.passes), "accuracy"]
    rows = []
    for place, name in enumerate(BAND_NAMES):
        bands = [result.by_range[place] for result in report.passes]
        if bands[-1].points:
            scores = [_percent(band.miou) for band in bands]
            accuracy = _percent(bands[-1].accuracy_with_misses)
            rows.append([name, f"{bands[-1].points:,}", *scores, accuracy])
    return header, rows


def scan_rows(report: EvalReport) -> tuple[list[str], list[list[str]]]:
    """The worst and the best scans."""
    header = ["scan", "mIoU", "accuracy", "points"]
    scans = report.best.scans
    if len(scans) <= 2 * LISTED_SCANS:
        return header, [_scan_row(scan) for scan in scans]
    gap = [["...", "", "", ""]]
    worst, best = scans[:LISTED_SCANS], scans[-LISTED_SCANS:]
    return header, [*map(_scan_row, worst), *gap, *map(_scan_row, best)]


def remarks(report: EvalReport) -> tuple[str, ...]:
    """What one must know to read the numbers."""
    best = report.best
    lines = [
        f"{report.scans:,} scans of {report.info.name} {report.split} in {report.seconds:.1f} s, "
        f"{report.scans / max(report.seconds, 1e-9):.2f} scans/s.",
        "official: every labelled point counts, one without a prediction is a miss. published: as "
        "the published code; for mIoU only points with a prediction of the network other than 0 "
        "count.",
        "accuracy, official: of the labelled points with a prediction, as the SemanticKITTI tools; "
        "published: of all raw points, those without label or prediction too. Misses counted: of "
        "all labelled points.",
    ]
    if report.outside == "nearest":
        gain = 100 * (best.official.miou - best.miou_outside_ignored)
        lines.append(
            "Points outside the volume took the label of the nearest predicted point: "
            f"{gain:+.2f} points of mIoU against leaving them without (--outside ignore)."
        )
    elif report.outside == "ignore":
        lines.append("Points outside the volume got no prediction: misses (--outside nearest).")
    is_kitti = report.info.layout == "semantickitti"
    absent = [report.info.labels.names[c] for c in best.official.absent]
    if absent:
        rule = "counts absent classes as 0" if is_kitti else "leaves absent classes out"
        other = "leaves them out" if is_kitti else "too"
        lines.append(f"official {rule}, published {other}: {', '.join(absent)}.")
    if report.scans_without_label:
        lines.append(f"{report.scans_without_label:,} scans without labels were left out.")
    return tuple(lines)


def _table(
    title: str,
    header: list[str],
    rows: list[list[str]],
    *,
    colors: list[tuple[int, int, int] | None] | None = None,
) -> Table:
    result = Table(title=title, title_justify="left")
    for place, column in enumerate(header):
        result.add_column(column, justify="right" if place else "left")
    for place, row in enumerate(rows):
        color = colors[place] if colors else None
        mark = Text("■ ", style=f"rgb({color[0]},{color[1]},{color[2]})") if color else Text("")
        result.add_row(mark + Text(row[0]), *row[1:], end_section=bool(colors) and row is rows[-2])
    return result


def _colors(report: EvalReport) -> list[tuple[int, int, int] | None]:
    """Of the rows of ``class_rows``."""
    return [*report.info.labels.colors_rgb[1:], None]


def _scan_row(scan: ScanScore) -> list[str]:
    return [scan.scan_id, _percent(scan.miou), _percent(scan.accuracy), f"{scan.points:,}"]


def _pass_json(result: PassResult, report: EvalReport) -> dict[str, Any]:
    return {
        "votes": result.votes,
        "official": _scores_json(result.official, report),
        "published": _scores_json(result.published, report),
        "miou_outside_ignored": result.miou_outside_ignored,
        "by_range": [
            {"range": name, **_scores_json(scores, report)}
            for name, scores in zip(BAND_NAMES, result.by_range, strict=True)
        ],
        "scans": [
            {
                "scan_id": scan.scan_id,
                "miou": scan.miou,
                "accuracy": scan.accuracy,
                "points": scan.points,
            }
            for scan in result.scans
        ],
        "confusion": result.confusion.tolist(),
    }


def _scores_json(scores: Scores, report: EvalReport) -> dict[str, Any]:
    names = report.info.labels.names
    return {
        "protocol": scores.protocol,
        "miou": scores.miou,
        "accuracy": scores.accuracy,
        "accuracy_with_misses": scores.accuracy_with_misses,
        "points": scores.points,
        "missed": scores.missed,
        "iou": dict(zip(names[1:], _optional(scores.iou[1:]), strict=True)),
        "absent_classes": [names[c] for c in scores.absent],
    }


def _optional(values: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _iou(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _percent(share: float) -> str:
    return f"{share:.2%}"
