"""Each augmentation against its definition, and pixels that still point at the same object."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cache_samples import plain_voxels, sample_info
from torchvision.transforms.v2 import functional as picture
from train_samples import INSTANCE_COPY

from pass2d.cache.schema import CameraView, GridConfig, ScanRecord
from pass2d.train.data import augment
from pass2d.train.data.batch import point_batch
from pass2d.train.data.collate import collate, common_crop, place_crop
from pass2d.train.data.lattice import CachedHash, leaves_grid, map_cells, scale_voxels
from pass2d.train.data.mixes import copy_instances
from pass2d.train.data.sampling import (
    SYMMETRIES,
    AugmentConfig,
    draw_scan,
    grid_symmetries,
    linear_map,
)
from pass2d.train.data.scan import LoadedScan

CPU = torch.device("cpu")
INFO = sample_info()
GRID = GridConfig(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
OFF = AugmentConfig(
    dropout_ratio=0, rotate=False, flip=False, scale=0, translate_m=0, jitter=0, mirror=0
)


def only(**settings: object) -> AugmentConfig:
    return AugmentConfig(**{**vars(OFF), **settings})  # type: ignore[arg-type]


def draws(config: AugmentConfig, count: int = 400, grid: GridConfig = GRID) -> list:
    return [draw_scan(config, seed=3, epoch=1, scan=i, grid=grid) for i in range(count)]


def coordinate_scan(rng: np.random.Generator, *, n: int = 700, hw: tuple[int, int]) -> ScanRecord:
    """A scan whose points carry their pixel, and whose picture carries its coordinates.

    Point: x = column, y = row of its own pixel. Picture: red = column, green = row, blue = 7.
    """
    height, width = hw
    column, row = rng.integers(0, width, n), rng.integers(0, height, n)
    xyz = np.stack([column, row, np.arange(n)]).astype(np.float32)
    seen = np.sort(rng.permutation(n)[: n // 2]).astype(np.int32)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = np.arange(width), np.arange(height)[:, None], 7
    pixel_rc = np.stack([row[seen], column[seen]]).astype(np.uint16)
    return ScanRecord(
        scan_id="00/000000",
        n_raw=n,
        xyz=xyz,
        signal=np.arange(n, dtype=np.float32),
        raw_index=np.arange(n, dtype=np.int32),
        label=rng.integers(0, 5, n).astype(np.uint8),
        instance=rng.integers(0, 3, n).astype(np.uint32),
        cameras=(CameraView(image=image, point_index=seen, pixel_rc=pixel_rc),),
    )


def load(record: ScanRecord, config: AugmentConfig, *, scan: int) -> LoadedScan:
    """What the stream makes of a record whose picture has all columns."""
    view = record.cameras[0]
    assert view.image is not None
    hw = view.image.shape[:2]
    draw = draw_scan(config, seed=0, epoch=0, scan=scan, grid=GRID)
    size = common_crop(config, np.array([hw]))
    crop = place_crop(size, image_hw=(hw[0], hw[1]), share=draw.crop_share)
    cut = CameraView(
        image=view.image[:, slice(*crop.columns)],
        point_index=view.point_index,
        pixel_rc=view.pixel_rc,
    )
    cut_record = ScanRecord(**{**vars(record), "cameras": (cut,)})
    return LoadedScan(position=scan, info=INFO, record=cut_record, draw=draw, crop=crop)


def with_partner(scan: LoadedScan, other: ScanRecord, config: AugmentConfig) -> LoadedScan:
    """The scan with the instances of another one mixed in."""
    draw = draw_scan(config, seed=0, epoch=0, scan=scan.position + 50, grid=GRID)
    partner = LoadedScan(position=50, info=INFO, record=other, draw=draw, crop=None)
    return copy_instances(scan, partner, np.random.default_rng(0))


def test_rotation_flip_and_factor_are_the_formulas_of_the_paper() -> None:
    xyz = np.random.default_rng(0).normal(size=(50, 3))
    for flip, signs in enumerate([(1, 1), (-1, 1), (1, -1), (-1, -1)]):
        angle, factor = 0.7 + flip, 1.03
        c, s = math.cos(angle), math.sin(angle)
        xy = xyz[:, :2] @ np.array([[c, s], [-s, c]]) * signs * factor
        expected = np.column_stack([xy, xyz[:, 2]])
        got = xyz @ linear_map(yaw_rad=angle, flip=flip, factor=factor)
        np.testing.assert_allclose(got, expected, atol=1e-12)
        whole = linear_map(yaw_rad=angle, flip=flip, factor=factor, scale_z=True)
        np.testing.assert_allclose(xyz @ whole, expected * [1, 1, factor], atol=1e-12)


def test_draws_follow_their_distributions() -> None:
    full = draws(AugmentConfig())
    linear = np.array([d.linear for d in full])
    factor = np.sqrt(np.abs(np.linalg.det(linear[:, :2, :2])))
    assert factor.min() > 0.95
    assert factor.max() < 1.05
    assert factor.std() == pytest.approx(0.1 / math.sqrt(12), rel=0.15)
    assert np.all(linear[:, 2] == [0, 0, 1])
    mirrored_share = np.mean(np.linalg.det(linear[:, :2, :2]) < 0)
    assert mirrored_share == pytest.approx(0.5, abs=0.1)  # x alone and y alone, of four
    shift = np.array([d.shift_m for d in full])
    np.testing.assert_allclose(shift.std(0), 0.1, rtol=0.15)
    ratios = np.array([d.drop_ratio for d in full])
    assert ratios.max() < 0.2
    assert ratios.mean() == pytest.approx(0.1, abs=0.01)
    jitter = np.array([d.jitter for d in full])
    assert jitter.min() > 0.6
    assert jitter.max() < 1.4
    assert len({d.jitter_order for d in full}) == 6
    assert np.mean([d.is_mirrored for d in full]) == pytest.approx(0.5, abs=0.1)


def test_switching_one_augmentation_off_leaves_all_others_as_they_were() -> None:
    for with_it, without in zip(draws(AugmentConfig()), draws(only(mirror=0.5)), strict=True):
        assert with_it.is_mirrored == without.is_mirrored
        assert with_it.crop_share == without.crop_share
        assert without.linear == ((1, 0, 0), (0, 1, 0), (0, 0, 1))


@pytest.mark.parametrize(
    ("off", "changed"),
    [
        ({"dropout_ratio": 0.0}, {"drop_ratio"}),
        ({"rotate": False}, {"linear"}),
        ({"flip": False}, {"linear"}),
        ({"scale": 0.0}, {"linear"}),
        ({"translate_m": 0.0}, {"shift_m"}),
        ({"crop_hw": None}, set()),
        ({"jitter": 0.0}, {"jitter"}),
        ({"mirror": 0.0}, {"is_mirrored"}),
        ({"mixes": INSTANCE_COPY}, set()),
    ],
)
def test_each_augmentation_has_a_switch_of_its_own(off: dict, changed: set[str]) -> None:
    pairs = list(zip(draws(AugmentConfig()), draws(AugmentConfig(**off)), strict=True))
    names = vars(pairs[0][0])
    assert {n for n in names if any(getattr(a, n) != getattr(b, n) for a, b in pairs)} == changed
    linear = np.array([draw.linear for _, draw in pairs])[:, :2, :2]
    det = np.linalg.det(linear)
    assert np.allclose(linear[:, 0, 1], 0) == (off.get("rotate") is False)
    assert np.all(det > 0) == (off.get("flip") is False)
    assert np.allclose(np.abs(det), 1) == (off.get("scale") == 0)


def test_yaw_is_uniform_on_the_circle_and_flip_over_its_four_kinds() -> None:
    turned = np.array([draw.linear for draw in draws(only(rotate=True), 800)])
    yaw_deg = np.rad2deg(np.arctan2(turned[:, 0, 1], turned[:, 0, 0])) % 360
    octants = np.bincount((yaw_deg // 45).astype(int), minlength=8)
    flipped = np.array([draw.linear for draw in draws(only(flip=True), 800)])
    kinds = np.bincount(
        (flipped[:, 0, 0] < 0) + 2 * (flipped[:, 1, 1] < 0).astype(int), minlength=4
    )
    # Chi-squared with 7 and 3 degrees of freedom: above these once in a thousand.
    assert ((octants - 100) ** 2 / 100).sum() < 24.3
    assert ((kinds - 200) ** 2 / 200).sum() < 16.3


def test_a_draw_depends_on_seed_epoch_and_scan_only() -> None:
    first = draw_scan(AugmentConfig(), seed=1, epoch=2, scan=3, grid=GRID)
    assert first == draw_scan(AugmentConfig(), seed=1, epoch=2, scan=3, grid=GRID)
    for other in ({"seed": 2}, {"epoch": 3}, {"scan": 4}):
        keys = {"seed": 1, "epoch": 2, "scan": 3, **other}
        assert draw_scan(AugmentConfig(), grid=GRID, **keys) != first


def test_mode_none_changes_nothing() -> None:
    for draw in draws(AugmentConfig(mode="none"), 20):
        assert draw.linear == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        assert draw.shift_m == (0, 0, 0)
        assert draw.drop_ratio == 0
        assert draw.jitter == (1, 1, 1)
        assert not draw.is_mirrored
        assert draw.crop_share == 0.5


@pytest.mark.parametrize(
    "config",
    [
        OFF,
        only(crop_hw=None),
        only(mirror=1.0),
        only(rotate=True, flip=True, scale=0.05, translate_m=0.1),
        only(dropout_ratio=0.5),
        only(dropout_ratio=0.2, rotate=True, flip=True, mirror=0.5, crop_hw=(32, 64)),
        only(dropout_ratio=0.9, mirror=0.5),
        only(rotate=True),
        only(flip=True),
        only(scale=0.05),
        only(translate_m=0.1),
        only(mixes=INSTANCE_COPY, mirror=0.5, dropout_ratio=0.2),
        AugmentConfig(mode="lattice", jitter=0, crop_hw=(48, 32)),
        AugmentConfig(mode="none", crop_hw=(32, 160)),
    ],
    ids=lambda c: ",".join(k for k, v in vars(c).items() if v != vars(OFF)[k]) or "off",
)
def test_pixels_still_point_at_the_same_object(config: AugmentConfig) -> None:
    rng = np.random.default_rng(1)
    hw = (70, 203)
    scans = [load(coordinate_scan(rng, hw=hw), config, scan=i) for i in range(3)]
    if config.mixes:
        scans = [with_partner(scan, coordinate_scan(rng, hw=hw), config) for scan in scans]
    size = common_crop(config, np.array([hw]))
    raw = collate(scans, with_images=True, size_hw=size)
    batch = point_batch(raw, config=config, grid=GRID, device=CPU)
    assert batch.images is not None
    assert batch.images.images.shape == (3, 3, *size)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = batch.images
    row, column = seen.pixel_rc.unbind(1)
    colour = seen.images[seen.image_index, :, row, column] * std + mean
    colour = (colour * 255).round().to(torch.int64)
    # The signal is the point's number in its scan: it names the point whatever moved it.
    assert len(seen.point_index) > 50
    for scan, start in enumerate(raw.scan_starts[:-1]):
        mine = seen.image_index == scan
        number = batch.points[seen.point_index[mine], 3].to(torch.int64)
        if not any(draw.drop_ratio for draw in raw.draws):
            assert torch.equal(number, seen.point_index[mine] - start)
        origin = torch.from_numpy(scans[scan].record.xyz)[:2, number].to(torch.int64)
        assert torch.equal(colour[mine, 0], origin[0])
        assert torch.equal(colour[mine, 1], origin[1])
        assert torch.all(colour[mine, 2] == 7)


def test_every_visible_point_in_the_crop_is_kept_and_no_other() -> None:
    rng = np.random.default_rng(2)
    record = coordinate_scan(rng, hw=(70, 203))
    config = only(crop_hw=(48, 96))
    scan = load(record, config, scan=0)
    raw = collate([scan], with_images=True, size_hw=(48, 96))
    assert scan.crop is not None
    row, column = record.cameras[0].pixel_rc.astype(int)
    left = scan.crop.left
    inside = (row >= 70 - 48) & (column >= left) & (column < left + 96)
    assert raw.point_index is not None
    assert raw.point_index.tolist() == record.cameras[0].point_index[inside].tolist()


def test_points_move_by_the_map_of_their_segment() -> None:
    config = only(rotate=True, translate_m=0.1)
    rng = np.random.default_rng(3)
    scans = [load(coordinate_scan(rng, hw=(70, 203)), config, scan=i) for i in range(2)]
    raw = collate(scans, with_images=False, size_hw=(0, 0))
    batch = point_batch(raw, config=config, grid=GRID, device=CPU)
    assert batch.images is None
    for index, scan in enumerate(scans):
        part = batch.points[raw.scan_starts[index] : raw.scan_starts[index + 1]].numpy()
        expected = scan.record.xyz.T @ np.array(scan.draw.linear) + scan.draw.shift_m
        np.testing.assert_allclose(part[:, :3], expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(part[:, 3], scan.record.signal)
    assert batch.labels is not None
    labels = np.concatenate([scan.record.label for scan in scans if scan.record.label is not None])
    np.testing.assert_array_equal(batch.labels.numpy(), labels)


def test_mix_appends_the_instances_of_the_second_scan_with_their_own_map() -> None:
    rng = np.random.default_rng(4)
    config = AugmentConfig(dropout_ratio=0, mixes=INSTANCE_COPY)
    record, other = (coordinate_scan(rng, hw=(70, 203)) for _ in range(2))
    assert other.instance is not None
    rows = np.flatnonzero(other.instance)
    scan = with_partner(load(record, config, scan=0), other, config)
    (added,) = scan.added
    np.testing.assert_array_equal(added.record.raw_index, rows)
    raw = collate([scan], with_images=True, size_hw=(64, 192))
    batch = point_batch(raw, config=config, grid=GRID, device=CPU)
    assert len(batch.points) == record.n + len(rows)
    expected = other.xyz[:, rows].T @ np.array(added.draw.linear) + added.draw.shift_m
    np.testing.assert_allclose(batch.points[record.n :, :3], expected, rtol=1e-4, atol=1e-3)
    assert batch.images is not None
    assert int(batch.images.point_index.max()) < record.n
    assert batch.offsets.tolist() == [0, record.n + len(rows)]


def test_instance_points_of_the_second_scan_are_cut_out_first_then_dropped_among_themselves() -> (
    None
):
    rng = np.random.default_rng(5)
    config = only(mixes=INSTANCE_COPY, dropout_ratio=0.9)
    record, other = (coordinate_scan(rng, hw=(70, 203)) for _ in range(2))
    assert other.instance is not None
    other.instance[:3] = (0, 0, 1)  # point 0 is no instance's: no copy of it may come
    rows = np.flatnonzero(other.instance)
    scan = with_partner(load(record, config, scan=0), other, config)
    assert scan.added[0].draw.drop_ratio > 0.1
    raw = collate([scan], with_images=False, size_hw=(0, 0))
    batch = point_batch(raw, config=config, grid=GRID, device=CPU)
    assert batch.weights is not None
    own_stop = raw.segment_starts[1]
    mixed = batch.points[own_stop:, 3].to(torch.int64).numpy()
    weights = batch.weights[own_stop:].numpy()
    # As many as the scan has instance points, those that are missing as copies of the first.
    assert weights.sum() == len(rows)
    assert batch.weights[:own_stop].sum() == record.n
    assert mixed[0] == rows[0] == 2
    assert weights[0] == 1 + len(rows) - len(mixed)
    assert np.all(weights[1:] == 1)
    assert set(mixed) < set(rows)


def test_jitter_is_torchvisions_in_the_drawn_order() -> None:
    images = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    factors, orders = [(1.3, 0.7, 1.2), (0.8, 1.0, 0.6)], [(2, 0, 1), (0, 1, 2)]
    got = augment.jitter_pictures(images.clone(), factors=factors, orders=orders)
    first = picture.adjust_saturation(images[0], 1.2)
    first = picture.adjust_contrast(picture.adjust_brightness(first, 1.3), 0.7)
    second = picture.adjust_saturation(picture.adjust_brightness(images[1], 0.8), 0.6)
    torch.testing.assert_close(got, torch.stack([first, second]))


def plain_jitter(
    rgb: list[float], mean_grey: float, *, name: str, factor: float
) -> tuple[float, ...]:
    """The definition for one pixel: away from or towards black, the mean grey, its own grey."""
    red, green, blue = rgb
    grey = 0.2989 * red + 0.587 * green + 0.114 * blue
    aim = {"brightness": 0.0, "contrast": mean_grey, "saturation": grey}[name]
    return tuple(min(max(factor * value + (1 - factor) * aim, 0.0), 1.0) for value in rgb)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_each_part_of_the_jitter_is_its_definition(which: int, factor: float) -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    factors = [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    factors[1][which] = factor
    got = augment.jitter_pictures(
        images.clone(), factors=[(f[0], f[1], f[2]) for f in factors], orders=[(0, 1, 2), (2, 1, 0)]
    )
    assert torch.equal(got[0], images[0])
    pixels = images[1].permute(1, 2, 0).reshape(-1, 3).tolist()
    mean = sum(0.2989 * r + 0.587 * g + 0.114 * b for r, g, b in pixels) / len(pixels)
    name = ("brightness", "contrast", "saturation")[which]
    expected = [plain_jitter(rgb, mean, name=name, factor=factor) for rgb in pixels]
    answer = got[1].permute(1, 2, 0).reshape(-1, 3)
    torch.testing.assert_close(answer, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_pictures_are_normalised_by_imagenets_mean_and_deviation() -> None:
    images = torch.full((1, 2, 2, 3), 51, dtype=torch.uint8)  # 0.2
    got = augment.normalise_pictures(augment.float_pictures(images))
    expected = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(got[0, :, 0, 0], torch.tensor(expected))


def test_a_mirrored_pixel_counts_from_the_other_edge() -> None:
    images = torch.arange(2 * 3 * 2 * 4, dtype=torch.float32).view(2, 3, 2, 4)
    pictures = augment.Pictures(images.clone(), torch.tensor([0, 1, 1]), torch.tensor([[0, 1]] * 3))
    images_after, _, pixel_rc = augment.mirror_pictures(pictures, [False, True])
    assert torch.equal(images_after[0], images[0])
    assert images_after[1, 0, 0].tolist() == [27, 26, 25, 24]
    assert pixel_rc.tolist() == [[0, 1], [0, 2], [0, 2]]  # column 1 of 4 is column 2


def test_jittered_colours_stay_with_their_points() -> None:
    """The colour at a point's pixel is that of the jittered crop, wherever it was mirrored to."""
    rng = np.random.default_rng(7)
    config = only(jitter=0.4, mirror=1.0, crop_hw=(48, 96), rotate=True)
    scan = load(coordinate_scan(rng, hw=(70, 203)), config, scan=4)
    raw = collate([scan], with_images=True, size_hw=(48, 96))
    batch = point_batch(raw, config=config, grid=GRID, device=CPU)
    view = scan.record.cameras[0]
    assert batch.images is not None
    assert view.image is not None
    assert scan.crop is not None
    crop = torch.from_numpy(view.image[scan.crop.top :]).permute(2, 0, 1)[None] / 255
    jittered = augment.jitter_pictures(
        crop, factors=[scan.draw.jitter], orders=[scan.draw.jitter_order]
    )
    expected = augment.normalise_pictures(jittered)[0]
    origin = scan.record.xyz[:2, batch.images.point_index.numpy()].astype(int)
    column, row = origin[0] - scan.crop.left, origin[1] - scan.crop.top
    got_row, got_column = batch.images.pixel_rc.unbind(1)
    colour = batch.images.images[0][:, got_row, got_column]
    assert len(row) > 50
    torch.testing.assert_close(colour, expected[:, row, column])


