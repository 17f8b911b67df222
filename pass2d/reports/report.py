"""Formats results for a terminal, as JSON and as a page.

A report is a file with a function `report`, which defines its contents, and a line in `REPORTS`.
The look of tables and pages is defined here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from pass2d.common.html import Cell, notes, page, section, table, tiles, write_page

REPORTS = {
    "DatasetStatistics": "pass2d.reports.statistics",
    "EvalReport": "pass2d.reports.evaluation",
    "RobustReport": "pass2d.reports.robustness",
}
"""Type of what is reported -> module whose function `report` makes a `Report` of it."""

_WIDEST_FIRST = 24
"""Characters of the first column that are not wrapped, however narrow the terminal is."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A table under its heading."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    align: str = "l"
    """"l" or "r" for each column; those after the last letter are aligned right."""
    strong: Sequence[int] = ()
    """Rows that stand out."""
    has_total: bool = False
    """Whether the last row sums up the others."""
    on_page: bool = True
    """Whether the page shows it, too."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The contents of a report."""

    title: str
    subtitle: str = ""
    tiles: Sequence[tuple[str, str]] = ()
    """Name and value of the key figures at the top of the page."""
    parts: Sequence[Part] = ()
    lines: Sequence[str] = ()
    """For the terminal, below the tables."""
    remarks: Sequence[str] = ()
    """Notes on how to read the numbers."""
    remark_style: str = ""
    """Of Rich, for the terminal."""
    charts: Callable[[], Sequence[str]] = tuple
    """Draws the page's last sections: HTML of charts and pictures."""
    data: dict[str, Any]
    """All of it as JSON has it."""


def report_of(result: object) -> Report:
    """Make the report of a result.

    Args:
        result: Of a type that ``REPORTS`` names.
    """
    made: Report = import_module(REPORTS[type(result).__name__]).report(result)
    return made


def report_json(result: object) -> dict[str, Any]:
    """Everything as plain data; shares 0..1, null where there is no number."""
    return report_of(result).data


def report_tables(result: object) -> tuple[Table | Text, ...]:
    """Rich renderables for a terminal."""
    report = report_of(result)
    return (
        *(_table_of(part) for part in report.parts),
        *(Text(line) for line in report.lines),
        *(Text(line, style=report.remark_style) for line in report.remarks),
    )


def write_html(result: object, path: Path) -> None:
    """Write a page that needs no other file and no network.

    Raises:
        DataError: It cannot be written there.
    """
    report = report_of(result)
    sections = [tiles(report.tiles), notes(report.remarks)]
    shown = [part for part in report.parts if part.on_page]
    sections += [section(part.heading, table(part.header, part.rows)) for part in shown]
    write_page(path, page(report.title, report.subtitle, [*sections, *report.charts()]))


def rich_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str | Cell]],
    *,
    align: str = "l",
) -> Table:
    """A table for a terminal; see ``Part``."""
    return _table_of(Part(heading=title, header=header, rows=rows, align=align))


def facts_table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Names and what stands for them, one below the other."""
    facts = Table(title=title, title_justify="left", show_header=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, text in rows:
        facts.add_row(Text(name), Text(text))
    return facts


def percent(share: float, *, decimals: int = 2) -> str:
    """0.0123 -> "1.23%"; tiny shares keep a digit, NaN is "-"."""
    if math.isnan(share):
        return "-"
    if share and abs(share) < 0.0001:
        return f"{100 * share:.1g}%"
    return f"{share:.{decimals}%}"


def plain_shares(values: Sequence[float]) -> list[float | None]:
    """Shares as JSON takes them: null for NaN."""
    return [None if math.isnan(value) else float(value) for value in values]


def _table_of(part: Part) -> Table:
    drawn = Table(title=part.heading, title_justify="left")
    aligned = part.align.ljust(len(part.header), "r")
    widest = max((_text(row[0]).cell_len for row in part.rows), default=0)
    for place, (name, side) in enumerate(zip(part.header, aligned, strict=True)):
        drawn.add_column(
            name,
            justify="left" if side == "l" else "right",
            overflow="fold",
            min_width=None if place else min(_WIDEST_FIRST, widest),
        )
    for place, row in enumerate(part.rows):
        drawn.add_row(
            *(_text(cell) for cell in row),
            style="bold" if place in part.strong else None,
            end_section=part.has_total and place == len(part.rows) - 2,
        )
    return drawn


def _text(cell: str | Cell) -> Text:
    """Never as markup: names of files and folders are anybody's."""
    if isinstance(cell, str):
        return Text(cell)
    if cell.color_rgb is None:
        return Text(cell.text)
    red, green, blue = cell.color_rgb
    # The ignored class is black, which a dark terminal would not show.
    style = f"rgb({red},{green},{blue})" if any(cell.color_rgb) else "default"
    return Text("■ ", style=style) + Text(cell.text)
