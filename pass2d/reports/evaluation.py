"""An evaluation: scores by both protocols, IoU per class, ranges, scans, confusion."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from pass2d.common.html import Cell, picture, section
from pass2d.reports.report import Part, Report, percent, plain_shares
from pass2d.train.evaluation.counts import (
    BAND_NAMES,
    EvalReport,
    PassResult,
    ScanScore,
    TaskResult,
)
from pass2d.train.evaluation.pictures import confusion
from pass2d.train.inference.metric import Scores

LISTED_SCANS = 5
"""Worst and best scans in tables and pages; the JSON has all."""

Rows = tuple[list[str], list[list[str | Cell]]]
"""Header and rows of a table."""


def report(result: EvalReport) -> Report:
    """The contents of an evaluation's report."""
    best = result.best
    there = "(official, classes labelled or predicted there)"
    return Report(
        title=f"pass2d: {result.info.name} {result.split}",
        subtitle=result.checkpoint,
        tiles=[
            *_ranked_tiles(best),
            ("mIoU (published)", percent(best.published.miou)),
            ("accuracy (official)", percent(best.official.accuracy)),
            ("votes", best.votes),
            ("scans", f"{result.scans:,}"),
        ],
        parts=[
            _part("scores", score_rows(result)),
            *([_part("tasks (official)", task_rows(best))] if len(task_rows(best)[1]) > 1 else []),
            _part("IoU per class", class_rows(result), has_total=True),
            *(
                _part(f"IoU per class, {other.task.title}", task_class_rows(other), has_total=True)
                for other in best.tasks[1:]
            ),
            _part(f"by range {there}", range_rows(result)),
            _part(f"scans, the worst first {there}", scan_rows(result)),
        ],
        remarks=remarks(result),
        charts=lambda: [_confusion(result)],
        data=_json(result),
    )


def _ranked_tiles(best: PassResult) -> list[tuple[str, str]]:
    tiles = [("mIoU (official)", percent(best.official.miou))]
    for result in best.tasks:
        if result.task.ranked:
            name = result.task.labels.names[result.task.ranked]
            tiles.append((f"IoU of {name} (official)", percent(result.ranked)))
    return tiles


def _part(heading: str, rows: Rows, *, has_total: bool = False) -> Part:
    return Part(heading=heading, header=rows[0], rows=rows[1], has_total=has_total)


def _confusion(report: EvalReport) -> str:
    png = io.BytesIO()
    confusion(report).save(png, format="PNG")
    return section("Confusion", picture(png.getvalue(), alt="Which class is mistaken for which"))


def _json(report: EvalReport) -> dict[str, Any]:
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
        "task": report.best.tasks[0].task.name,
        "tasks": {result.task.name: _task_json(result) for result in report.best.tasks},
        "passes": [_pass_json(result, report) for result in report.passes],
    }


def score_rows(report: EvalReport) -> Rows:
    """Both protocols side by side, with and without votes."""
    header = ["protocol", "votes", "mIoU", "accuracy", "misses counted", "points", "missed"]
    rows: list[list[str | Cell]] = [
        [
            scores.protocol,
            result.votes,
            percent(scores.miou),
            percent(scores.accuracy),
            percent(scores.accuracy_with_misses),
            f"{scores.points:,}",
            f"{scores.missed:,}",
        ]
        for result in report.passes
        for scores in (result.official, result.published)
    ]
    return header, rows


def class_rows(report: EvalReport) -> Rows:
    """One row per class but the ignored one, and the mean."""
    header, columns = ["class", "points"], []
    for result in report.passes:
        suffix = "" if result is report.passes[0] else f", {result.votes}"
        header += [f"official{suffix}", f"published{suffix}"]
        columns += [result.official, result.published]
    points = report.best.confusion.sum(axis=1)
    rows: list[list[str | Cell]] = [
        [
            Cell(text=name, color_rgb=report.info.labels.colors_rgb[c]),
            f"{points[c]:,}",
            *(percent(float(scores.iou[c])) for scores in columns),
        ]
        for c, name in enumerate(report.info.labels.names)
        if c
    ]
    means = [percent(scores.miou) for scores in columns]
    return header, [*rows, ["mean", f"{points[1:].sum():,}", *means]]


