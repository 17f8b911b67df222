"""The one function that runs a network over scans, against what it promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cache_samples import sample_info
from stub_network import StubNetwork, by_place

from pass2d.common.prefetch import PAUSE, Pause
from pass2d.train.inference.labels import label_scans
from pass2d.train.inference.passes import PassSize, packed
from pass2d.train.inference.scans import ScanInput, scan_input
from pass2d.train.inference.votes import VotePlan

INFO = sample_info()


@dataclass(frozen=True)
class Item:
    number: int
    scan: ScanInput | None


def points_of(number: int, n: int = 40) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.uniform([-60, -60, -5, 0], [60, 60, 3, 1], (n, 4)).astype(np.float32)


def load(number: int | Pause) -> Item | Pause:
    """Every third item has no scan."""
    if isinstance(number, Pause):
        return number
    points = points_of(number)
    seen = np.abs(points[:, 0]) < 50
    scan = scan_input(points, name=str(number), is_seen=seen, outside="nearest")
    return Item(number, scan if number % 3 else None)


@pytest.mark.parametrize("size", [PassSize(points=1), PassSize(points=90), PassSize(scans=2)])
def test_items_are_packed_in_order_up_to_a_size_and_one_always_goes(size: PassSize) -> None:
    points = [50, 10, 90, 91, 0, 30, 30, 30, 1]
    packs = list(packed(points, size, points=lambda n: n))
    assert [n for pack in packs for n in pack] == points
    for pack, following in zip(packs, [*packs[1:], []], strict=True):
        assert len(pack) <= size.scans
        assert sum(pack) <= size.points or len(pack) == 1
        if following:  # nothing more would have fitted
            assert len(pack) == size.scans or sum(pack) + following[0] > size.points


def test_a_pause_hands_on_at_once_what_came_before() -> None:
    taken: list[object] = []

    def source() -> Iterator[int | Pause]:
        for item in (1, 2, PAUSE, 4, 5):
            taken.append(item)
            yield item

    labelled = label_scans(StubNetwork(), source(), load, info=INFO)
    first = [next(labelled).item for _ in range(3)]
    assert [item if isinstance(item, Pause) else item.number for item in first] == [1, 2, PAUSE]
    assert taken == [1, 2, PAUSE]
    assert [found.item.number for found in labelled] == [4, 5]


def test_every_item_comes_out_once_with_an_answer_per_plan_for_every_point() -> None:
    plans = (VotePlan(), VotePlan(kind="random", count=3))
    network = StubNetwork(lambda points: torch.where(points[:, 3] > 0.5, 2, 3)).train()
    found = list(label_scans(network, range(7), load, info=INFO, plans=plans, with_scores=True))
    assert [one.item.number for one in found] == list(range(7))
    assert network.training
    assert not any(network.modes)
    for one in found:
        assert len(one.passes) == (2 if one.item.number % 3 else 0)
        points = points_of(one.item.number)
        seen = np.flatnonzero(np.abs(points[:, 0]) < 50)
        for answer in one.passes:
            distance = ((points[:, None, :3] - points[seen, :3].astype(float)) ** 2).sum(axis=2)
            nearest = seen[distance.argmin(axis=1)]
            assert answer.labels.tolist() == np.where(points[nearest, 3] > 0.5, 2, 3).tolist()
            assert answer.scores.shape == answer.labels.shape


def test_shares_of_a_large_scan_give_the_answers_of_the_whole() -> None:
    whole = list(label_scans(StubNetwork(), [1, 2], load, info=INFO, with_scores=True))
    network = StubNetwork()
    size = PassSize(largest_scan=7)
    shares = list(label_scans(network, [1, 2], load, info=INFO, size=size, with_scores=True))
    assert max(len(batch.points) for batch in network.batches) <= 7
    for one, other in zip(whole, shares, strict=True):
        assert torch.equal(one.passes[0].labels, other.passes[0].labels)
        assert torch.equal(one.passes[0].scores, other.passes[0].scores)


def test_one_item_that_cannot_be_labelled_stops_the_others_only_when_asked() -> None:
    bad = points_of(4)[0, 1]

    def rule(points: torch.Tensor) -> torch.Tensor:
        if (points[:, 1] == float(bad)).any():
            raise RuntimeError("odd scan")
        return by_place(points)

    def everything(number: int) -> Item:
        points = points_of(number)
        seen = np.ones(len(points), bool)
        return Item(number, scan_input(points, name="", is_seen=seen, outside="ignore"))

    found = list(label_scans(StubNetwork(rule), range(6), everything, info=INFO, keep_going=True))
    assert [one.error is None for one in found] == [True] * 4 + [False, True]
    assert [one.item.number for one in found] == list(range(6))
    with pytest.raises(RuntimeError, match="odd scan"):
        list(label_scans(StubNetwork(rule), range(6), everything, info=INFO))


def test_class_0_is_answered_only_where_it_may_be() -> None:
    network = StubNetwork(lambda points: torch.zeros(len(points), dtype=torch.int64))
    (one,) = label_scans(network, [1], load, info=INFO)
    (other,) = label_scans(network, [1], load, info=INFO, allow_ignored=False)
    assert set(one.passes[0].labels.tolist()) == {0}
    assert 0 not in other.passes[0].labels.tolist()
