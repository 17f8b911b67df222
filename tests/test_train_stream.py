"""The stream: every scan once, in an order that only the seed decides, whoever reads it."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_samples import write_sample_cache
from heard import Heard
from train_samples import INSTANCE_COPY, tiny_recipe

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord
from pass2d.common.errors import CacheError
from pass2d.train.data.batch import RawBatch
from pass2d.train.data.dropout import kept_points
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan, batch_at, epoch_order, mix_partner
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.stream import BatchStream, StreamConfig
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.run.assemble import assemble

ALONE = ProcessGroup(device=torch.device("cpu"))
SMALL = AugmentConfig(crop_hw=(32, 96))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=7, sequences=("00", "01", "08"), without_image=("01",))
    return CacheReader.open(root)


def plan_for(reader: CacheReader, **changes: object) -> StreamPlan:
    plan = StreamPlan(
        positions=reader.select(split="train"),
        batch_size=3,
        seed=5,
        augment=SMALL,
        size_hw=(32, 96),
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def plan_of(count: int, *, rank: int, world: int, batch_size: int) -> StreamPlan:
    """Scans 0 to ``count`` - 1 in the order of seed 1."""
    return StreamPlan(
        positions=np.arange(count),
        batch_size=batch_size,
        seed=1,
        augment=SMALL,
        size_hw=None,
        rank=rank,
        world=world,
    )


def snapshot(batch: RawBatch | None) -> dict[str, object]:
    """A batch's content, copied out of the memory that is used again."""
    assert batch is not None
    items = {}
    for name, value in vars(batch).items():
        items[name] = value.clone() if isinstance(value, torch.Tensor) else value
    return items


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    return all(
        torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]  # type: ignore[arg-type]
        for name, value in a.items()
        if name != "hashes"
    )


def take(reader: CacheReader, plan: StreamPlan, count: int, **options: int) -> list:
    cursor = options.pop("cursor", 0)
    stream = BatchStream(reader, plan, StreamConfig(**options), cursor=cursor)
    try:
        return [snapshot(next(stream)) for _ in range(count)]
    finally:
        stream.close()


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8, 40])
def test_every_scan_is_seen_once_per_epoch_whatever_the_world_size(world: int) -> None:
    positions = np.arange(100, 117)
    for epoch in range(2):
        seen: list[int] = []
        for rank in range(world):
            plan = replace(plan_of(17, rank=rank, world=world, batch_size=2), positions=positions)
            cursor = epoch * 17
            for _ in range(plan.batches_per_epoch):
                batch = batch_at(plan, cursor)
                assert batch.epoch == epoch
                seen += batch.positions.tolist()
                cursor = batch.next_cursor
            assert cursor == (epoch + 1) * 17
        assert sorted(seen) == positions.tolist()


def test_a_joint_batch_is_the_same_set_for_any_number_of_ranks() -> None:
    def joint(batch_size: int, world: int) -> set[int]:
        plans = [
            plan_of(24, rank=rank, world=world, batch_size=batch_size) for rank in range(world)
        ]
        return {int(p) for plan in plans for p in batch_at(plan, 6).positions}

    assert joint(6, 1) == joint(3, 2) == joint(2, 3)


def test_another_world_size_takes_up_where_the_last_one_stopped() -> None:
    seen, cursor = [], 0
    for world, batches in ((1, 2), (3, 1), (2, 2)):
        for _ in range(batches):
            shares = [
                batch_at(plan_of(17, rank=rank, world=world, batch_size=2), cursor)
                for rank in range(world)
            ]
            seen += [int(p) for share in shares for p in share.positions]
            cursor = shares[0].next_cursor
    assert cursor == 17
    assert sorted(seen) == list(range(17))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_see_the_batches_of_one_process_that_accumulates(world: int) -> None:
    def batches(world: int) -> list[list[int]]:
        cursor, seen = 0, []
        while cursor < 17:
            shares = [
                batch_at(plan_of(17, rank=rank, world=world, batch_size=3), cursor)
                for rank in range(world)
            ]
            seen += [share.positions.tolist() for share in shares if len(share.positions)]
            cursor = shares[0].next_cursor
        return seen

    assert batches(world) == batches(1)


def test_order_changes_with_seed_and_epoch_only() -> None:
    positions = np.arange(50)
    first = epoch_order(positions, seed=1, epoch=0)
    assert first.tolist() == epoch_order(positions, seed=1, epoch=0).tolist()
    assert first.tolist() != epoch_order(positions, seed=1, epoch=1).tolist()
    assert first.tolist() != epoch_order(positions, seed=2, epoch=0).tolist()


def test_threads_prefetch_and_starting_point_change_nothing(reader: CacheReader) -> None:
    plan = plan_for(reader, augment=replace(SMALL, mixes=INSTANCE_COPY))
    whole = take(reader, plan, 12, threads=1, prefetch=1)
    assert len({batch["positions"] for batch in whole}) > 5
    for threads, prefetch in ((2, 1), (3, 5)):
        again = take(reader, plan, 12, threads=threads, prefetch=prefetch)
        assert all(same(a, b) for a, b in zip(whole, again, strict=True))
    # 14 scans in batches of 3 are five batches per epoch: the seventh batch ends at 14 + 6.
    resumed = take(reader, plan, 5, threads=2, prefetch=3, cursor=20)
    assert all(same(a, b) for a, b in zip(whole[7:], resumed, strict=True))


