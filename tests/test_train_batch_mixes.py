"""Mixes of a batch: all its scans are joined two by two, or none is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cache_samples import write_sample_cache
from heard import Heard
from test_train_stream import ALONE, SMALL, plan_for, same, take
from train_samples import tiny_recipe

from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.train.data.mixes import MIXES, Mix
from pass2d.train.data.plan import batch_at
from pass2d.train.data.scan import LoadedScan
from pass2d.train.data.stream import BatchStream, StreamConfig
from pass2d.train.run.assemble import assemble
from pass2d.train.run.state import fresh_state
from pass2d.train.run.step import optimizer_step

ALWAYS = replace(SMALL, mixes=({"mix3d": 1.0},))
OFTEN = replace(SMALL, mixes=({"mix3d": 0.8},))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=7, sequences=("00", "08"), n_points=300)
    return CacheReader.open(root)


@pytest.mark.parametrize(("batch_size", "n_scans"), [(1, 1), (2, 1), (4, 2), (5, 3)])
def test_a_mixed_batch_is_the_batch_with_every_second_border_gone(
    reader: CacheReader, batch_size: int, n_scans: int
) -> None:
    """Points, labels and each scan's own augmentation stay; what joins loses its pixels."""
    plan = plan_for(reader, batch_size=batch_size)
    (plain,) = take(reader, plan, 1, threads=1)
    (mixed,) = take(reader, replace(plan, augment=ALWAYS), 1, threads=1)
    ends = plain["scan_starts"][2::2]
    assert mixed["scan_starts"] == (0, *ends, *plain["scan_starts"][-1:][: batch_size % 2])
    assert len(mixed["scan_starts"]) == n_scans + 1
    for name in ("positions", "segment_starts", "repeated"):
        assert mixed[name] == plain[name], name
    for name in ("channels", "labels", "linear", "shift_m"):
        assert torch.equal(mixed[name], plain[name]), name
    assert mixed["draws"] == plain["draws"][::2]
    # Pictures of the first, third, ... scan, and their pixels at the same points.
    assert torch.equal(mixed["images"], plain["images"][::2])
    assert mixed["image_scan"] == tuple(range(n_scans))
    keeps = plain["image_index"] % 2 == 0
    assert keeps.any()
    assert torch.equal(mixed["image_index"], plain["image_index"][keeps] // 2)
    assert torch.equal(mixed["point_index"], plain["point_index"][keeps])
    assert torch.equal(mixed["pixel_rc"], plain["pixel_rc"][:, keeps])


def test_a_batch_is_mixed_with_its_probability_and_all_of_it(reader: CacheReader) -> None:
    plan = plan_for(reader, augment=OFTEN, batch_size=4, size_hw=None)
    batches = take(reader, plan, 300, threads=2)  # of 4 and of 3 scans in turn
    sizes = [len(batch["scan_starts"]) - 1 for batch in batches]
    assert {len(batch["positions"]) for batch in batches} == {3, 4}
    assert set(sizes[::2]) == {2, 4}
    assert set(sizes[1::2]) == {2, 3}
    assert sizes.count(2) == pytest.approx(240, abs=25)


def test_threads_ranks_and_accumulation_change_no_byte(reader: CacheReader) -> None:
    plan = plan_for(reader, augment=OFTEN, batch_size=4, size_hw=None)
    whole = take(reader, plan, 12, threads=1)
    assert all(same(a, b) for a, b in zip(whole, take(reader, plan, 12, threads=3), strict=True))
    assert all(same(a, b) for a, b in zip(whole[5:], take(reader, plan, 7, cursor=18), strict=True))
    ranks = [replace(plan, batch_size=2, world=2, rank=rank) for rank in (0, 1)]
    of_ranks = [take(reader, rank, 12, threads=1) for rank in ranks]
    in_turn = take(reader, replace(plan, batch_size=2, accumulate=2), 24, threads=1)
    assert len({len(batch["scan_starts"]) for batch in whole[::2]}) == 2  # mixed ones and others
    for number, both in enumerate(whole):
        for halves in ([of_rank[number] for of_rank in of_ranks], in_turn[2 * number :][:2]):
            for name in ("channels", "linear", "shift_m", "labels"):
                parts = torch.cat([half[name] for half in halves], 1 if name == "channels" else 0)
                assert torch.equal(parts, both[name])
            counts = [n for half in halves for n in np.diff(half["scan_starts"]).tolist()]
            assert counts == np.diff(both["scan_starts"]).tolist()


def test_in_a_group_with_mixes_of_scans_each_keeps_its_probability(reader: CacheReader) -> None:
    applied: list[int] = []

    def remember(scan: LoadedScan, *_: object) -> LoadedScan:
        applied.append(scan.position)
        return scan

    MIXES["remember"] = Mix(remember)
    try:
        augment = replace(SMALL, mixes=({"remember": 0.25, "mix3d": 0.5},))
        plan = plan_for(reader, augment=augment, batch_size=7, size_hw=None)
        stream = BatchStream(reader, plan, StreamConfig(threads=1, prefetch=1))
        n_mixed = 0
        for _ in range(200):
            before = len(applied)
            raw = stream._build(batch := batch_at(plan, stream.cursor), stream._slots[0])
            assert raw is not None
            stream.cursor = batch.next_cursor
            if len(raw.scan_starts) == 5:
                n_mixed += 1
                assert len(applied) == before
        stream.close()
    finally:
        del MIXES["remember"]
    assert n_mixed == pytest.approx(100, abs=25)
    assert len(applied) == pytest.approx(0.25 * 7 * 200, abs=70)


def test_a_mixed_batch_weighs_what_its_scans_weigh(reader: CacheReader) -> None:
    recipe = tiny_recipe("augment.mixes=[{mix3d=1}]", "batch_size=2", "accumulate=2", "epochs=1")
    job = assemble(reader, recipe, ALONE, Silent())
    state = fresh_state(job)
    stream = BatchStream(reader, job.plan, StreamConfig(threads=1))
    assert [optimizer_step(job, state, stream) for _ in range(3)] == [4, 3, 4]
    assert float(state.totals.by_name()["loss"][1]) == pytest.approx(3)  # one per step
    stream.close()


def test_a_batch_of_one_scan_cannot_be_mixed_and_that_is_said(reader: CacheReader) -> None:
    heard = Heard()
    assemble(reader, tiny_recipe("augment.mixes=[{mix3d=1}]", "batch_size=1"), ALONE, heard)
    assert "augment.mixes: mix3d changes nothing: it pairs the scans of a batch" in heard.all()
