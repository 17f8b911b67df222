"""From raw files through cache, stream and augmentation: a pixel shows what its point's file says.

The pictures encode their own coordinates. What a point should see is worked out from the raw file
and the calibration by the plain formula, never from what the cache stores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import nuscenes_files
import pytest
import torch
from numpy.typing import NDArray
from nuscenes_files import YAW_DEG, NuscenesFolder
from PIL import Image
from pipeline_files import write_sequence
from train_samples import INSTANCE_COPY

from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import SCALES, ScanRecord
from pass2d.common.progress import Silent
from pass2d.models.inputs import PointBatch
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.train.data.batch import RawBatch, point_batch
from pass2d.train.data.collate import collate, common_crop
from pass2d.train.data.dropout import KeptPoints, kept_points
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.scan import LoadedScan, ScanDraw

KITTI_HW = (376, 1241)
TAKEN_HW, SMALL_HW = (900, 1600), (240, 400)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
OFF = AugmentConfig(
    dropout_ratio=0, rotate=False, flip=False, scale=0, translate_m=0, jitter=0, mirror=0
)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the raw files say of the points inside the volume, in the order of the file."""

    xyz: NDArray[np.float64]
    uv: dict[int, NDArray[np.float64]]
    """Camera -> (N, 2) column and row; NaN where the camera does not see the point."""


