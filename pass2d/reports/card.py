"""`pass2d inspect CHECKPOINT`: a checkpoint's card, as tables and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from pass2d.common.plain import to_plain
from pass2d.common.progress import format_bytes
from pass2d.reports.report import facts_table, rich_table
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import card_notes, open_tensors, read_card
from pass2d.train.stacks.config import StackConfig

PERCENTILES = ("1 %", "5 %", "25 %", "50 %", "75 %", "95 %", "99 %")


def card_json(path: Path) -> dict[str, Any]:
    """The card and the file's sizes as plain data.

    Raises:
        CheckpointError: no readable checkpoint.
    """
    card = read_card(path)
    groups = _tensor_groups(path)
    return {
        "place": str(path),
        "kind": "checkpoint",
        "bytes": path.stat().st_size,
        "tensors": {name: {"tensors": n, "numbers": size} for name, n, size in groups},
        "card": to_plain(card),
    }


def card_tables(path: Path) -> list[Table | Text]:
    """Rich renderables: architecture, scores, training data.

    Raises:
        CheckpointError: no readable checkpoint.
    """
    card = read_card(path)
    table = facts_table(f"checkpoint {path}", _facts(card, path))
    notes = [Text(f"{path}: {note}") for note in card_notes(path)]
    return [table, *([_statistics(card)] if card.input_statistics else []), *notes]


def _facts(card: Card, path: Path) -> list[tuple[str, str]]:
    info, grid = card.info, card.info.grid
    volume = ", ".join(
        f"{axis} {low:g} to {high:g} m"
        for axis, low, high in zip("xyz", grid.low, grid.high, strict=True)
    )
    tensors = ", ".join(
        f"{name}: {n:,} tensors, {size:,} numbers" for name, n, size in _tensor_groups(path)
    )
    shown = {name: f"{value:.4f}".rstrip("0").rstrip(".") for name, value in card.metrics.items()}
    return [
        ("architecture", card.architecture),
        ("settings", ", ".join(f"{name}={value}" for name, value in card.settings.items())),
        ("holds", f"{card.holds}; {format_bytes(path.stat().st_size)}"),
        ("tensors", tensors),
        ("metrics", ", ".join(f"{name} {text}" for name, text in shown.items()) or "none"),
        *((f"from: {name}", text) for name, text in card.provenance.items()),
        ("data set", f"{info.name}, layout {info.layout}, signal {info.signal_name}"),
        ("classes", f"{info.labels.n_classes - 1}: {', '.join(info.labels.names[1:])}"),
        ("volume", volume),
        ("grid", " x ".join(str(cells) for cells in grid.shape) + " cells at scale 1"),
        ("point channels", ", ".join(card.preprocessing.point_channels)),
        ("scans together", _stack(card.stack)),
        ("points outside", "left out" if card.preprocessing.in_volume_only else "seen, too"),
    ]


def _statistics(card: Card) -> Table:
    rows = []
    for name, channel in (card.input_statistics or {}).items():
        numbers = (channel.mean, channel.std, *channel.percentiles)
        rows.append([name.replace("_", " "), *(f"{number:,.4g}" for number in numbers)])
    return rich_table("what it was trained on", ("channel", "mean", "std", *PERCENTILES), rows)


def _tensor_groups(path: Path) -> list[tuple[str, int, int]]:
    """Name, tensors and numbers of each group ("network", "optimizer", ...)."""
    counts: dict[str, list[int]] = {}
    with open_tensors(path) as file:
        for name in file.keys():  # noqa: SIM118  # it is no dict
            size = 1
            for length in file.get_slice(name).get_shape():
                size *= length
            counts.setdefault(name.split(".", 1)[0], []).append(size)
    return [(name, len(sizes), sum(sizes)) for name, sizes in counts.items()]


def _stack(stack: StackConfig) -> str:
    """E.g. "the scan and 2 before it, time: lag"."""
    if not stack.past:
        return "each by itself"
    every = "" if stack.stride == 1 else f", every {stack.stride}th"
    return f"the scan and {stack.past} before it{every}; points: {stack.points}; time: {stack.time}"
