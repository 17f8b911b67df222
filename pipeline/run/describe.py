"""Plans, checks and runs of `prepare` in words and as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pass2d.cache.clouds.nowhere import FARTHEST_M
from pass2d.common.progress import format_bytes, format_seconds
from pass2d.common.text import counted, listed
from pass2d.pipeline.problem import Problem
from pass2d.pipeline.run.plan import PreparePlan
from pass2d.pipeline.run.reasons import FOLLOWS, NEW
from pass2d.pipeline.run.summary import PrepareSummary

_MOST_NAMES = 10


def plan_lines(plan: PreparePlan) -> list[str]:
    """What `prepare` would do and why, grouped by container, sequence and reason."""
    groups = Counter((task.container, task.sequence, task.reason) for task in plan.tasks)
    lines = [
        f"{name:8} sequence {sequence}: {counted(count, 'shard')}: {reason}"
        for (name, sequence, reason), count in groups.items()
    ]
    lines += _left(plan)
    lines.append(
        f"{counted(len(plan.tasks), 'task')} to run, {len(plan.keys)} done; about "
        f"{format_bytes(plan.nbytes)} to write and {format_seconds(plan.seconds)} of CPU time"
    )
    return lines


def reason_lines(plan: PreparePlan) -> list[str]:
    """Why shards of an earlier run are made again; nothing of new ones."""
    places: dict[tuple[str, str], dict[str, int]] = {}
    for task in plan.tasks:
        if task.reason not in (NEW, FOLLOWS):
            shards = places.setdefault((task.container, task.reason), {})
            shards[task.sequence] = shards.get(task.sequence, 0) + 1
    return [
        f"{name} of {counted(sum(shards.values()), 'shard')} again "
        f"(sequence {', '.join(shards)}): {reason}"
        for (name, reason), shards in places.items()
    ] + _left(plan)


def _left(plan: PreparePlan) -> list[str]:
    """What of the last generation is left out, and what stays without having been looked at."""
    lines = []
    if plan.dropped:
        lines.append(f"{counted(len(plan.dropped), 'shard')} without scans now: left out")
    if plan.staying:
        more = ", ..." if len(plan.staying) > _MOST_NAMES else ""
        lines.append(
            "not listed now, kept in the cache as prepared: "
            f"{counted(len(plan.staying), 'sequence')} ({listed(plan.staying[:_MOST_NAMES])}{more})"
        )
    return lines


def plan_json(plan: PreparePlan) -> dict[str, object]:
    """What would run and why, for programs."""
    return {
        "tasks": [
            {
                "stage": task.container,
                "shard": task.shard,
                "sequence": task.sequence,
                "scans": task.scans,
                "reason": task.reason,
                "bytes": task.nbytes,
                "cpu_s": task.seconds,
            }
            for task in plan.tasks
        ],
        "done": len(plan.keys),
        "dropped": list(plan.dropped),
        "staying": list(plan.staying),
        "bytes": plan.nbytes,
        "cpu_s": plan.seconds,
    }


def problems_json(problems: Sequence[Problem]) -> dict[str, object]:
    """The findings of a check, for programs."""
    return {
        "errors": sum(problem.severity == "error" for problem in problems),
        "problems": [problem_json(problem) for problem in problems],
    }


def problem_json(problem: Problem) -> dict[str, object]:
    """One finding, for programs."""
    return {
        "file": str(problem.file),
        "found": problem.found,
        "expected": problem.expected,
        "remedy": problem.remedy,
        "severity": problem.severity,
    }


def summary_lines(summary: PrepareSummary) -> list[str]:
    """What a run of `prepare` did, for people."""
    slowest = summary.slowest_container
    dropped = summary.dropped_points
    without = f"; {dropped:,} not finite or beyond {FARTHEST_M:.0f} m dropped" if dropped else ""
    lines = [
        f"cache:     {summary.dataset_root} (generation {summary.generation})",
        f"scans:     {summary.scans:,} ({summary.scans_without_image:,} without image, "
        f"{summary.scans_without_label:,} without labels)",
        f"points:    {summary.points:,} ({summary.kept_points:,} in the volume){without}",
        f"size:      {format_bytes(summary.total_bytes)} "
        f"from {format_bytes(summary.source_bytes)} of source files",
        "fields:    "
        + ", ".join(f"{name} {format_bytes(size)}" for name, size in summary.field_bytes.items()),
        f"work:      {counted(summary.written_shards, 'shard')} written, "
        f"{summary.kept_shards} kept, in {format_seconds(summary.seconds)}",
    ]
    if slowest is not None:
        parts = sorted(summary.seconds_by_container, key=lambda one: -one.total)
        times = ", ".join(f"{one.container} {one.total:.1f} s" for one in parts)
        lines.append(f"stages:    {times} of CPU; the slowest is {slowest.container}")
    by_reason: dict[str, list[str]] = {}
    for failed in summary.failed:
        by_reason.setdefault(failed.reason, []).append(failed.scan_id)
    for reason, scan_ids in by_reason.items():
        more = f" and {len(scan_ids) - 1} more" if len(scan_ids) > 1 else ""
        lines.append(f"failed:    {scan_ids[0]}{more}: {reason}")
    if summary.failed:
        listed = f"{summary.dataset_root}/failed.jsonl"
        lines.append(
            f"{counted(len(summary.failed), 'scan')} failed; see {listed}, fix them and run again"
        )
    return lines


def summary_json(summary: PrepareSummary) -> dict[str, object]:
    """What a run of `prepare` did, for programs."""
    return {
        "cache": str(summary.dataset_root),
        "generation": summary.generation,
        "scans": summary.scans,
        "points": summary.points,
        "kept_points": summary.kept_points,
        "dropped_points": summary.dropped_points,
        "field_bytes": summary.field_bytes,
        "total_bytes": summary.total_bytes,
        "source_bytes": summary.source_bytes,
        "scans_without_image": summary.scans_without_image,
        "scans_without_label": summary.scans_without_label,
        "written_shards": summary.written_shards,
        "kept_shards": summary.kept_shards,
        "seconds": summary.seconds,
        "stage_cpu_s": {one.container: one.total for one in summary.seconds_by_container},
        "failed": [
            {"scan_id": failed.scan_id, "stage": failed.container, "reason": failed.reason}
            for failed in summary.failed
        ],
        "notes": list(summary.notes),
        "warnings": [
            {**problem_json(warned.first), "severity": "warning", "count": warned.times}
            for warned in summary.warned
        ],
    }
