"""A batch from the cache gives a network what computing everything anew would give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cache_samples import write_sample_cache

from pass2d.cache.reader import CacheReader
from pass2d.models.inputs import Grid
from pass2d.models.registry import build_network
from pass2d.train.data.batch import point_batch
from pass2d.train.data.collate import collate
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize("mode", ["lattice", "none"])
@pytest.mark.parametrize("seed", [0, 1])
def test_cached_hashes_give_the_logits_of_recomputed_ones(
    tmp_path: Path, mode: str, seed: int
) -> None:
    write_sample_cache(tmp_path, n_scans=4, sequences=("00",), seed=seed)
    with CacheReader.open(tmp_path) as reader:
        grid = reader.info.grid
        torch.manual_seed(0)
        network = build_network(
            "2dpass",
            {"hidden": 4, "image_branch": False},
            grid=Grid(low=grid.low, high=grid.high, shape=grid.shape),
            n_classes=5,
        ).eval()
        plan = StreamPlan(
            positions=reader.select(split="train"),
            batch_size=4,
            seed=seed,
            augment=AugmentConfig(mode=mode),  # type: ignore[arg-type]
            size_hw=None,
            scales=network.scales,
        )
        scans = [load_scan(reader, plan, int(p), epoch=0) for p in plan.positions]
    if mode == "lattice":
        assert len({scan.draw.symmetry for scan in scans}) > 1
    raw = collate(scans, with_images=False, size_hw=(0, 0))
    batch = point_batch(raw, config=plan.augment, grid=grid, device=CPU)
    assert [level.scale for level in batch.voxels] == list(network.scales)
    with torch.inference_mode():
        cached = network(network.prepare(batch)).logits
        anew = network(network.prepare(replace(batch, voxels=()))).logits
    torch.testing.assert_close(cached, anew, rtol=1e-4, atol=1e-5)


def test_a_scan_augments_the_same_in_any_batch(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=3, sequences=("00",))
    config = AugmentConfig(crop_hw=(32, 96), dropout_ratio=0.5)
    with CacheReader.open(tmp_path) as reader:
        plan = StreamPlan(
            positions=reader.select(split="train"),
            batch_size=3,
            seed=0,
            augment=config,
            size_hw=(32, 96),
        )
        scans = [load_scan(reader, plan, int(p), epoch=0) for p in plan.positions]
        grid = reader.info.grid

    def augmented(members: list) -> object:
        raw = collate(members, with_images=True, size_hw=(32, 96))
        return point_batch(raw, config=config, grid=grid, device=CPU)

    alone, joint = augmented([scans[1]]), augmented(scans)
    rows = slice(*joint.offsets[1:3].tolist())
    assert torch.equal(alone.points, joint.points[rows])
    assert torch.equal(alone.labels, joint.labels[rows])
    assert torch.equal(alone.images.images[0], joint.images.images[1])
    mine = joint.images.image_index == 1
    assert torch.equal(alone.images.pixel_rc, joint.images.pixel_rc[mine])
    assert torch.equal(alone.images.point_index, joint.images.point_index[mine] - rows.start)