def task_rows(best: PassResult) -> Rows:
    """The scores of each task, and of the groups of classes that are reported separately."""
    header = ["task", "classes", "IoU", "accuracy", "points"]
    rows: list[list[str | Cell]] = []
    for result in best.tasks:
        task, scores = result.task, result.official
        ranked = task.labels.names[task.ranked] if task.ranked else f"all {task.n_classes - 1}"
        rows.append(
            [
                f"{task.name}: {task.title}",
                ranked,
                percent(result.ranked),
                percent(scores.accuracy),
                f"{scores.points:,}",
            ]
        )
        points = result.confusion.sum(axis=1)
        for name, mean in result.groups().items():
            ids = list(task.groups[name])
            shown = ", ".join(task.labels.names[c] for c in ids) if len(ids) < 4 else f"{len(ids)}"
            rows.append(
                [f"{task.name}: {name}", shown, percent(mean), "", f"{points[ids].sum():,}"]
            )
    return header, rows


def task_class_rows(result: TaskResult) -> Rows:
    """One row per class of a task but the ignored one, and the mean."""
    labels, points = result.task.labels, result.confusion.sum(axis=1)
    rows: list[list[str | Cell]] = [
        [
            Cell(text=name, color_rgb=labels.colors_rgb[c]),
            f"{points[c]:,}",
            percent(float(result.official.iou[c])),
        ]
        for c, name in enumerate(labels.names)
        if c
    ]
    mean = percent(result.official.miou)
    return ["class", "points", "official"], [*rows, ["mean", f"{points[1:].sum():,}", mean]]


def range_rows(report: EvalReport) -> Rows:
    """One row per range band."""
    header = ["range", "points", *(f"mIoU, {result.votes}" for result in report.passes), "accuracy"]
    rows: list[list[str | Cell]] = []
    for place, name in enumerate(BAND_NAMES):
        bands = [result.by_range[place] for result in report.passes]
        if bands[-1].points:
            scores = [percent(band.miou) for band in bands]
            accuracy = percent(bands[-1].accuracy_with_misses)
            rows.append([name, f"{bands[-1].points:,}", *scores, accuracy])
    return header, rows


def scan_rows(report: EvalReport) -> Rows:
    """The worst and the best scans."""
    header = ["scan", "mIoU", "accuracy", "points"]
    scans = report.best.scans
    if len(scans) <= 2 * LISTED_SCANS:
        return header, [_scan_row(scan) for scan in scans]
    gap: list[list[str | Cell]] = [["...", "", "", ""]]
    worst, best = scans[:LISTED_SCANS], scans[-LISTED_SCANS:]
    return header, [*map(_scan_row, worst), *gap, *map(_scan_row, best)]


def remarks(report: EvalReport) -> tuple[str, ...]:
    """Notes on how to read the numbers."""
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
            f"{gain:+z.2f} points of mIoU against leaving them without one."
        )
    elif report.outside == "ignore":
        lines.append("Points outside the volume got no prediction: they are misses.")
    counts_zero = report.info.facts.absent_counts_zero
    absent = [report.info.labels.names[c] for c in best.official.absent]
    if absent:
        rule = "counts absent classes as 0" if counts_zero else "leaves absent classes out"
        other = "leaves them out" if counts_zero else "too"
        lines.append(f"official {rule}, published {other}: {', '.join(absent)}.")
    if report.scans_without_label:
        lines.append(f"{report.scans_without_label:,} scans without labels were left out.")
    return tuple(lines)


def _scan_row(scan: ScanScore) -> list[str | Cell]:
    return [scan.scan_id, percent(scan.miou), percent(scan.accuracy), f"{scan.points:,}"]


def _pass_json(result: PassResult, report: EvalReport) -> dict[str, Any]:
    names = report.info.labels.names
    return {
        "votes": result.votes,
        "official": _scores_json(result.official, names),
        "published": _scores_json(result.published, names),
        "miou_outside_ignored": result.miou_outside_ignored,
        "by_range": [
            {"range": name, **_scores_json(scores, names)}
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


def _task_json(result: TaskResult) -> dict[str, Any]:
    task = result.task
    return {
        "title": task.title,
        "ranked": result.ranked,
        **_scores_json(result.official, task.labels.names),
        "groups": {
            name: {"classes": [task.labels.names[c] for c in task.groups[name]], "miou": mean}
            for name, mean in zip(
                result.groups(), plain_shares(list(result.groups().values())), strict=True
            )
        },
        "confusion": result.confusion.tolist(),
    }


def _scores_json(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    return {
        "protocol": scores.protocol,
        "miou": scores.miou,
        "accuracy": scores.accuracy,
        "accuracy_with_misses": scores.accuracy_with_misses,
        "points": scores.points,
        "missed": scores.missed,
        "iou": dict(zip(names[1:], plain_shares(scores.iou[1:].tolist()), strict=True)),
        "absent_classes": [names[c] for c in scores.absent],
    }