def coordinate_png(hw: tuple[int, int]) -> bytes:
    """Red: column's low byte, green: row's low byte, blue: both high parts."""
    row, column = np.mgrid[: hw[0], : hw[1]]
    image = np.stack([column & 255, row & 255, (column >> 8) | (row >> 8) << 4], -1)
    buffer = BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def decoded_coordinates(colour: NDArray[np.float64]) -> NDArray[np.int64]:
    """(M, 3) of `coordinate_png` to (M, 2) column and row."""
    low_column, low_row, high = np.rint(colour).astype(np.int64).T
    return np.column_stack([low_column + ((high & 15) << 8), low_row + ((high >> 4) << 8)])


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """All scans of a cache as one augmented batch."""

    scans: list[LoadedScan]
    raw: RawBatch
    batch: PointBatch

    @classmethod
    def of(cls, reader: CacheReader, config: AugmentConfig, *, epoch: int) -> Augmented:
        positions = np.arange(len(reader.scans))
        size_hw = common_crop(config, reader.scans.camera_hw.reshape(-1, 2))
        plan = StreamPlan(
            positions=positions,
            batch_size=len(positions),
            seed=2,
            augment=config,
            size_hw=size_hw,
            scales=SCALES if config.keeps_hashes else (),
        )
        scans = [load_scan(reader, plan, int(position), epoch=epoch) for position in positions]
        raw = collate(scans, with_images=True, size_hw=size_hw)
        device = torch.device("cpu")
        batch = point_batch(raw, config=config, grid=reader.info.grid, device=device)
        return cls(scans=scans, raw=raw, batch=batch)

    def seen(self, picture: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(M,) rows of the scan that see a picture, (M, 3) their colours, 0..255."""
        images = self.batch.images
        assert images is not None
        mine = images.image_index == picture
        row, column = images.pixel_rc[mine].unbind(1)
        colour = (images.images[picture, :, row, column].T * STD + MEAN) * 255
        scan = self.raw.image_scan[picture]
        row = (images.point_index[mine] - self.raw.scan_starts[scan]).numpy()
        kept = self.kept(self.scans[scan].record, self.scans[scan].draw)
        rows = row.astype(np.int64) if kept.rows is None else kept.rows[row]
        return rows, colour.numpy().astype(np.float64)

    @staticmethod
    def kept(record: ScanRecord, draw: ScanDraw) -> KeptPoints:
        return kept_points(record.n, ratio=draw.drop_ratio, seed=draw.point_seed, kind="copy")

    def segment(self, number: int, record: ScanRecord, draw: ScanDraw) -> NDArray[np.float32]:
        """(N, 3) a segment's points in the order of the file, copies where the weight says so."""
        rows = slice(*self.raw.segment_starts[number : number + 2])
        found, kept = self.batch.points[rows, :3].numpy(), self.kept(record, draw)
        if self.batch.weights is not None:
            assert int(self.batch.weights[rows].sum()) == record.n
        if kept.rows is None:
            return found
        points = np.repeat(found[:1], record.n, axis=0)
        points[kept.rows] = found
        return points

    def own_points(self, number: int) -> NDArray[np.float32]:
        """(N, 3) of the scan itself, without what was mixed in."""
        scan = self.scans[number]
        per_scan = (len(self.raw.segment_starts) - 1) // len(self.scans)
        return self.segment(per_scan * number, scan.record, scan.draw)

    def mixed_points(self, number: int) -> NDArray[np.float32]:
        scan = self.scans[number]
        (added,) = scan.added
        return self.segment(2 * number + 1, added.record, added.draw)


def stay(points: NDArray[np.float32], truth: Expected, draw: ScanDraw) -> NDArray[np.bool_]:
    """Which points lie where the formula puts them; all others must lie where point 0 does."""
    linear = np.array(draw.linear)
    expected = truth.xyz @ linear + draw.shift_m
    is_there = np.abs(points - expected).max(1) < 1e-3
    assert np.abs(points[~is_there] - expected[0]).max(initial=0) < 1e-3
    share = 1 - is_there.mean()
    assert share == pytest.approx(draw.drop_ratio, abs=0.05)
    assert (share > 0) == (draw.drop_ratio > 0)
    return is_there


# SemanticKITTI: a crop of a large picture, and the instances of another scan


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> tuple[CacheReader, list[Expected]]:
    """Three scans; all points of the second and third have an instance id, none of the first."""
    root = tmp_path_factory.mktemp("kitti")
    sequence = write_sequence(root / "raw", "00", n=2000)
    (sequence / "calib.txt").write_text(
        "P2: 600 0 620 0 0 600 180 0 0 0 1 0\n"
        "Tr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"  # u to the right (-y), v down (-z), depth x
    )
    expected = []
    for frame in range(3):
        (sequence / f"image_2/{frame:06d}.png").write_bytes(coordinate_png(KITTI_HW))
        points = np.fromfile(sequence / f"velodyne/{frame:06d}.bin", "<f4").reshape(-1, 4)
        xyz = points[:, :3].astype(np.float64)
        xyz = xyz[np.all((xyz > [-50, -50, -4]) & (xyz < [50, 50, 2]), 1)]
        uv = pinhole(xyz, focal=600, middle=(620, 180), hw=KITTI_HW)
        expected.append(Expected(xyz=xyz, uv={0: uv}))
    place = root / "cache" / "semkitti"
    prepare(list_semkitti(root / "raw"), place, PrepareConfig(workers=0), Silent())
    return CacheReader.open(root / "cache"), expected


def pinhole(
    xyz: NDArray[np.float64], *, focal: float, middle: tuple[float, float], hw: tuple[int, int]
) -> NDArray[np.float64]:
    """(N, 2) column and row in the picture of a camera that looks along x; NaN where unseen."""
    x, y, z = xyz.T
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = np.column_stack([middle[0] - focal * y / x, middle[1] - focal * z / x])
    uv[(x <= 0) | np.any((uv <= 0) | (uv >= (hw[1], hw[0])), 1)] = np.nan
    return uv


@pytest.mark.parametrize(
    "config",
    [
        OFF,
        replace(OFF, dropout_ratio=0.5),
        replace(OFF, rotate=True),
        replace(OFF, flip=True),
        replace(OFF, scale=0.05),
        replace(OFF, translate_m=0.1),
        replace(OFF, mirror=1.0),
        replace(OFF, crop_hw=None),
        replace(OFF, mixes=INSTANCE_COPY),
        AugmentConfig(jitter=0, mixes=INSTANCE_COPY),
        AugmentConfig(mode="lattice", jitter=0),
        AugmentConfig(mode="none"),
    ],
    ids=lambda c: ",".join(k for k, v in vars(c).items() if v != vars(OFF)[k]) or "off",
)
def test_a_point_of_the_file_sees_its_own_pixel(
    kitti: tuple[CacheReader, list[Expected]], config: AugmentConfig
) -> None:
    reader, expected = kitti
    made = Augmented.of(reader, config, epoch=3)
    for number, (truth, scan) in enumerate(zip(expected, made.scans, strict=True)):
        stays = stay(made.own_points(number), truth, scan.draw)
        rows, colour = made.seen(number)
        column, row = np.floor(truth.uv[0]).T
        np.testing.assert_array_equal(
            decoded_coordinates(colour), np.column_stack([column, row])[rows]
        )
        assert scan.crop is not None
        right = scan.crop.left + scan.crop.width
        inside = (row >= scan.crop.top) & (column >= scan.crop.left) & (column < right)
        assert sorted(rows) == np.flatnonzero(inside & stays).tolist()
        assert len(rows) > 20


def test_mixed_in_points_are_the_instances_of_the_other_file(
    kitti: tuple[CacheReader, list[Expected]],
) -> None:
    reader, expected = kitti
    partners = set()
    for epoch in range(6):
        made = Augmented.of(reader, AugmentConfig(jitter=0, mixes=INSTANCE_COPY), epoch=epoch)
        for number, scan in enumerate(made.scans):
            (added,) = scan.added
            assert added.draw.linear != scan.draw.linear  # it is augmented by itself
            other = int(added.record.scan_id.rpartition("/")[2])
            assert other != number
            partners.add((number, other))
            mixed = made.mixed_points(number)
            assert len(mixed) == (len(expected[other].xyz) if other else 0)
            if other:
                stay(mixed, expected[other], added.draw)
    assert len(partners) == 6  # each with each other


# nuScenes: pictures made smaller when prepared, or when they are read


@pytest.fixture(scope="module", params=["stored small", "resized in training"])
def nuscenes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CacheReader, list[Expected], AugmentConfig]:
    """Two scans with six pictures of 1600 x 900; the first is also a camera's time behind."""
    is_small = request.param == "stored small"
    root = tmp_path_factory.mktemp("nuscenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nuscenes_files, "TAKEN_HW", TAKEN_HW)
        patch.setattr(nuscenes_files, "jpeg", lambda _: b"")
        folder = NuscenesFolder(root / "raw", n=3000, scenes=("scene-0061",))
    picture = coordinate_jpeg(TAKEN_HW)
    for sensor in folder.tables["calibrated_sensor"]:
        if sensor["camera_intrinsic"]:
            sensor["camera_intrinsic"] = [[800.0, 0, 800], [0, 800.0, 450], [0, 0, 1]]
    time_us = {row["ego_pose_token"]: row["timestamp"] for row in folder.tables["sample_data"]}
    for pose in folder.tables["ego_pose"]:  # 10 m/s along the car's x, which is the world's y
        pose["translation"] = [400.0, 10 * time_us[pose["token"]] / 1e6, 0.0]
    folder.files = {k: picture if k.endswith("jpg") else v for k, v in folder.files.items()}
    raw, place = folder.write(), root / "cache" / "nuscenes"
    stored_hw = SMALL_HW if is_small else TAKEN_HW
    prepare(list_nuscenes(raw, stored_hw=stored_hw), place, PrepareConfig(workers=0), Silent())
    expected = []
    for row in folder.tables["sample_data"]:
        if row["filename"].startswith("samples/LIDAR_TOP"):
            points = np.frombuffer(folder.files[row["filename"]], "<f4").reshape(-1, 5)
            expected.append(nuscenes_truth(points[:, :3].astype(np.float64)))
    config = AugmentConfig(jitter=0, crop_hw=None, resize_hw=None if is_small else SMALL_HW)
    return CacheReader.open(root / "cache"), expected, config


def nuscenes_truth(xyz: NDArray[np.float64]) -> Expected:
    """The car drives 10 m/s along its x; pictures are 7 ms older, cameras sit at the lidar."""
    xyz = xyz[np.all((xyz > [-50, -50, -4]) & (xyz < [50, 50, 3]), 1)]
    uv = {}
    for number, yaw_deg in enumerate(YAW_DEG.values()):
        c, s = np.cos(np.deg2rad(yaw_deg)), np.sin(np.deg2rad(yaw_deg))
        x, y, z = np.add(xyz, [0.07, 0, 0]).T
        in_camera = np.column_stack([c * x + s * y, c * y - s * x, z])
        uv[number] = pinhole(in_camera, focal=800, middle=(800, 450), hw=TAKEN_HW)
    return Expected(xyz=xyz, uv=uv)


@pytest.mark.parametrize("cameras", ["one", "all"])
@pytest.mark.parametrize("mode", ["full", "lattice", "none"])
def test_a_point_of_the_file_sees_its_own_pixel_of_the_small_picture(
    nuscenes: tuple[CacheReader, list[Expected], AugmentConfig], mode: str, cameras: str
) -> None:
    reader, expected, config = nuscenes
    config = replace(config, mode=mode, cameras=cameras)
    mirrored = set()
    for epoch in range(1 if mode == "none" else 3):
        made = Augmented.of(reader, config, epoch=epoch)
        assert made.batch.images is not None
        assert made.batch.images.images.shape[-2:] == SMALL_HW
        drawn = [
            [int(6 * s.draw.camera_share)] if cameras == "one" else range(6) for s in made.scans
        ]
        views = [(number, camera) for number, share in enumerate(drawn) for camera in share]
        assert made.raw.image_scan == tuple(number for number, _ in views)
        for picture, (number, camera) in enumerate(views):
            truth, draw = expected[number], made.scans[number].draw
            mirrored.add(draw.is_mirrored)
            stays = stay(made.own_points(number), truth, draw)
            rows, colour = made.seen(picture)
            assert (
                sorted(rows) == np.flatnonzero(~np.isnan(truth.uv[camera][:, 0]) & stays).tolist()
            )
            assert len(rows) > 100
            assert_small_pixel(colour, np.floor(truth.uv[camera][rows]))
    assert mirrored == ({False} if mode == "none" else {True, False})


def coordinate_jpeg(hw: tuple[int, int]) -> bytes:
    """Red: column's low byte, green: row's low byte."""
    row, column = np.mgrid[: hw[0], : hw[1]]
    image = np.stack([column & 255, row & 255, np.zeros_like(row)], -1).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=100, subsampling=0)
    return buffer.getvalue()


def assert_small_pixel(colour: NDArray[np.float64], pixel_uv: NDArray[np.float64]) -> None:
    """The colour is the mean around the middle of pixel trunc(u * 400 / 1600), likewise v."""
    for axis, (small, large) in enumerate(zip((400, 240), (1600, 900), strict=True)):
        factor = large / small
        middle = (np.trunc(pixel_uv[:, axis] * small / large) + 0.5) * factor - 0.5
        within = middle % 256
        is_smooth = (within > 16) & (within < 256 - 16)  # a step of the byte mixes nothing here
        assert is_smooth.mean() > 0.5
        # JPEG's rounding; the next small pixel would be 3.75 or 4 off.
        assert np.abs(colour[:, axis] - within)[is_smooth].max() < 1.9
