"""Small recorded facts of the published code; `test_golden.py` collects these tests.

They lie in small/ (one frame also in frame/) beside the recorded cases, here or in $PASS2D_GOLDEN.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import FOLDERS, Recording, as_array, load_arrays, named_weight
from numpy.typing import NDArray

from pass2d.cache.schema import SCALES, DatasetInfo, GridConfig
from pass2d.cache.statistics import class_weights
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.registry import build_network
from pass2d.models.twodpass.cells import plan_cells, root_cells, scale_cells
from pass2d.models.twodpass.published_names import CLASS_WEIGHT_BUFFERS, our_name, our_tensor
from pass2d.pipeline.compose import camera_views, lidar_record, voxel_levels
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.datasets.table import load_table
from pass2d.pipeline.stages.calibration import image_from_lidar_matrix
from pass2d.pipeline.stages.ego_motion import Pose, image_from_lidar_through_world
from pass2d.pipeline.stages.projection import (
    pixels_after_resize,
    project_points,
    project_points_by_depth,
)
from pass2d.pipeline.stages.voxels import cell_indices, voxelize
from pass2d.train.checkpoints.checkpoint import load_checkpoint, network_from_checkpoint
from pass2d.train.checkpoints.published.importer import import_checkpoint
from pass2d.train.checkpoints.published.layout import recognise
from pass2d.train.data import augment
from pass2d.train.data.batch import RawBatch, point_batch
from pass2d.train.data.collate import collate
from pass2d.train.data.sampling import AugmentConfig, draw_scan
from pass2d.train.data.scan import Crop, LoadedScan
from pass2d.train.inference.metric import count_pairs, published_scores
from pass2d.train.optim.losses import lovasz_softmax
from pass2d.train.optim.schedule import RunLength, ScheduleConfig, learning_rate

__all__ = [  # what a test file may collect
    "small_device",
    "test_cells_on_borders",
    "test_class_weights",
    "test_cosine_per_epoch_to_the_last_digit",
    "test_cosine_per_step_to_the_last_digit",
    "test_lovasz_in_float32_is_as_near_as_the_published_one",
    "test_lovasz_value_and_gradient",
    "test_nuscenes_points_in_their_cameras",
    "test_points_on_borders_can_be_voxelized",
    "test_published_files_give_the_weights_of_the_rule",
    "test_published_protocol",
    "test_semkitti_crop_as_a_batch",
    "test_semkitti_frame_end_to_end",
    "test_semkitti_pictures_as_the_network_sees_them",
    "test_semkitti_projection",
    "test_the_cases_lists_of_tensors_are_recognised",
]

TABLES = Path(__file__).resolve().parents[1] / "pipeline" / "datasets"
DATASETS: tuple[DatasetInfo, ...] = tuple(
    load_table(TABLES / f"{name}.toml").info for name in ("semkitti", "nuscenes")
)
GRIDS = dict(zip(("semantickitti", "nuscenes"), (info.grid for info in DATASETS), strict=True))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def small_device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def recorded(name: str) -> Path:
    """A file or folder beside the cases; skips where these recordings have none."""
    for folder in FOLDERS:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"no {name} beside the recorded cases")


def facts_of(name: str) -> dict[str, Any]:
    return json.loads(recorded(f"small/{name}.json").read_text())


def arrays_of(name: str) -> dict[str, NDArray[Any]]:
    return load_arrays(recorded(f"small/{name}.npz"))


# losses, weights, schedules, scores


def test_lovasz_value_and_gradient(small_device: str) -> None:
    facts, arrays = facts_of("lovasz"), arrays_of("lovasz")
    assert facts
    for name, fact in facts.items():
        probs = torch.from_numpy(arrays[f"{name}_probs"]).to(small_device, torch.float64)
        probs.requires_grad_()
        labels = torch.from_numpy(arrays[f"{name}_labels"].astype(np.int64)).to(small_device)
        counts = (labels != fact["ignore"]).to(torch.float64)
        value = lovasz_softmax(probs, labels.clamp(max=probs.shape[1] - 1), counts)
        value.backward()
        assert float(value.detach()) == pytest.approx(fact["value"], rel=1e-12)
        assert probs.grad is not None
        grad = arrays[f"{name}_grad"]
        assert probs.shape == (fact["P"], fact["C"])
        assert np.abs(as_array(probs.grad) - grad).max() <= 2.0**-24 * np.abs(grad).max()


def test_lovasz_in_float32_is_as_near_as_the_published_one(small_device: str) -> None:
    facts, arrays = facts_of("lovasz"), arrays_of("lovasz")
    noise = max(abs(fact["value_float32"] - fact["value"]) for fact in facts.values())
    for name, fact in facts.items():
        probs = torch.from_numpy(arrays[f"{name}_probs"]).to(small_device).requires_grad_()
        labels = torch.from_numpy(arrays[f"{name}_labels"].astype(np.int64)).to(small_device)
        counts = (labels != fact["ignore"]).to(torch.float32)
        value = lovasz_softmax(probs, labels.clamp(max=probs.shape[1] - 1), counts)
        value.backward()
        assert abs(float(value.detach()) - fact["value"]) <= 4 * noise
        assert probs.grad is not None
        limit = 4 * fact["grad_float32_vs_float64_max_abs"]
        assert np.abs(as_array(probs.grad) - arrays[f"{name}_grad"]).max() <= limit


def test_class_weights() -> None:
    facts = facts_of("class_weights")
    ours = class_weights(facts["counts"])
    published = np.float32([float(weight) for weight in facts["weights"]])
    assert ours.dtype == np.float32
    assert ours[0] == 0  # published: infinite, harmless there because the class is ignored
    seen = np.isfinite(published)
    seen[0] = False
    assert ours[seen].tolist() == published[seen].tolist()
    assert np.isfinite(ours).all()


def test_cosine_per_step_to_the_last_digit() -> None:
    facts = [fact for fact in facts_of("lr_schedule").values() if "multiplier" in fact]
    assert facts
    for fact in facts:
        for gpus, multipliers in fact["multiplier"].items():
            world = int(gpus.removeprefix("gpus_"))
            steps = math.ceil(fact["dataset_size"] / (fact["batch_size_per_gpu"] * world))
            length = RunLength(epochs=fact["num_epochs"], steps_per_epoch=steps, world=world)
            for step, value in multipliers.items():
                rate = learning_rate(ScheduleConfig(), 1.0, step=int(step), length=length)
                assert rate == value, (gpus, step)


def test_cosine_per_epoch_to_the_last_digit() -> None:
    facts = [fact for fact in facts_of("lr_schedule").values() if "lr_at_epoch" in fact]
    assert facts
    for fact in facts:
        length = RunLength(epochs=fact["max_num_epochs"], steps_per_epoch=7)
        config = ScheduleConfig(kind="cosine-epoch", floor=fact["eta_min"])
        assert fact["T_max"] == length.epochs + config.t_max_offset_epochs
        for epoch, value in enumerate(fact["lr_at_epoch"]):
            for step in (7 * epoch, 7 * epoch + 6):
                assert learning_rate(config, fact["base_lr"], step=step, length=length) == value


def test_published_protocol(small_device: str) -> None:
    facts, points = facts_of("iou"), arrays_of("iou")
    assert facts
    for name, fact in facts.items():
        best = 0.0
        for epoch, expected in enumerate(fact["epochs"]):
            n_classes = len(fact["class_names"]) + 1
            counts = np.zeros((n_classes, n_classes), np.int64)
            updates = [key for key in points if key.startswith(f"{name}_epoch{epoch}_update")]
            for key in sorted(key for key in updates if key.endswith("_label")):
                label, prediction = points[key], points[key.removesuffix("label") + "pred"]
                counted = count_pairs(
                    torch.from_numpy(label).to(small_device),
                    torch.from_numpy(prediction).to(small_device),
                    n_classes=n_classes,
                )
                counts += counted[0].cpu().numpy()
            assert counts[1:, 1:].tolist() == expected["confusion_cropped"]
            scores = published_scores(counts)
            iou = [None if math.isnan(value) else value for value in scores.iou[1:].tolist()]
            assert iou == pytest.approx(expected["iou"], abs=1e-15)
            assert scores.miou == pytest.approx(expected["miou"], abs=1e-15)
            best = max(best, scores.miou)
            assert best == pytest.approx(expected["best_miou"], abs=1e-15)


# voxels


def border_cells() -> list[tuple[str, int, NDArray[np.int32]]]:
    """(grid's name, scale, recorded (N, 3) cells)."""
    found = [
        (name, scale, cells)
        for key, cells in arrays_of("voxel_border").items()
        for name in GRIDS
        for scale in SCALES
        if key == f"{name}_scale{scale}_xyz_index"
    ]
    assert found
    return found


def test_cells_on_borders(small_device: str) -> None:
    border = arrays_of("voxel_border")
    for name, scale, cells in border_cells():
        config = GRIDS[name]
        ours = cell_indices(border["points"].T, grid=config, scale=scale)
        np.testing.assert_array_equal(ours.T, cells)
        plan = plan_cells(config.shape, SCALES)
        roots = root_cells(
            torch.from_numpy(border["points"]).to(small_device), plan=plan, grid=grid_of(config)
        )
        level = plan.scales.index(scale)
        on_device = torch.stack(scale_cells(roots, plan=plan, level=level), dim=1)
        inside = border[f"{name}_strictly_inside"]
        np.testing.assert_array_equal(on_device.cpu().numpy()[inside], cells[inside])


def test_points_on_borders_can_be_voxelized() -> None:
    border = arrays_of("voxel_border")
    for name, scale, cells in border_cells():
        inside = border[f"{name}_strictly_inside"]
        xyz = border["points"][inside].T
        (level,) = voxelize(xyz, None, grid=GRIDS[name], scales=(scale,))
        np.testing.assert_array_equal(level.coord[:, level.inverse].T, cells[inside])


def grid_of(config: GridConfig) -> Grid:
    return Grid(low=config.low, high=config.high, shape=config.shape)


# projection


def test_semkitti_projection() -> None:
    arrays, facts = arrays_of("dataset_semkitti"), facts_of("dataset_semkitti")
    height, width, _ = facts["full"]["img"][:3]
    seen = project_points(
        np.ascontiguousarray(arrays["full_point_feat"][:, :3].T),
        image_from_lidar=np.array(facts["proj_matrix"]),
        image_hw=(height, width),
    )
    np.testing.assert_array_equal(seen.point_index, arrays["full_point2img_index"])
    np.testing.assert_array_equal(seen.pixel_rc.T, arrays["full_img_indices"])
    row_col = arrays["full_img_points_row_col"]
    np.testing.assert_array_equal(seen.pixel_rc.T, np.floor(row_col))
    assert nearest_integer(row_col) == pytest.approx(
        facts["full"]["min_distance_of_a_projected_coordinate_to_an_integer"], abs=SINGLE_PIXEL
    )
    x, y, z = arrays["full_point_feat"][:, :3].T.astype(np.float64)
    depth = np.array(facts["proj_matrix"])[2] @ [x, y, z, np.ones_like(x)]
    assert (x > 0).sum() == facts["full"]["points_in_front_x>0"]
    behind = ((x > 0) & (depth <= 0)).sum()
    assert behind == facts["full"]["points_x>0_with_nonpositive_camera_depth"]


SINGLE_PIXEL = 1242 * 2.0**-24
"""Rounding of a coordinate within the picture to float32."""


def nearest_integer(coordinates: NDArray[np.floating]) -> float:
    """Smallest distance of any coordinate to a whole number."""
    values = coordinates.astype(np.float64)
    return float(np.abs(values - np.round(values)).min())


def frame_batch(config: AugmentConfig, *, size_hw: tuple[int, int], is_mirrored: bool) -> RawBatch:
    """The recorded frame as a batch of one scan, cropped where the recording was."""
    facts, listing = facts_of("dataset_semkitti"), list_semkitti(recorded("frame"))
    (scan,), grid = listing.scans, listing.info.grid
    lidar = lidar_record(scan, listing.info)
    (view,) = camera_views(scan, lidar, listing.info)
    assert view is not None
    assert view.image is not None
    top, left = (facts["crop"][side] if config.crop_hw else 0 for side in ("top", "left"))
    crop = Crop(top=top, left=left, height=size_hw[0], width=size_hw[1])
    cut = replace(view, image=view.image[:, left : left + crop.width])
    draw = draw_scan(config, seed=0, epoch=0, scan=0, grid=grid)
    loaded = LoadedScan(
        position=0,
        info=listing.info,
        record=replace(
            lidar, outside_xyz=None, outside_signal=None, outside_label=None, cameras=(cut,)
        ),
        draw=replace(draw, is_mirrored=is_mirrored),
        crop=crop,
    )
    return collate([loaded], with_images=True, size_hw=size_hw)


PLAIN = AugmentConfig(mode="none", crop_hw=None)


@pytest.mark.parametrize("kind", ["full", "crop", "crop_flip"])
def test_semkitti_pictures_as_the_network_sees_them(kind: str) -> None:
    facts = facts_of("dataset_semkitti")
    stats = facts[kind]["img_stats"]
    height, width, channels = stats["shape"]
    config = PLAIN if kind == "full" else replace(PLAIN, crop_hw=(height, width))
    raw = frame_batch(config, size_hw=(height, width), is_mirrored=kind == "crop_flip")
    assert raw.images is not None
    draws = raw.draws
    pictures = augment.Pictures(
        augment.float_pictures(raw.images), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)
    )
    mirrored = augment.mirror_pictures(pictures, [draw.is_mirrored for draw in draws])
    (image,) = augment.normalise_pictures(mirrored.images).permute(0, 2, 3, 1).double().numpy()
    assert image.shape == (height, width, channels)
    found = {"mean": image.mean(), "std": image.std(), "abs_sum": np.abs(image).sum()}
    for name, value in found.items():
        assert value == pytest.approx(stats[name], rel=1e-6), name
    np.testing.assert_allclose(image[0, 0], stats["corner_00"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(image[-1, -1], stats["corner_last"], rtol=0, atol=1e-6)


def test_semkitti_crop_as_a_batch() -> None:
    arrays, facts = arrays_of("dataset_semkitti"), facts_of("dataset_semkitti")
    shapes, crop = facts["collated_batch_of_one_crop"], facts["crop"]
    size_hw = (crop["crop_height"], crop["crop_width"])
    config = replace(PLAIN, crop_hw=size_hw)
    grid = DATASETS[0].grid
    for is_mirrored in (False, True):
        raw = frame_batch(config, size_hw=size_hw, is_mirrored=is_mirrored)
        batch = point_batch(raw, config=config, grid=grid, device=torch.device("cpu"))
        assert batch.images is not None
        assert batch.labels is not None
        assert len(batch.offsets) - 1 == shapes["batch_size"]
        assert batch_row(batch.points) == shapes["points"]
        assert batch_row(batch.points[:, :3]) == shapes["ref_xyz"]
        assert batch_row(batch.labels) == shapes["labels"]
        assert batch_row(batch.images.images) == shapes["img"]
        assert [batch_row(batch.images.point_index)] == shapes["point2img_index"]
        assert batch.images.pixel_rc.shape == tuple(shapes["img_indices"][0][:2])
        assert len(batch.images.point_index) == crop["n_img_points"]
        pixels = arrays["crop_img_indices"].copy()
        if is_mirrored:
            pixels[:, 1] = size_hw[1] - 1 - pixels[:, 1]
        np.testing.assert_array_equal(batch.images.pixel_rc.numpy(), pixels)
        index = batch.images.point_index
        np.testing.assert_array_equal(index.numpy(), arrays["crop_point2img_index"])
        seen = batch.labels[index]
        assert batch_row(seen) == shapes["img_label"]
        np.testing.assert_array_equal(seen.numpy(), arrays["crop_img_label"][:, 0])


def batch_row(tensor: torch.Tensor) -> list[Any]:
    """Shape and type, as the recording lists them."""
    return [*tensor.shape, str(tensor.dtype)]


def test_semkitti_frame_end_to_end() -> None:
    frame, arrays = recorded("frame"), arrays_of("dataset_semkitti")
    facts, listing = facts_of("dataset_semkitti"), list_semkitti(recorded("frame"))
    (scan,) = listing.scans
    (calib,) = frame.glob("sequences/*/calib.txt")
    matrix = image_from_lidar_matrix(calib.read_text(), file=calib)
    np.testing.assert_allclose(matrix, facts["proj_matrix"], rtol=1e-14, atol=1e-12)
    lidar = lidar_record(scan, listing.info)
    points = np.column_stack([lidar.xyz.T, lidar.signal])
    np.testing.assert_array_equal(points, arrays["full_point_feat"])
    np.testing.assert_array_equal(lidar.label, arrays["full_point_label"][:, 0])
    np.testing.assert_array_equal(lidar.raw_index, arrays["ref_index"])
    np.testing.assert_array_equal(np.flatnonzero(arrays["mask"]), lidar.raw_index)
    assert lidar.n_raw == facts["full"]["origin_len"] == len(arrays["ref_label"])
    assert lidar.n_raw == facts["collated_batch_of_one_crop"]["origin_len"]
    assert lidar.n == facts["full"]["point_num"]
    assert lidar.outside_label is not None
    whole = np.empty(lidar.n_raw, np.uint8)
    whole[arrays["mask"]], whole[~arrays["mask"]] = lidar.label, lidar.outside_label
    np.testing.assert_array_equal(whole, arrays["ref_label"][:, 0])
    (view,) = camera_views(scan, lidar, listing.info)
    assert view is not None
    np.testing.assert_array_equal(view.point_index, arrays["full_point2img_index"])
    np.testing.assert_array_equal(view.pixel_rc.T, arrays["full_img_indices"])
    np.testing.assert_array_equal(lidar.label[view.point_index], arrays["full_img_label"][:, 0])
    crop_rc = arrays["crop_img_indices"] + [facts["crop"]["top"], facts["crop"]["left"]]
    colors = view.image[crop_rc[:, 0], crop_rc[:, 1]]
    np.testing.assert_array_equal(colors, arrays["crop_rgb_at_img_indices"])
    case = recorded("case_k")
    for level in voxel_levels(lidar, grid=listing.info.grid):
        voxels = load_arrays(case / "voxels.npz")
        assert level.coord.shape[1] == len(voxels[f"scale{level.scale}_coors_bzyx"])


def matrix_of(calib: dict[str, list[float]]) -> NDArray[np.float64]:
    def pose(name: str, suffix: str = "") -> Pose:
        return Pose(
            rotation_wxyz=tuple(calib[f"{name}_rotation{suffix}"]),
            translation_m=tuple(calib[f"{name}_translation{suffix}"]),
        )

    return image_from_lidar_through_world(
        ego_from_lidar=pose("lidar2ego"),
        world_from_ego_at_scan=pose("ego2global", "_lidar"),
        world_from_ego_at_image=pose("ego2global", "_cam"),
        ego_from_camera=pose("cam2ego"),
        intrinsics=np.array(calib["cam_intrinsic"]),
    )


def test_nuscenes_points_in_their_cameras() -> None:
    arrays, facts = arrays_of("nus_mapping"), facts_of("nus_mapping")
    cameras = {name: fact for name, fact in facts.items() if f"{name}_mask" in arrays}
    assert cameras
    xyz = np.ascontiguousarray(arrays["points_xyzi"][:, :3].T)
    for name, fact in cameras.items():
        matrix = matrix_of(fact["calib"])
        seen = project_points_by_depth(xyz, image_from_lidar=matrix, image_hw=(900, 1600))
        assert len(seen.point_index) == fact["n_points"]
        np.testing.assert_array_equal(seen.point_index, np.flatnonzero(arrays[f"{name}_mask"]))
        col_row = arrays[f"{name}_points_img_col_row"]
        np.testing.assert_array_equal(seen.pixel_rc[::-1].T, np.floor(col_row))
        ours = matrix[:, :3] @ xyz[:, seen.point_index] + matrix[:, 3:]
        # Twice the way of getting there moved the recorded pixels so far.
        room = fact["max_pixel_difference_to_direct_lidar2cam"]
        assert np.abs(ours[:2] / ours[2] - col_row.T).max() <= room
        nearest = fact["min_distance_of_a_projected_coordinate_to_an_integer"]
        assert nearest_integer(col_row) == nearest
        stored = pixels_after_resize(seen.pixel_rc, image_hw=(900, 1600), stored_hw=(240, 400))
        np.testing.assert_array_equal(stored.T, arrays[f"{name}_img_indices_400x240"])
        assert stored.dtype == np.uint16


# published files


def shapes_of(entries: list[Any]) -> dict[str, tuple[int, ...]]:
    return {entry["name"]: tuple(entry["shape"]) for entry in entries}


def test_the_cases_lists_of_tensors_are_recognised() -> None:
    for case in Recording.find_all():
        shapes = shapes_of(case.state_entries)
        layout = recognise(shapes)
        assert layout is not None
        assert layout.n_classes == case.config["num_classes"]
        network = build_network(
            layout.architecture, layout.settings, grid=case.grid, n_classes=layout.n_classes
        )
        for name in layout.set_aside:
            # Networks that train without class weights have none.
            assert shapes.pop(name, None) in (None, (layout.n_classes,))
        assert layout.expected(network) == shapes


def test_published_files_give_the_weights_of_the_rule(tmp_path: Path) -> None:
    files = sorted(recorded("small").glob("*.ckpt"))
    if not files:
        pytest.skip("no small/*.ckpt beside the recorded cases")
    for source in files:
        report = import_checkpoint(source, tmp_path / "ours.safetensors", datasets=DATASETS)
        ours = load_checkpoint(report.out).part("network.")
        entries = json.loads(source.with_suffix(".json").read_text())["entries"]
        for entry in entries:
            name = our_name(entry["name"])
            if entry["name"] in CLASS_WEIGHT_BUFFERS:
                assert name is None
                continue
            assert name is not None
            expected = our_tensor(entry["name"], named_weight(entry["name"], entry["shape"]))
            assert torch.equal(ours.pop(name), expected.to(ours_dtype(expected))), name
        assert not ours
        network, _card = network_from_checkpoint(report.out, torch.device("cpu"))
        points = torch.zeros(2, 4)
        batch = PointBatch(points=points, offsets=torch.tensor([0, 2]))
        assert network(network.prepare(batch)).logits.isfinite().all()


def ours_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else torch.int64
