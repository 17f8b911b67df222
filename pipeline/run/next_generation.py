"""The driver's last step: the shards of this run and the last generation become the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from pass2d.cache.fields import CONTAINERS
from pass2d.cache.layout import Layout, sequence_number
from pass2d.cache.manifest import Manifest, current_number, load_manifest, publish_generation
from pass2d.cache.rows import ShardRow, load_row
from pass2d.cache.schema import DatasetInfo
from pass2d.cache.tables import Tables, build_tables, merge_tables
from pass2d.common.errors import CacheError
from pass2d.pipeline.run.jobs import ShardJob


@dataclass(frozen=True, kw_only=True)
class PublishedShards:
    """What a run has to say about the shards of its sequences."""

    keys: dict[tuple[str, int], str]
    """By container and shard; shards without "lidar" are left out."""
    changed: set[tuple[str, int]]
    """Those whose commit record is newer than the generation that was planned on."""
    jobs: tuple[ShardJob, ...]


RowsByShard = Callable[[dict[int, dict[str, str]]], list[dict[str, ShardRow]]]
"""Reads the commit records of shards, given their keys by container."""


def publish(layout: Layout, info: DatasetInfo, shards: PublishedShards) -> Manifest:
    """Make and swap in the next generation, if it differs from the current one.

    Sequences that this run did not list stay as they are in the generation that is current now,
    which another driver may have made meanwhile. The caller holds `publishing`.
    """
    base = load_manifest(layout) if current_number(layout) is not None else None
    tables = next_tables(base, info, shards, lambda keys: load_rows(layout, keys))
    if tables is None:
        assert base is not None
        return base
    number = publish_generation(layout, info, tables)
    return Manifest(number=number, info=info, tables=tables)


def next_tables(
    base: Manifest | None, info: DatasetInfo, shards: PublishedShards, rows: RowsByShard
) -> Tables | None:
    """The tables of the generation after ``base``; None when ``base`` says it all already."""
    wanted: dict[int, dict[str, str]] = {}
    for (container, shard), key in shards.keys.items():
        if ("lidar", shard) in shards.keys:
            wanted.setdefault(shard, {})[container] = key
    listed = {job.sequence for job in shards.jobs}
    present = {} if base is None else _keys_by_shard(base, listed=listed)
    touched = {shard for _, shard in shards.changed}
    kept = {s for s, keys in wanted.items() if present.get(s) == keys and s not in touched}
    if base is not None:
        _require_own_numbers(base, shards.jobs)
    if base is not None and present.keys() == kept == wanted.keys() and base.info == info:
        return None
    parts = [] if base is None else [_without(base.tables, present.keys() - kept)]
    fresh = rows({shard: wanted[shard] for shard in sorted(wanted.keys() - kept)})
    parts.append(build_tables(fresh, n_cameras=info.n_cameras))
    return merge_tables(parts)


def _keys_by_shard(base: Manifest, *, listed: set[str]) -> dict[int, dict[str, str]]:
    """Keys of the base's shards that belong to listed sequences."""
    columns = [base.tables.shards[n].to_pylist() for n in ("stage", "shard", "key", "sequence")]
    found: dict[int, dict[str, str]] = {}
    for container, shard, key, sequence in zip(*columns, strict=True):
        if sequence in listed:
            found.setdefault(shard, {})[container] = key
    return found


def _require_own_numbers(base: Manifest, jobs: Sequence[ShardJob]) -> None:
    """Refuse numbers that another driver has given to another sequence meanwhile."""
    names = (base.tables.shards[column].to_pylist() for column in ("shard", "sequence"))
    owner = {sequence_number(shard): sequence for shard, sequence in zip(*names, strict=True)}
    for job in jobs:
        other = owner.get(sequence_number(job.shard), job.sequence)
        if other != job.sequence:
            raise CacheError(
                f"sequence {job.sequence} got the shard numbers of sequence {other}, which was "
                "prepared meanwhile. Run `prepare` again: it uses others."
            )


def _without(tables: Tables, shards: set[int]) -> Tables:
    gone = pa.array(sorted(shards), pa.int64())
    return Tables(
        scans=tables.scans.filter(pc.invert(pc.is_in(tables.scans["shard"], value_set=gone))),
        shards=tables.shards.filter(pc.invert(pc.is_in(tables.shards["shard"], value_set=gone))),
    )


def load_rows(layout: Layout, keys: dict[int, dict[str, str]]) -> list[dict[str, ShardRow]]:
    """The commit records of shards by container.

    Raises:
        CacheError: one is missing or damaged.
    """
    return [_load_rows(layout, shard, containers) for shard, containers in keys.items()]


def _load_rows(layout: Layout, shard: int, keys: dict[str, str]) -> dict[str, ShardRow]:
    containers: Sequence[str] = [container for container in CONTAINERS if container in keys]
    rows = {}
    for container in containers:
        row = load_row(layout, container, shard, keys[container])
        if row is None:
            raise CacheError(
                f"{layout.row(container, shard, keys[container])}: missing. Something removed it "
                "while `prepare` ran: run it again."
            )
        rows[container] = row
    return rows