@pytest.mark.parametrize("mode", ["full", "none"])
def test_resized_pixels_still_point_at_the_same_object(mode: str) -> None:
    """nuScenes: the whole picture made smaller by 3.75 x 3.75, mirrored or not."""
    rng = np.random.default_rng(8)
    config = AugmentConfig(mode=mode, jitter=0, crop_hw=None, resize_hw=(64, 32))  # type: ignore[arg-type]
    hw = (240, 120)
    scans = [load(coordinate_scan(rng, hw=hw), config, scan=i) for i in range(6)]
    raw = collate(scans, with_images=True, size_hw=hw)
    batch = point_batch(raw, config=config, grid=GRID, device=CPU)
    assert batch.images is not None
    assert batch.images.images.shape == (6, 3, 64, 32)
    if mode == "full":
        assert {scan.draw.is_mirrored for scan in scans} == {True, False}
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    row, column = batch.images.pixel_rc.unbind(1)
    seen = batch.images.images[batch.images.image_index, :, row, column] * std + mean
    number = batch.points[batch.images.point_index, 3].to(torch.int64)
    xyz = [torch.from_numpy(scan.record.xyz) for scan in scans]
    scan_of = batch.images.image_index.tolist()
    origin = torch.stack([xyz[s][:2, k] for s, k in zip(scan_of, number.tolist(), strict=True)])
    # A small pixel is a mean over two of its widths; its coordinates lie that near the point's own.
    error = (seen[:, :2] * 255 - origin).abs()
    assert len(error) > 500
    assert float(error.max()) < 3.75 + 0.5


