"""Self-contained HTML pages: tables, bars, charts as inline SVG; work offline and in dark mode.

Here because the reports of `pipeline` and of `train` both use it and may share only this package.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as html_escape
from pathlib import Path

from pass2d.common.errors import ConfigError
from pass2d.common.files import written_whole
from pass2d.common.text import printable

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #667085; --line: #e3e6eb; --paper: #fff;
  --card: #f7f8fa; --bar: #3f6fd8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #98a1b0; --line: #2d323b;
  --paper: #14161a; --card: #1c1f25; --bar: #6c97f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 24px 64px; background: var(--paper);
  color: var(--ink); font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 17px; margin: 36px 0 10px; }
p.sub { color: var(--soft); margin: 4px 0 20px; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 16px; min-width: 130px; }
.tile b { display: block; font-size: 20px; font-weight: 600; }
.tile span { color: var(--soft); font-size: 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th { text-align: right; font-weight: 500; color: var(--soft); font-size: 12px; }
td { text-align: right; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 8px;
  border: 1px solid var(--line); vertical-align: -1px; }
.track { display: inline-block; width: 120px; height: 8px; border-radius: 4px;
  background: var(--card); margin-right: 8px; text-align: left; }
.track i { display: block; height: 8px; border-radius: 4px; background: var(--bar); }
.amount { display: inline-block; min-width: 56px; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .bar { fill: var(--bar); } svg .axis { stroke: var(--line); }
ul.notes { padding-left: 18px; } img { max-width: 100%; border-radius: 10px; }
"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A table cell with more than text."""

    text: str
    color_rgb: tuple[int, int, int] | None = None
    """Of a swatch before the text."""
    bar: float | None = None
    """0..1: length of a bar before the text."""


def escape(text: str) -> str:
    """Escape text for HTML, in or between tags: used for all strings from files."""
    return html_escape(printable(text))


def script_json(value: object) -> str:
    """JSON that is safe in a script element: nothing in it ends or hides what follows.

    A browser reads "<!--" and "<script" in there as the start of something else.
    """
    text = json.dumps(value, allow_nan=False)  # ASCII: U+2028 and lone surrogates are escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """A whole page from its sections, which are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="sub">{escape(subtitle)}</p>{"".join(sections)}</body></html>\n'
    )


def section(heading: str, *parts: str) -> str:
    """A heading and what stands below it."""
    return f"<h2>{escape(heading)}</h2>{''.join(parts)}"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Large numbers side by side: (what it is, the number)."""
    boxes = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b></div>'
        for name, value in values
    )
    return f'<div class="tiles">{boxes}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> str:
    """A table; the first column is aligned left, all others right."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def notes(lines: Sequence[str]) -> str:
    """A list of remarks; nothing without any."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def column_chart(labels: Sequence[str], values: Sequence[float], *, unit: str) -> str:
    """A bar chart with upright bars.

    Args:
        labels: Below the bars; thinned out when they would overlap.
        values: Heights, not negative.
        unit: What a value counts, e.g. "scans"; shown on hover and at the axis.

    Returns:
        Inline SVG.
    """
    width, height, left, bottom, top = 1030, 200, 56, 24, 14
    step = min(90.0, (width - left) / max(1, len(values)))
    highest = max([*values, 0.0]) or 1.0
    every = max(1, math.ceil(44 / step))
    floor = height - bottom
    parts = [
        f'<line class="axis" x1="{left}" x2="{width}" y1="{floor}" y2="{floor}"/>',
        f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{compact(highest)}</text>',
        f'<text x="{left - 6}" y="{floor}" text-anchor="end">0</text>',
    ]
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        tall = (floor - top) * value / highest
        x, y = left + place * step + step * 0.1, floor - tall
        box = f'x="{x:.1f}" y="{y:.1f}" width="{step * 0.8:.1f}" height="{tall:.1f}"'
        parts.append(
            f'<rect class="bar" {box} rx="2">'
            f"<title>{escape(label)}: {value:,.6g} {escape(unit)}</title></rect>"
        )
        if place % every == 0:
            below = f'x="{x + step * 0.4:.1f}" y="{height - 8}" text-anchor="middle"'
            parts.append(f"<text {below}>{escape(label)}</text>")
    return (
        f'<svg role="img" viewBox="0 0 {width} {height}" width="100%" '
        f'aria-label="{escape(unit)} per bar">{"".join(parts)}</svg>'
    )


def picture(png: bytes, *, alt: str) -> str:
    """A PNG inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def compact(value: float) -> str:
    """1234567 -> "1.23 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def require_page(path: Path | None) -> None:
    """Refuse, before the work and not after it, a place where no page can be written.

    Raises:
        ConfigError: Its folder is missing, or its name is not that of a page: a checkpoint given
            by mistake would be lost.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise ConfigError(f"`html` {path}: no such folder: {path.parent}. Create it first.")
    if path.exists() and not path.is_file():
        raise ConfigError(f"`html` {path}: not a file. Give the name of the page to write.")
    if path.suffix.lower() not in {".html", ".htm"}:
        raise ConfigError(f"`html` {path}: the name of a page ends in .html")


def write_page(path: Path, html: str) -> None:
    """Write a page under a temporary name and rename it.

    Raises:
        DataError: The folder is missing or not writable, or the disk is full.
    """
    with written_whole(path, "the page") as aside:
        aside.write_text(html, encoding="utf-8")


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    html = escape(cell.text)
    if cell.bar is not None:
        share = 100 * min(1.0, max(0.0, cell.bar))
        track = f'<span class="track"><i style="width:{share:.1f}%"></i></span>'
        html = f'{track}<span class="amount">{html}</span>'
    if cell.color_rgb is not None:
        html = f'<i class="swatch" style="background:rgb{cell.color_rgb}"></i>{html}'
    return html
