"""Why an existing shard is outdated, in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pass2d.cache.key_inputs import KeyInputs, header_inputs, parse_inputs
from pass2d.cache.manifest import Manifest
from pass2d.cache.rows import ShardHeader
from pass2d.common.json import loads

NEW = "new"
FOLLOWS = "lidar runs again"
"""Reasons that go without saying when `prepare` runs."""


@dataclass(frozen=True, kw_only=True)
class EarlierShard:
    """A shard of the current generation."""

    key: str
    code_version: int
    profile: str
    parameters: Any
    input_key: str
    inputs: str
    """JSON; parsed only where it differs."""
    failed: frozenset[str]
    bytes_per_scan: float
    seconds_per_scan: float


def earlier_shards(manifest: Manifest) -> dict[tuple[str, int], EarlierShard]:
    """By container and number the shards of a generation."""
    return {
        (row["stage"], row["shard"]): EarlierShard(
            key=row["key"],
            code_version=row["code_version"],
            profile=row["profile"],
            parameters=json.loads(row["parameters"]),
            input_key=row["input_key"],
            inputs=row["inputs"],
            failed=frozenset(scan["scan_id"] for scan in json.loads(row["failed"])["scans"]),
            bytes_per_scan=row["bytes"] / max(1, row["scans"]),
            seconds_per_scan=(row["seconds"] or 0.0) / max(1, row["scans"]),
        )
        for row in manifest.tables.shards.to_pylist()
    }


def difference(earlier: EarlierShard, header: ShardHeader) -> str:
    """Why a shard of the last generation is outdated, in words."""
    wanted = json.loads(json.dumps(header.parameters))
    names = {*wanted, *earlier.parameters}
    changed = [
        _change(n, earlier.parameters.get(n), wanted.get(n))
        for n in sorted(names)
        if wanted.get(n) != earlier.parameters.get(n)
    ]
    facts = (
        (earlier.key == header.key, "the shard or its commit record is missing"),
        (
            earlier.code_version != header.code_version,
            f"code version {earlier.code_version} -> {header.code_version}",
        ),
        (earlier.profile != header.profile, f"profile {earlier.profile} -> {header.profile}"),
        (bool(changed), ", ".join(changed)),
        (
            header.container != "lidar" and earlier.input_key != header.lidar_key,
            "lidar changed",
        ),
    )
    return next((text for holds, text in facts if holds), "") or _scan_difference(
        parse_inputs(
            header.container, loads(earlier.inputs, where="column inputs"), where="column inputs"
        ),
        header_inputs(header),
    )


def _change(name: str, before: Any, now: Any) -> str:
    """A parameter's two values, if they are short."""
    values = f"{json.dumps(before)} -> {json.dumps(now)}"
    return f"{name} {values}" if len(values) < 40 else f"{name} changed"


def _scan_difference(earlier: KeyInputs, wanted: KeyInputs) -> str:
    """Which scans were added, removed, or have other files or numbers."""
    before = {scan.scan_id: scan for scan in earlier.scans}
    now = {scan.scan_id: scan for scan in wanted.scans}
    facts = (
        ("added", [i for i in now if i not in before]),
        ("removed", [i for i in before if i not in now]),
        ("changed", [i for i in now if i in before and now[i] != before[i]]),
    )
    words = [f"{what} {_first_of(ids)}" for what, ids in facts if ids]
    noun = "scans"
    if wanted.lidar_key:
        noun = (
            "poses or times of scans" if wanted.motion_scans else "pictures or calibration of scans"
        )
    return f"{noun} {', '.join(words)}" if words else "order of scans changed"


def _first_of(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