def test_resize_moves_pixels_by_the_published_formula() -> None:
    u = torch.tensor([0, 1, 777, 1599])
    v = torch.tensor([0, 899, 450, 3])
    pictures = augment.Pictures(
        torch.ones(1, 3, 900, 1600), torch.zeros(4).long(), torch.stack([v, u], 1)
    )
    small = augment.resize_pictures(pictures, (240, 400))
    assert small.images.shape == (1, 3, 240, 400)
    expected = [[int(a * 240 / 900), int(b * 400 / 1600)] for a, b in zip(v, u, strict=True)]
    assert small.pixel_rc.tolist() == expected


def test_a_crop_takes_the_largest_multiple_of_16_that_all_pictures_hold() -> None:
    sizes = np.array([[376, 1241], [370, 1226], [96, 304]])
    assert common_crop(AugmentConfig(), sizes[:2]) == (320, 480)
    assert common_crop(AugmentConfig(), sizes) == (96, 304)
    assert common_crop(AugmentConfig(crop_hw=None), sizes[:2]) == (368, 1216)
    lefts = {
        place_crop((32, 96), image_hw=(70, 99), share=s).left for s in np.linspace(0, 0.999, 50)
    }
    assert lefts == {0, 1, 2, 3}
    assert place_crop((32, 96), image_hw=(70, 99), share=0.3).top == 38


