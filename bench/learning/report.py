"""Tables of means and spreads over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bench.learning.plan import ALL_ON, Plan

Result = dict[str, Any]


def summary(plan: Plan, results: Sequence[Result]) -> dict[str, Any]:
    """Everything that the tables show, as plain data; shares 0..1."""
    return {
        "comparison": _comparison(plan, [r for r in results if r["group"] == "comparison"]),
        "augmentations": _augmentations(plan, [r for r in results if r["group"] != "comparison"]),
        "runs": [{k: v for k, v in r.items() if k != "settings"} for r in results],
    }


def values_of(plan: Plan, result: Result) -> dict[str, float]:
    """One run's scores by row of the table."""
    iou: dict[str, float | None] = result["iou"]["official"]
    rows = {name: value for name, value in iou.items() if value is not None}
    colour = [rows[name] for name in plan.classes.colour if name in rows]
    others = [value for name, value in rows.items() if name not in plan.classes.colour]
    means = {
        "mIoU (official)": result["miou"]["official"],
        "mIoU (published)": result["miou"]["published"],
        "accuracy (official)": result["accuracy"]["official"],
    }
    if colour:
        means["mean of the colour classes"] = float(np.mean(colour))
        means["mean of the others"] = float(np.mean(others))
    return means | result["tasks"] | rows


def mean_spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1; 0 for a single value)."""
    data = np.array(list(values))
    return float(data.mean()), float(data.std(ddof=1)) if len(data) > 1 else 0.0


def _comparison(plan: Plan, results: Sequence[Result]) -> dict[str, Any]:
    names = plan.comparison.names
    by_seed = {(r["name"], r["seed"]): values_of(plan, r) for r in results}
    seeds = [s for s in plan.comparison.seeds if all((n, s) in by_seed for n in names)]
    if not seeds:
        return {"seeds": [], "rows": {}}
    rows = {}
    for row in by_seed[names[0], seeds[0]]:
        columns = {n: [by_seed[n, s].get(row, np.nan) for s in seeds] for n in names}
        gains = np.subtract(columns[names[-1]], columns[names[0]])
        rows[row] = {n: mean_spread(v) for n, v in columns.items()} | {"gain": mean_spread(gains)}
    seen = [r["seen"] for r in results if r["seen"] is not None]
    return {
        "seeds": seeds,
        "rows": rows,
        "seen": {name: _seen_row(seen, name) for name in seen[0]["network"]["iou"]} if seen else {},
        "cpu_s": {n: mean_spread(_cpu_s(r for r in results if r["name"] == n)) for n in names},
        "steps": results[0]["steps"],
    }


def _cpu_s(results: Iterable[Result]) -> list[float]:
    return [r["train_cpu_s"] for r in results if r["train_cpu_s"] is not None] or [np.nan]


def _seen_row(seen: Sequence[dict[str, Any]], name: str) -> dict[str, tuple[float, float]]:
    return {
        kind: mean_spread(run[kind]["iou"][name] or 0.0 for run in seen)
        for kind in ("network", "fused")
    }


def _augmentations(plan: Plan, results: Sequence[Result]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    if plan.augmentations is None:
        return rows
    for name in [ALL_ON, *plan.augmentations.switched]:
        runs = [values_of(plan, r) for r in results if r["name"] == name]
        if runs:
            keys = ("mIoU (official)", "mean of the colour classes", "mean of the others")
            rows[name] = {k: mean_spread(run[k] for run in runs) for k in keys}
            rows[name]["runs"] = len(runs)
    return rows


def markdown(plan: Plan, data: dict[str, Any]) -> str:
    """Both tables, in per cent."""
    return "\n".join([*_comparison_lines(plan, data["comparison"]), "", *_switch_lines(data)])


def _comparison_lines(plan: Plan, data: dict[str, Any]) -> list[str]:
    if not data["seeds"]:
        return []
    names = plan.comparison.names
    lines = [
        f"| validation, % | {' | '.join(names)} | gain | seen points: 3D network | with picture |",
        "|" + " --- |" * (len(names) + 4),
    ]
    for row, found in data["rows"].items():
        cells = [_cell(found[n]) for n in names] + [_cell(found["gain"], signed=True)]
        seen = data["seen"].get(row)
        cells += [_cell(seen[kind]) for kind in ("network", "fused")] if seen else ["", ""]
        mark = " (colour)" if row in plan.classes.colour else ""
        lines.append(f"| {row}{mark} | {' | '.join(cells)} |")
    minutes = [f"{mean / 60:.1f}" for mean, _ in (data["cpu_s"][n] for n in names)]
    lines.append(f"| CPU minutes of training | {' | '.join(minutes)} | | | |")
    return lines


def _switch_lines(data: dict[str, Any]) -> list[str]:
    rows = data["augmentations"]
    if not rows:
        return []
    lines = [
        "| augmentation | runs | mIoU (official), % | colour classes, % | others, % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        cells = [_cell(value, spread=row["runs"] > 1) for k, value in row.items() if k != "runs"]
        lines.append(f"| {name} | {row['runs']} | {' | '.join(cells)} |")
    return lines


def _cell(value: tuple[float, float], *, signed: bool = False, spread: bool = True) -> str:
    mean, deviation = value
    text = f"{100 * mean:+.1f}" if signed else f"{100 * mean:.1f}"
    return f"{text} ± {100 * deviation:.1f}" if spread else text
