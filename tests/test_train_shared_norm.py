"""Several processes compute what one computes with all their scans in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cache_samples import write_sample_cache
from team_samples import in_processes
from torch import Tensor, nn
from train_samples import tiny_recipe

from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.models.norm import RowNorm
from pass2d.train.data.batch import point_batch
from pass2d.train.data.collate import collate
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import batch_at
from pass2d.train.distributed.process_group import (
    ProcessGroup,
    any_process,
    gather_over_group,
    sum_gradients,
    sum_over_group,
)
from pass2d.train.distributed.sync_norm import SharedNorm, Sharers, share_norms
from pass2d.train.evaluation.counts import EvalCounts
from pass2d.train.run.assemble import assemble
from pass2d.train.run.state import fresh_state
from pass2d.train.run.step import choose_sharers
from pass2d.train.run.stop import StopRequest
from pass2d.train.run.validate import refresh_average

CPU = torch.device("cpu")
ALONE = ProcessGroup(device=CPU)
CHANNELS = 6


def normalised(norm: nn.Module, rows: Tensor, pull: Tensor) -> dict[str, Tensor]:
    """What a norm does with rows, and the gradients of sum(pull * output)."""
    rows = rows.clone().requires_grad_()
    out = norm(rows)
    (out * pull).sum().backward()
    found = {"out": out.detach(), "rows": rows.grad, "weight": norm.weight.grad}
    found |= {"bias": norm.bias.grad, "mean": norm.running_mean, "var": norm.running_var}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def made_norm(kind: str) -> nn.Module:
    torch.manual_seed(1)
    norm = RowNorm(CHANNELS) if kind == "rows" else nn.BatchNorm2d(CHANNELS)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.double()


def norm_case(kind: str, sizes: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(len(sizes))
    tail = () if kind == "rows" else (3, 4)

    def parts(centre: float) -> list[Tensor]:
        shapes = [(size, CHANNELS, *tail) for size in sizes]
        made = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
        return [centre + (rank + 1) * part for rank, part in enumerate(made)]  # unlike each other

    # Rows far from 0, where a naive variance cancels. Pulls of that size would only multiply the
    # rounding of rows - mean, 1e-13, which any order of summing has.
    return parts(1000), parts(0)


def normalise_share(group: ProcessGroup, given: dict[str, Any]) -> list[dict[str, Tensor]]:
    results = []
    sharers = Sharers(group)
    for kind, sizes in given["cases"]:
        rows, pulls = norm_case(kind, sizes)
        network = nn.Sequential(made_norm(kind))
        share_norms(network, sharers)
        sharers.choose(len(sizes))
        if group.rank >= len(sizes):
            results.append({})
            continue
        results.append(normalised(network[0], rows[group.rank], pulls[group.rank]))
    return results


NORM_CASES = [
    ("rows", [5, 1, 11]),
    ("rows", [4, 0, 7]),  # a process with a scan, but no voxel at this scale
    ("rows", [3, 9]),  # the last process has no scan at all
    ("pictures", [2, 1, 3]),
    ("rows", [6]),
]


@pytest.mark.slow
def test_shared_norms_are_those_of_all_rows_in_one_process(tmp_path: Path) -> None:
    by_rank = in_processes(3, normalise_share, {"cases": NORM_CASES}, tmp_path)
    for case, (kind, sizes) in enumerate(NORM_CASES):
        rows, pulls = norm_case(kind, sizes)
        joint = normalised(made_norm(kind), torch.cat(rows), torch.cat(pulls))
        shares = [results[case] for results in by_rank[: len(sizes)]]
        for name in ("out", "rows"):
            own = torch.cat([share[name] for share in shares])
            torch.testing.assert_close(
                own,
                joint[name],
                rtol=1e-9,
                atol=1e-9,
                msg=lambda text, name=name: f"{name}: {text}",
            )
        for name in ("weight", "bias"):
            own = torch.stack([share[name] for share in shares]).sum(0)
            torch.testing.assert_close(
                own,
                joint[name],
                rtol=1e-9,
                atol=1e-9,
                msg=lambda text, name=name: f"{name}: {text}",
            )
        for name in ("mean", "var"):
            for share in shares:
                torch.testing.assert_close(
                    share[name],
                    joint[name],
                    rtol=1e-12,
                    atol=0,
                    msg=lambda text, name=name: f"{name}: {text}",
                )


def test_alone_a_shared_norm_is_a_row_norm_and_a_single_row_passes() -> None:
    for size in (1, 2, 7):
        (rows,), (pulls,) = norm_case("rows", [size])
        plain = normalised(made_norm("rows"), rows, pulls)
        shared = normalised(SharedNorm(made_norm("rows"), Sharers(ALONE)), rows, pulls)
        for name, tensor in plain.items():
            torch.testing.assert_close(
                shared[name],
                tensor,
                rtol=1e-9,
                atol=1e-9,
                msg=lambda text, name=name: f"{name}: {text}",
            )
    norm = SharedNorm(made_norm("rows"), Sharers(ALONE))
    empty = norm(torch.zeros((0, CHANNELS), dtype=torch.float64))
    assert empty.shape == (0, CHANNELS)
    assert int(norm.num_batches_tracked) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans of unlike size."""
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=3, sequences=("00",), n_points=300)
    return root