def test_a_batch_holds_what_the_cache_holds(reader: CacheReader) -> None:
    plan = plan_for(reader, augment=AugmentConfig(mode="none", crop_hw=(32, 96)), batch_size=14)
    (batch,) = take(reader, plan, 1, threads=1)
    positions = batch["positions"]
    assert sorted(positions) == plan.positions.tolist()
    for index, position in enumerate(positions):
        record = reader.read(position, Fields(label=True))
        rows = slice(batch["scan_starts"][index], batch["scan_starts"][index + 1])
        assert np.array_equal(batch["channels"][:3, rows].numpy(), record.xyz)
        assert np.array_equal(batch["channels"][3, rows].numpy(), record.signal)
        assert np.array_equal(batch["labels"][rows].numpy(), record.label)
    with_picture = [bool(reader.scans.has_image[p]) for p in positions]
    assert [positions[i] for i in batch["image_scan"]] == [
        p for p, has in zip(positions, with_picture, strict=True) if has
    ]


def test_points_outside_the_volume_stand_where_the_raw_file_has_them(reader: CacheReader) -> None:
    plan = plan_for(reader, with_outside=True, size_hw=None, batch_size=1)
    still = replace(plan, augment=replace(SMALL, dropout_ratio=0))
    (batch,) = take(reader, still, 1, threads=1)
    record = reader.read(batch["positions"][0], Fields(label=True, outside=True))
    assert record.outside_xyz is not None
    assert batch["scan_starts"] == (0, record.n_raw)
    outside = np.setdiff1d(np.arange(record.n_raw), record.raw_index)
    assert len(outside) > 0
    xyz, labels = batch["channels"][:3].numpy(), batch["labels"].numpy()
    # Of all raw points some are dropped: the others keep their order, the first one counts for all.
    (dropping,) = take(reader, plan, 1, threads=1)
    (draw,) = dropping["draws"]
    kept = kept_points(record.n_raw, ratio=draw.drop_ratio, seed=draw.point_seed, kind="copy")
    assert kept.copies > 10
    assert np.array_equal(dropping["channels"][:3].numpy(), xyz[:, kept.rows])
    assert np.array_equal(dropping["labels"].numpy(), labels[kept.rows])
    assert dropping["repeated"] == ((0, 1 + kept.copies),)
    assert np.array_equal(xyz[:, outside], record.outside_xyz)
    assert np.array_equal(xyz[:, record.raw_index], record.xyz)
    assert np.array_equal(labels[outside], record.outside_label)
    assert np.array_equal(labels[record.raw_index], record.label)


def test_a_scan_is_never_mixed_with_itself_and_with_each_other_equally_often(
    reader: CacheReader,
) -> None:
    mixing = AugmentConfig(mixes=INSTANCE_COPY)
    positions = np.array([3, 4, 8, 9, 20])
    plan = plan_for(reader, positions=positions, augment=mixing)
    shares = (np.arange(400) + 0.5) / 400
    for position in positions.tolist():
        found = [mix_partner(plan, position, share, epoch=0) for share in shares.tolist()]
        others = [other for other in positions.tolist() if other != position]
        assert {other: found.count(other) for other in others} == dict.fromkeys(others, 100)
    # A remote store: nine shards make a block of eight, and one of a scan that takes any other.
    nine = np.arange(9)
    blocks = plan_for(reader, positions=nine, augment=mixing, shards=nine * 10)
    taken = [{mix_partner(blocks, p, s, epoch=0) for s in shares.tolist()} for p in nine.tolist()]
    assert sorted(map(len, taken)) == [7] * 8 + [8]
    alone = next(p for p, found in enumerate(taken) if len(found) == 8)
    assert all(alone not in found for found in taken)
    assert mix_partner(plan_for(reader, positions=positions[:1]), 3, 0.5, epoch=0) is None


def test_a_single_scan_is_mixed_with_nothing(reader: CacheReader) -> None:
    one = reader.select(split="train")[:1]
    plan = plan_for(
        reader, positions=one, augment=replace(SMALL, mixes=INSTANCE_COPY), batch_size=1
    )
    assert load_scan(reader, plan, int(one[0]), epoch=0).added == ()
    (batch,) = take(reader, plan, 1, threads=1)
    assert len(batch["segment_starts"]) == 2
    heard = Heard()
    assemble(reader, tiny_recipe("augment.mixes=[{instance-copy=1}]", "data.limit=1"), ALONE, heard)
    assert (
        "augment.mixes: instance-copy changes nothing: there is no second training scan"
        in heard.all()
    )


