"""`pass2d predict` of a ROS recording."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pass2d.commands.console import print_json
from pass2d.common.errors import ConfigError
from pass2d.common.text import counted

if TYPE_CHECKING:
    from pass2d.train.prediction.bag import BagSummary


def refuse_options(**given: bool) -> None:
    """Refuse options that do not apply to recordings.

    Args:
        given: Whether each was given, by its name with _ for -.

    Raises:
        ConfigError: One was.
    """
    for name, is_given in given.items():
        if is_given:
            raise ConfigError(
                f"--{name.replace('_', '-')} applies only to point files: the result for a "
                "recording is a recording"
            )


def print_bag(summary: BagSummary, *, as_json: bool) -> None:
    """Print what was done."""
    if as_json:
        print_json(_bag_json(summary))
        return
    copied = sum(summary.copied.values())
    topics = counted(len(summary.copied), "other topic")
    others = f", {counted(copied, 'message')} of {topics} copied as they are"
    typer.echo(
        f"{summary.out}: {summary.scans:,} scans of {summary.topic}, {summary.points:,} points "
        f"labelled ({', '.join(summary.fields)}), {summary.scans_per_s:.1f} scans/s"
        f"{others if summary.copied else ''}"
    )


def _bag_json(summary: BagSummary) -> dict[str, Any]:
    return {
        "out": str(summary.out),
        "topic": summary.topic,
        "fields": list(summary.fields),
        "scans": summary.scans,
        "points": summary.points,
        "class_points": dict(zip(summary.names, summary.class_points.tolist(), strict=True)),
        "copied": summary.copied,
        "seconds": summary.seconds,
        "scans_per_s": summary.scans_per_s,
        "notes": list(summary.notes),
        "warnings": [asdict(one) for one in summary.warnings],
    }


def bag_target(source: Path, out: Path | None, default: Path) -> Path:
    """Where the copy goes: what --out names, or the default folder by the recording's name."""
    from pass2d.points.bags.bag import copy_path

    return default / source.name if out is None else copy_path(source, out)