def network_gradients(group: ProcessGroup, given: dict[str, Any]) -> dict[str, Any]:
    """The gradients of a loss that is a sum over points, by one forward pass of each process."""
    size = given["joint"] // group.world
    recipe = tiny_recipe(f"batch_size={size}", *given["overrides"])
    with CacheReader.open(given["data"]) as reader:
        job = assemble(reader, recipe, group, Silent())
        positions = batch_at(job.plan, 0).positions
        scans = [load_scan(reader, job.plan, int(p), epoch=0) for p in positions]
        choose_sharers(job, scans=given["joint"])
        job.network.train()
        if given["norms"] == "fixed":
            for module in job.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        n_points = 0
        if scans:
            raw = collate(scans, with_images=False, size_hw=(0, 0))
            grid = reader.info.grid
            batch = point_batch(raw, config=job.plan.augment, grid=grid, device=CPU)
            logits = job.network(job.network.prepare(batch)).logits
            classes = torch.arange(logits.shape[1])
            pull = torch.sin(batch.points[:, :3].sum(1, keepdim=True) + classes)
            (logits.square() * pull).sum().backward()
            n_points = len(logits)
        sum_gradients([p for p in job.network.parameters() if p.requires_grad], group)
    gradients = {n: p.grad for n, p in job.network.named_parameters() if p.grad is not None}
    return {"gradients": gradients, "buffers": dict(job.network.named_buffers()), "n": n_points}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("norms", ["fixed", "shared"])
def test_summed_gradients_are_those_of_the_joint_batch(
    data: Path, tmp_path: Path, world: int, norms: str
) -> None:
    overrides = [f"sync_batchnorm={str(norms == 'shared').lower()}", "augment.mode=full"]
    joint = 3 if world == 3 else 2
    given = {"data": data, "overrides": overrides, "norms": norms, "joint": joint}
    alone = network_gradients(ALONE, given)
    group = in_processes(world, network_gradients, given, tmp_path)
    counts = [member["n"] for member in group]
    assert sum(counts) == alone["n"]
    assert len(set(counts)) == world  # unlike shares
    for member in group:
        assert member["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            scale = float(gradient.abs().max())
            own = member["gradients"][name]
            torch.testing.assert_close(
                own,
                gradient,
                rtol=1e-3,
                atol=1e-4 * scale,
                msg=lambda text, name=name: f"{name}: {text}",
            )
        for name, buffer in alone["buffers"].items():
            torch.testing.assert_close(member["buffers"][name], buffer, rtol=1e-4, atol=1e-5)


def refreshed_mean(group: ProcessGroup, given: dict[str, Any]) -> dict[str, Any]:
    """The mean of weights after its BatchNorm statistics were estimated again."""
    size = 2 // group.world
    recipe = tiny_recipe(f"batch_size={size}", "average.kind=swa", "sync_batchnorm=true")
    with CacheReader.open(given["data"]) as reader:
        job = assemble(reader, recipe, group, Silent())
        state = fresh_state(job)
        assert state.average is not None
        state.average.add(job.network, weight=1)
        before = {n: b.clone() for n, b in job.network.named_buffers()}
        assert refresh_average(job, state, StopRequest())
        kept = {n: torch.equal(b, before[n]) for n, b in job.network.named_buffers() if "mean" in n}
    return {"mean": dict(state.average.tensors), "kept": kept}


@pytest.mark.slow
def test_the_mean_of_weights_gets_the_statistics_of_all_processes(
    data: Path, tmp_path: Path
) -> None:
    """Of three scans the last one is seen by one process alone."""
    alone = refreshed_mean(ALONE, {"data": data})
    assert all(alone["kept"].values())  # the network itself keeps its own
    for member in in_processes(2, refreshed_mean, {"data": data}, tmp_path):
        assert member["mean"].keys() == alone["mean"].keys()
        for name, tensor in alone["mean"].items():
            torch.testing.assert_close(member["mean"][name], tensor, rtol=1e-4, atol=1e-5)


def join_counts(group: ProcessGroup, given: dict[str, Any]) -> dict[str, Any]:
    counts = EvalCounts.empty(3, CPU, sees_outside=False)
    for place in given["places"][group.rank]:
        scan = torch.zeros((10, 3, 3), dtype=torch.int64)
        scan[place % 10, 1, 2] = 2**60 + place  # would not survive a float
        counts.add(place, scan)
    counts.reduce(group)
    words = gather_over_group(torch.arange(group.rank, dtype=torch.int64), group)
    summed = torch.tensor([2**60 + group.rank])
    sum_over_group([summed], group)
    return {
        "total": counts.total,
        "scans": counts.scans,
        "words": words,
        "summed": int(summed),
        "agreed": [any_process(group.rank == 2, group), any_process(False, group)],
    }


@pytest.mark.slow
def test_counts_of_three_processes_join_exactly_in_all(tmp_path: Path) -> None:
    places = [[0, 3], [1], []]
    by_rank = in_processes(3, join_counts, {"places": places}, tmp_path)
    for member in by_rank:
        assert sorted(member["scans"]) == [0, 1, 3]
        assert [int(member["scans"][place][1, 2]) for place in (0, 1, 3)] == [
            2**60,
            2**60 + 1,
            2**60 + 3,
        ]
        assert int(member["total"].sum()) == 3 * 2**60 + 4
        assert member["summed"] == 3 * 2**60 + 3
        assert [len(word) for word in member["words"]] == [0, 1, 2]
        assert member["agreed"] == [True, False]