def test_stale_hashes_are_refused(reader: CacheReader) -> None:
    with pytest.raises(ValueError, match="stale"):
        plan_for(reader, scales=(1, 2))
    plan = plan_for(reader, scales=(1, 4), augment=AugmentConfig(mode="lattice"))
    loaded = load_scan(reader, plan, int(plan.positions[0]), epoch=0)
    assert [level.scale for level in loaded.record.voxels] == [1, 4]


def test_an_error_in_a_thread_reaches_the_loop_with_the_scan(
    reader: CacheReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(reader)
    bad = int(epoch_order(plan.positions, seed=5, epoch=0)[4])
    read = reader.read

    def failing(position: int, *args: object, **options: object) -> object:
        if position == bad:
            raise OSError(5, "Input/output error")
        return read(position, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "read", failing)
    stream = BatchStream(reader, plan, StreamConfig(threads=2))
    next(stream)  # the scan is in the second batch
    with pytest.raises(CacheError, match=f"scan {reader.scans.scan_id[bad]}.*Input/output error"):
        next(stream)
    stream.close()


def test_memory_is_used_again_and_threads_end(reader: CacheReader, monkeypatch) -> None:
    plan = plan_for(reader)
    decoded: list[int] = []
    real = reader.read

    def read(*args: Any, **options: Any) -> ScanRecord:
        record = real(*args, **options)
        decoded.append(record.xyz.ctypes.data)
        return record

    monkeypatch.setattr(reader, "read", read)
    stream = BatchStream(reader, plan, StreamConfig(threads=2, prefetch=2))
    addresses = set()
    for _ in range(100):
        batch = next(stream)
        assert batch is not None
        addresses.add(batch.channels.data_ptr())
    assert len(addresses) <= 12  # four slots, each of which grew a few times at most
    late = set()
    decoded.clear()
    for _ in range(100):
        batch = next(stream)
        assert batch is not None
        late.add(batch.channels.data_ptr())
    assert len(late) <= 4
    assert len(decoded) > 250
    assert (
        len(set(decoded)) <= 30
    )  # two threads, three scans, a few arrays of a scan before its xyz
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("pass2d-stream")]


def test_closing_waits_for_a_scan_of_each_thread_not_for_its_batch(
    reader: CacheReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk: each read takes until it is let go."""
    read, let_go, begun = reader.read, threading.Event(), threading.Semaphore(0)
    reads: list[int] = []

    def slow(position: int, *args: object, **options: object) -> object:
        reads.append(position)
        begun.release()
        let_go.wait()
        return read(position, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "read", slow)
    is_asked = threading.Event()  # the loop looks at the clock once all reads are asked for

    def clock() -> float:
        is_asked.set()
        return 0.0

    plan = plan_for(reader, batch_size=7)
    stream = BatchStream(reader, plan, StreamConfig(threads=2), clock=clock)
    loop = threading.Thread(target=next, args=(stream, None))
    loop.start()
    assert is_asked.wait(timeout=60)
    for _ in range(2):
        assert begun.acquire(timeout=60)
    # What was asked for and not begun is not waited for: that would take an hour here.
    closing = threading.Thread(target=stream.close, kwargs={"most_s": 3600.0})
    closing.start()
    assert stream._is_closing.wait(timeout=60)
    let_go.set()
    closing.join(timeout=60)
    assert not closing.is_alive()
    assert len(reads) == 2  # of 2 x 7 that the two batches hold
    loop.join(timeout=60)
    assert not loop.is_alive()


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_scans(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=8, sequences=("00",), n_points=120, image_hw=(24, 64))
    with CacheReader.open(tmp_path) as reader:
        plan = StreamPlan(
            positions=reader.select(split="train"),
            batch_size=8,
            seed=0,
            augment=AugmentConfig(crop_hw=(16, 48)),
            size_hw=(16, 48),
        )
        shared = shared_maps()
        stream = BatchStream(reader, plan, StreamConfig(threads=2))
        resident = []
        for batch in range(1251):
            next(stream)
            if batch % 250 == 0:
                resident.append(resident_bytes())
        stream.close()
    assert stream.cursor == 10_008
    # 2,000 scans warm up; one kept scan record alone would be 80 MB after the other 8,000.
    assert resident[-1] - resident[1] < 8 << 20, resident
    assert shared_maps() == shared


def shared_maps() -> list[str]:
    """What this process has mapped from shared memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if "/dev/shm/" in line]


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_rank_without_a_scan_in_the_last_batch_gets_none(reader: CacheReader) -> None:
    plan = plan_for(reader, positions=reader.select(split="train")[:4], world=3, rank=2)
    stream = BatchStream(reader, plan, StreamConfig())
    assert plan.batches_per_epoch == 1
    assert [len(batch_at(replace(plan, rank=rank), 0).positions) for rank in range(3)] == [3, 1, 0]
    assert next(stream) is None
    stream.close()
    plan = replace(plan, batch_size=1)
    stream = BatchStream(reader, plan, StreamConfig())
    assert plan.batches_per_epoch == 2
    assert [next(stream) is None for _ in range(4)] == [False, True, False, True]
    stream.close()