def test_a_scan_without_picture_in_a_batch_sees_nothing() -> None:
    rng = np.random.default_rng(6)
    with_picture = load(coordinate_scan(rng, hw=(70, 203)), OFF, scan=0)
    bare = ScanRecord(**{**vars(with_picture.record), "cameras": ()})
    without = LoadedScan(position=1, info=INFO, record=bare, draw=with_picture.draw, crop=None)
    raw = collate([without, with_picture], with_images=True, size_hw=(64, 192))
    batch = point_batch(raw, config=OFF, grid=GRID, device=CPU)
    assert batch.images is not None
    assert len(batch.images.images) == 1
    assert int(batch.images.point_index.min()) >= bare.n


@pytest.mark.parametrize("symmetry", range(8))
def test_relabelled_hashes_equal_recomputed_ones(symmetry: int) -> None:
    """Points in the middle half of scale-1 cells: no coarser border is nearer, so no float edge."""
    grid = GridConfig(low=(-8, -8, -4), high=(8, 8, 2), shape=(160, 160, 60))
    rng = np.random.default_rng(symmetry)
    n = 3000
    cell = rng.integers(0, grid.shape, (n, 3))
    xyz = ((cell + rng.uniform(0.3, 0.7, (n, 3))) * 0.1 + np.array(grid.low)).astype(np.float32)
    label = rng.integers(0, 4, n).astype(np.uint8)
    (a, b), (c, d) = SYMMETRIES[symmetry]
    moved = xyz @ np.array([[a, b, 0], [c, d, 0], [0, 0, 1]], np.float32)
    before = plain_voxels(xyz.T, label, grid)
    after = plain_voxels(moved.T, label, grid)
    assert not leaves_grid(before, grid)
    for old, new in zip(before, after, strict=True):
        x, y, z = old.coord.max(1).tolist()
        cached = CachedHash(
            scale=old.scale,
            coord=torch.from_numpy(old.coord),
            voxel_starts=(0, old.coord.shape[1]),
            tops=(x, y, z),
            label=torch.from_numpy(old.label),
            inverse=torch.from_numpy(old.inverse),
        )
        got = scale_voxels(cached, scan_starts=(0, n), symmetries=(symmetry,), grid=grid)
        assert got.label is not None
        assert got.coords[:, [3, 2, 1]].T.tolist() == new.coord.tolist()
        assert got.inverse.tolist() == new.inverse.tolist()
        assert got.label.tolist() == new.label.tolist()


