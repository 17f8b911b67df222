"""The table as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bench.gpu.machine import DEVICE
from bench.gpu.setup import Row, Setup

_REACHED = {None: "", True: "yes", False: "no"}


def markdown(rows: Sequence[Row], setup: Setup) -> str:
    """What the part `machine` found stands above the table, all else in it."""
    facts = [row for row in rows if row.part == "machine" and row.is_reached is None]
    known = {row.what: row.measured for row in facts}
    device = known.pop(DEVICE, f"{setup.device}, of which nothing is known")
    is_real = setup.is_cuda and not setup.is_small
    title = f"On a GPU: {device}" if is_real else f"Rehearsal of `bench.gpu` on {device}"
    said = "; ".join(f"{name} {value}" for name, value in known.items() if value)
    lines = [f"## {title}", "", f"`python -m bench.gpu`; {said}"]
    if setup.is_small:
        lines += ["", "Tiny networks and scans: this shows that every part runs, and no speed."]
    elif not setup.is_cuda:
        lines += [
            "",
            "Not on a GPU: nothing here can be held against a goal or an estimate of one.",
        ]
    lines += ["", "| part | what | measured | goal, estimate or other side | goal reached |"]
    lines += ["|---|---|---|---|---|"]
    for row in rows:
        cells = (row.part, row.what, row.measured, row.beside, _REACHED[row.is_reached])
        if row not in facts:
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
