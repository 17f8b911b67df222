"""A robustness report, and its `summary.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pass2d.common.errors import ConfigError
from pass2d.common.files import whole_file, writing
from pass2d.corruptions.registry import COLLECTION
from pass2d.reports.report import Part, Report, percent, plain_shares
from pass2d.train.robustness.robo3d import CORRUPTIONS
from pass2d.train.robustness.run import RobustReport, SetResult

SUMMARY_FILE = "summary.csv"
COLUMNS = (
    "set",
    "corruption",
    "severity",
    "scans",
    "miou_official",
    "accuracy_official",
    "accuracy_official_misses_counted",
    "miou_published",
    "accuracy_published",
    "points",
)
_HEAD = ",".join(COLUMNS[:3]).encode()


def rows(report: RobustReport) -> Iterator[dict[str, Any]]:
    """One row per corruption and severity, then one mean per corruption with several."""
    grouped: dict[str, list[SetResult]] = {}
    for result in report.results:
        grouped.setdefault(result.corruption, []).append(result)
    for corruption, results in grouped.items():
        found = [_row(report, result) for result in results if result.scans]
        yield from found
        if len(found) > 1:
            yield {
                "set": report.set_name,
                "corruption": corruption,
                "severity": "mean",
                "scans": sum(row["scans"] for row in found),
                **{key: sum(r[key] for r in found) / len(found) for key in COLUMNS[4:9]},
                "points": sum(row["points"] for row in found),
            }


def _row(report: RobustReport, result: SetResult) -> dict[str, Any]:
    official, published = report.scores_of(result)
    return {
        "set": report.set_name,
        "corruption": result.corruption,
        "severity": result.severity,
        "scans": result.scans,
        "miou_official": official.miou,
        "accuracy_official": official.accuracy,
        "accuracy_official_misses_counted": official.accuracy_with_misses,
        "miou_published": published.miou,
        "accuracy_published": published.accuracy,
        "points": official.points,
    }


def summary_csv(report: RobustReport) -> bytes:
    """The rows, and mCE and mRR at the end; shares 0..1, as all of pass2d's files."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(report):
        writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})
    for name, value in (("mCE", report.scores.mce), ("mRR", report.scores.mrr)):
        if value is not None:
            writer.writerow(
                {"set": report.set_name, "corruption": name, "miou_official": f"{value:.6f}"}
            )
    return text.getvalue().encode()


def require_own_summary(folder: Path) -> None:
    """Refuse, before the work, a folder whose ``summary.csv`` is of something else.

    Raises:
        ConfigError: It would be replaced.
    """
    path = folder / SUMMARY_FILE
    try:
        with path.open("rb") as file:
            head = file.read(len(_HEAD))
    except OSError:
        return
    if head not in (_HEAD, b""):
        raise ConfigError(f"{path}: not written by pass2d, and in the way. Choose another `out`.")


def write_summary(report: RobustReport, folder: Path) -> Path:
    """Write `summary.csv` into a folder.

    Raises:
        CacheError: The disk is full, or the folder may not be written.
    """
    path = folder / SUMMARY_FILE
    with writing(path), whole_file(path) as aside:
        aside.write_bytes(summary_csv(report))
    return path


def report(result: RobustReport) -> Report:
    """The contents of a robustness report."""
    table = list(rows(result))
    return Report(
        title=f"{result.set_name}: {result.info.name}, {result.votes}",
        subtitle=result.checkpoint,
        parts=[
            Part(
                heading=f"{result.set_name}: {result.info.name}, {result.votes}",
                header=("corruption", "severity", "mIoU official", "mIoU published",
                        "accuracy official", "accuracy published", "baseline mIoU", "scans"),
                rows=[_cells(row, result) for row in table],
                align="ll",
                strong=[i for i, row in enumerate(table) if _is_whole(row)],
            )
        ],
        remarks=remarks(result),
        data=_json(result),
    )  # fmt: skip


def _is_whole(row: dict[str, Any]) -> bool:
    return row["severity"] in ("", "mean")


def _cells(row: dict[str, Any], report: RobustReport) -> list[str]:
    known = report.baseline.get(row["corruption"]) if _is_whole(row) else None
    names = ("miou_official", "miou_published", "accuracy_official", "accuracy_published")
    return [
        row["corruption"],
        row["severity"],
        *(percent(row[name], decimals=1) for name in names),
        "" if known is None else percent(known, decimals=1),
        f"{row['scans']:,}",
    ]


def _json(report: RobustReport) -> dict[str, Any]:
    return {
        "set": report.set_name,
        "dataset": report.info.name,
        "checkpoint": report.checkpoint,
        "votes": report.votes,
        "outside": report.outside,
        "protocol": "official",
        "results": [
            {**row, "iou_official": plain_shares(report.scores_of(result)[0].iou.tolist())}
            for result in report.results
            if result.scans
            for row in [_row(report, result)]
        ],
        "clean_miou": report.clean_miou,
        "clean_source": report.clean_source,
        "mce": report.scores.mce,
        "mrr": report.scores.mrr,
        "scored_corruptions": list(report.scores.corruptions),
        "limit": report.limit,
        "is_complete": report.is_complete,
        "failed": list(report.failed),
    }


def remarks(report: RobustReport) -> list[str]:
    """MCE and mRR, and what they are over."""
    scores, lines = report.scores, []
    if report.set_name == COLLECTION:
        lines.append(
            f"{COLLECTION} is made by pass2d from published physics: its scores are not published "
            "ones, and the baseline's are of Robo3D's own set. Compare checkpoints with each other."
        )
    if not report.baseline:
        lines.append(
            "no mCE: Robo3D's baseline was not measured on this set, whose fog and snow differ"
        )
    partial = _partial(report)
    if scores.mce is not None:
        whose = "Robo3D's MinkUNet-18 is 100 %"
        if report.set_name == COLLECTION:
            whose = f"of {COLLECTION}; {whose} on Robo3D's own set"
        lines.append(f"mCE {scores.mce:.2%} ({whose}{partial})")
    if scores.mrr is not None:
        lines.append(
            f"mRR {scores.mrr:.2%}, against {report.clean_miou:.1%} clean ({report.clean_source}"
            f"{partial})"
        )
    if report.clean_miou is None:
        lines.append(
            "mRR needs the score without corruption, from a prepared clean data set (`clean`)"
        )
    if report.baseline and scores.mce is None:
        lines.append(f"mCE and mRR need Robo3D's corruptions: {', '.join(CORRUPTIONS)}")
    if report.failed:
        lines.append(f"{len(report.failed)} scans could not be used and are left out")
    return lines


def _partial(report: RobustReport) -> str:
    """Why the scores are not the benchmark's, to put behind them; "" when they are."""
    scores, reasons = report.scores, []
    if report.baseline and len(scores.corruptions) < len(CORRUPTIONS):
        reasons.append(f"over {', '.join(scores.corruptions)} only")
    if scores.incomplete:
        reasons.append(f"severities missing of {', '.join(scores.incomplete)}")
    if report.limit is not None:
        reasons.append(f"of each at most {report.limit} scans")
    if report.failed:
        reasons.append(f"{len(report.failed)} scans left out")
    partial = f", PARTIAL: {'; '.join(reasons)}" if reasons else ""
    return partial if report.baseline else f", over {len(scores.corruptions)} corruptions{partial}"