@pytest.mark.parametrize("symmetry", range(8))
def test_relabelled_and_recomputed_cells_differ_only_at_float_edges(symmetry: int) -> None:
    """Any points: the cell of each, relabelled, is that of its moved point, or a border is within
    0.0002 cells (float32 rounds n (p - low) of the finest scale to 0.00008 cells)."""
    rng = np.random.default_rng(symmetry)
    low, high = np.array(GRID.low), np.array(GRID.high)
    xyz = (low + (high - low) * rng.uniform(0.0001, 0.9999, (20_000, 3))).astype(np.float32)
    xyz[:4000, 0] = (rng.integers(1, 1000, 4000) * 0.1 - 50).astype(np.float32)  # on borders
    (a, b), (c, d) = SYMMETRIES[symmetry]
    moved = xyz @ np.array([[a, b, 0], [c, d, 0], [0, 0, 1]], np.float32)
    for old, new in zip(
        plain_voxels(xyz.T, None, GRID), plain_voxels(moved.T, None, GRID), strict=True
    ):
        cells = [-(-n // old.scale) for n in GRID.shape]
        mapped = map_cells(
            torch.from_numpy(old.coord.astype(np.int32)),
            symmetry=symmetry,
            cells=(cells[0], cells[1]),
        ).numpy()[:, old.inverse]
        recomputed = new.coord[:, new.inverse]
        differs = (mapped != recomputed).any(axis=0)
        place = np.array(cells) * (xyz - low) / (high - low)
        to_border = np.abs(place - place.round()).min(axis=1)
        assert (to_border[differs] < 2e-4).all()
        inner = to_border >= 2e-4
        assert np.array_equal(mapped[:, inner], recomputed[:, inner])
        assert inner.mean() > 0.7


def test_symmetries_are_those_of_the_grid() -> None:
    assert grid_symmetries(GRID) == tuple(range(8))
    long = GridConfig(low=(-50, -25, -4), high=(50, 25, 2), shape=(1000, 500, 60))
    assert grid_symmetries(long) == (0, 1, 2, 3)
    ahead = GridConfig(low=(0, -25, -4), high=(50, 25, 2), shape=(500, 500, 60))
    assert grid_symmetries(ahead) == (0, 2)
    used = {draw.symmetry for draw in draws(AugmentConfig(mode="lattice"), 100)}
    assert used == set(range(8))


def test_a_point_in_the_cell_above_the_grid_is_noticed() -> None:
    edge = np.nextafter(np.float32(50), np.float32(0))
    xyz = np.array([[edge, 0], [0, 1], [0, 0]], np.float32)
    assert leaves_grid(plain_voxels(xyz, None, GRID), GRID)
    assert not leaves_grid(plain_voxels(xyz * np.float32(0.99), None, GRID), GRID)
