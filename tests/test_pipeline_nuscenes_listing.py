"""nuScenes: its key frames, what may be missing, what the check finds, what the cache holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes_files import NuscenesFolder, jpeg, token
from PIL import Image
from pipeline_files import check_nuscenes

from pass2d.cache.fields import Fields
from pass2d.cache.layout import shard_number
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import CacheError, DataError
from pass2d.common.progress import Silent
from pass2d.pipeline.compose import camera_views, lidar_record
from pass2d.pipeline.datasets.nuscenes import list_nuscenes, nuscenes_table
from pass2d.pipeline.prepare import PrepareConfig, plan, prepare
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.run.jobs import cut_into_shards
from pass2d.pipeline.stages.images import decode_rgb, resize_bilinear

CAMERAS = nuscenes_table().cameras
INLINE = PrepareConfig(workers=0)


@pytest.fixture
def folder(tmp_path: Path) -> NuscenesFolder:
    return NuscenesFolder(tmp_path / "nus")


def check(root: Path, **options) -> list[Problem]:
    return check_nuscenes(root, progress=Silent(), **options)


def errors(root: Path, **options) -> list[Problem]:
    return [problem for problem in check(root, **options) if problem.severity == "error"]


# scans


def test_a_scan_is_a_key_frame_in_the_order_of_time(folder: NuscenesFolder) -> None:
    folder.tables["sample"].reverse()
    root = folder.write()
    listing = list_nuscenes(root)
    assert [(s.sequence, s.frame_index, s.split) for s in listing.scans] == [
        ("scene-0061", 0, "train"),
        ("scene-0061", 1, "train"),
        ("scene-0103", 0, "val"),
        ("scene-0103", 1, "val"),
    ]
    first = listing.scans[0]
    assert first.scan_id == first.token == token("scene-0061 0 LIDAR_TOP 1000000000")
    assert first.points.is_file()
    assert first.labels is not None
    assert first.labels.name == f"{first.token}_lidarseg.bin"
    assert [path and path.parent.name for path in first.images] == list(CAMERAS)
    assert first.taken_hw == ((90, 160),) * 6
    assert first.stored_hw == (240, 400)
    assert listing.notes == ("v1.0-mini: 2 of 10 scenes are in the tables",)


def test_a_key_frame_keeps_its_place_when_others_have_no_points(folder: NuscenesFolder) -> None:
    folder.drop(lambda name: "LIDAR_TOP__1000000000" in name)
    listing = list_nuscenes(folder.write())
    assert next((s.sequence, s.frame_index) for s in listing.scans) == ("scene-0061", 1)
    (note,) = (note for note in listing.notes if note.startswith("left out without point file"))
    assert ": 1 of 4 (scene-0061), first " in note
    assert note.endswith("LIDAR_TOP__1000000000.pcd.bin")


def test_labels_are_found_without_their_table(folder: NuscenesFolder) -> None:
    del folder.tables["lidarseg"]
    assert all(scan.labels is not None for scan in list_nuscenes(folder.write()).scans)


@pytest.mark.parametrize(
    ("gone", "note"),
    [
        ("lidarseg/", "no labels ("),
        ("samples/CAM_", "all cameras: no pictures"),
        ("samples/CAM_BACK/", "CAM_BACK: no pictures"),
        ("CAM_BACK__1999993000", "CAM_BACK: scans without picture: 1 of 4 (scene-0103)"),
    ],
)
def test_what_is_missing_is_said_once(folder: NuscenesFolder, gone: str, note: str) -> None:
    folder.drop(lambda name: gone in name)
    root = folder.write()
    listing = list_nuscenes(root)
    assert len(listing.scans) == 4
    assert len([line for line in listing.notes if line.startswith(note)]) == 1
    problems = check(root)
    assert problems
    assert {problem.severity for problem in problems} == {"note"}


def test_a_set_without_any_points_is_refused(folder: NuscenesFolder) -> None:
    folder.drop(lambda name: "LIDAR_TOP" in name)
    root = folder.write()
    for look in (list_nuscenes, check):
        with pytest.raises(DataError, match="none of the 4 key frames"):
            look(root)


def test_shards_keep_their_numbers_when_scenes_are_added(tmp_path: Path) -> None:
    few = NuscenesFolder(tmp_path / "few", scenes=("scene-0103",)).write()
    many = NuscenesFolder(tmp_path / "many", scenes=("scene-0061", "scene-0103")).write()
    before, after = (cut_into_shards(list_nuscenes(r).scans, shard_scans=64) for r in (few, many))
    assert [job.shard for job in before] == [103_000]
    assert [(job.shard, job.sequence) for job in after] == [
        (61_000, "scene-0061"),
        (103_000, "scene-0103"),
    ]
    assert shard_number("scene-0061", 1) == 61_001
    with pytest.raises(CacheError, match="sequence 08 has more scans than the 1000 shards"):
        shard_number("08", 1000)
    every = [name for names in nuscenes_table().splits.values() for name in names]
    assert len({shard_number(name, 0) for name in every}) == len(set(every)) == 1000


# the tables do not fit together


@pytest.mark.parametrize("table", ["ego_pose", "calibrated_sensor"])
def test_a_missing_row_is_named(folder: NuscenesFolder, table: str) -> None:
    if table == "ego_pose":
        del folder.tables[table][3]
    else:  # the picture names a calibration that nobody wrote
        row = folder.tables["sample_data"][3]
        folder.tables["calibrated_sensor"].append(
            {**folder.tables["calibrated_sensor"][3], "token": "other"}
        )
        row["calibrated_sensor_token"] = "other"
        folder.tables["calibrated_sensor"][-1]["camera_intrinsic"] = [[1, 2]]
    root = folder.write()
    if table == "ego_pose":
        (problem,) = errors(root)
        assert problem.file.name == "ego_pose.json"
        (failed,) = list_nuscenes(root).failed
        assert (failed.container, failed.reason) == ("camera", str(problem))
    else:
        with pytest.raises(DataError, match=f"{table}.json"):
            list_nuscenes(root)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("sample", {"timestamp": None}),
        ("sample_data", {"timestamp": "late"}),
        ("sample_data", {"width": -5}),
        ("sample_data", {"filename": None}),
        ("ego_pose", {"rotation": [0, 0, 0, 0]}),
        ("ego_pose", {"translation": [1, 2]}),
        ("calibrated_sensor", {"rotation": [1, 0, "x", 0]}),
        ("calibrated_sensor", {"camera_intrinsic": None}),
    ],
)
def test_a_value_of_another_kind_is_named(
    folder: NuscenesFolder, table: str, change: dict[str, object]
) -> None:
    folder.tables[table][1].update(change)
    with pytest.raises(DataError, match=rf"{table}.json: row .*: {next(iter(change))}|quaternion"):
        list_nuscenes(folder.write())


# arrays


def test_real_scan_equals_the_recorded_mapping(shared: Path) -> None:
    golden = np.load(shared / "golden" / "small" / "nus_mapping.npz")
    listing = list_nuscenes(shared / "real" / "nuscenes")
    (scan,) = listing.scans
    raw = np.fromfile(scan.points, np.float32).reshape(-1, 5)
    sampled = golden["points_xyzi"]
    step = len(raw) // len(sampled)
    np.testing.assert_array_equal(raw[::step, :4], sampled)
    lidar = lidar_record(scan, listing.info)
    views = camera_views(scan, lidar, listing.info)
    for name, view in zip(CAMERAS, views, strict=True):
        assert view is not None
        assert view.image is not None
        assert view.image.shape == (240, 400, 3)
        rows = lidar.raw_index[view.point_index]
        pixel_of_row = dict(zip(rows.tolist(), view.pixel_rc.T.tolist(), strict=True))
        inside = set(lidar.raw_index.tolist())
        visible = np.flatnonzero(golden[f"{name}_mask"]) * step
        recorded = dict(
            zip(visible.tolist(), golden[f"{name}_img_indices_400x240"].tolist(), strict=True)
        )
        expected = {row: pixel for row, pixel in recorded.items() if row in inside}
        found = {row: pixel for row, pixel in pixel_of_row.items() if row % step == 0}
        differing = [
            row for row in expected.keys() | found.keys() if expected.get(row) != found.get(row)
        ]
        assert not differing, name
    assert lidar.signal.max() == 255


def test_real_labels_agree_with_the_published_counts(shared: Path) -> None:
    listing = list_nuscenes(shared / "real" / "nuscenes")
    lidar = lidar_record(listing.scans[0], listing.info)
    assert lidar.label is not None
    assert lidar.outside_label is not None
    labels = np.concatenate([lidar.label, lidar.outside_label])
    counts = dict(zip(listing.info.labels.names, np.bincount(labels, minlength=17), strict=True))
    expected = {"car": 74, "truck": 481, "bus": 3, "bicycle": 1, "pedestrian": 104, "barrier": 273}
    assert {name: int(counts[name]) for name in expected} == expected
    assert counts["noise"] == 8029 + 10028
    assert round(lidar.n / lidar.n_raw, 3) == 0.929


def test_a_picture_is_resized_as_pillow_does_it() -> None:
    image = decode_rgb(jpeg(3, (90, 160)), file=Path("x"))
    small = resize_bilinear(image, size_hw=(24, 40))
    expected = Image.fromarray(image).resize((40, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small, np.array(expected))
    plain = np.full((90, 160, 3), (10, 20, 30), np.uint8)
    assert np.unique(resize_bilinear(plain, size_hw=(24, 40)).reshape(-1, 3), axis=0).tolist() == [
        [10, 20, 30]
    ]


@pytest.mark.parametrize("size", [(24, 40), None])
def test_pixels_move_with_the_picture(folder: NuscenesFolder, size: tuple[int, int] | None) -> None:
    root = folder.write()
    taken, stored = (list_nuscenes(root, stored_hw=hw) for hw in (None, size))
    lidar = lidar_record(taken.scans[0], taken.info)
    for one, other in zip(
        camera_views(taken.scans[0], lidar, taken.info),
        camera_views(stored.scans[0], lidar, stored.info),
        strict=True,
    ):
        assert one is not None
        assert other is not None
        assert other.image is not None
        np.testing.assert_array_equal(one.point_index, other.point_index)
        height, width = size or (90, 160)
        assert other.image.shape == (height, width, 3)
        expected = [[r * height // 90, c * width // 160] for r, c in one.pixel_rc.T.tolist()]
        assert other.pixel_rc.T.tolist() == expected


def test_a_picture_of_another_size_than_its_calibration_is_refused(folder: NuscenesFolder) -> None:
    name = next(name for name in folder.files if "CAM_FRONT__" in name)
    folder.files[name] = jpeg(1, (80, 160))
    listing = list_nuscenes(folder.write())
    lidar = lidar_record(listing.scans[0], listing.info)
    with pytest.raises(ProblemError, match=r"found a picture of 160x80 .* expected 160x90"):
        camera_views(listing.scans[0], lidar, listing.info)


# the check


def test_the_check_finds_every_fault(folder: NuscenesFolder) -> None:
    names = sorted(name for name in folder.files if name.startswith("samples/LIDAR_TOP"))
    labels = sorted(name for name in folder.files if name.startswith("lidarseg/"))
    pictures = sorted(name for name in folder.files if name.startswith("samples/CAM_FRONT/"))
    folder.files[names[0]] = folder.files[names[0]][:-3]
    nan = np.frombuffer(folder.files[names[1]], "<f4").copy()
    nan[7] = np.nan
    folder.files[names[1]] = nan.tobytes()
    folder.files[labels[2]] = folder.files[labels[2]][:-1]
    folder.files[labels[3]] = bytes([77]) + folder.files[labels[3]][1:]
    folder.files[pictures[0]] = folder.files[pictures[0]][:200]
    folder.files[pictures[1]] = jpeg(1, (45, 160))
    root = folder.write()
    faults = errors(root)
    assert {str(p.file.relative_to(root)) for p in faults} == {
        *names[:2],
        *labels[2:],
        *pictures[:2],
    }
    assert len(faults) == 6
    assert len(errors(root, splits=("train",))) == 4


def test_a_whole_set_has_no_problems(folder: NuscenesFolder) -> None:
    (note,) = check(folder.write())
    assert note.severity == "note"
    assert note.found == "v1.0-mini: 2 of 10 scenes are in the tables"


# the cache


def test_six_cameras_travel_through_the_cache(folder: NuscenesFolder, tmp_path: Path) -> None:
    folder.drop(lambda name: "CAM_BACK__999993000" in name)
    listing = list_nuscenes(folder.write())
    summary = prepare(listing, tmp_path / "c" / "nuscenes", INLINE, Silent())
    assert summary.failed == ()
    with CacheReader.open(tmp_path / "c") as reader:
        assert reader.info == listing.info
        assert sorted(reader.scans.sequence.tolist()) == [s.sequence for s in listing.scans]
        for position, scan in enumerate(listing.scans):
            record = reader.read(position, Fields(image=True, pixels=True))
            expected = [
                v for v in camera_views(scan, lidar_record(scan, listing.info), listing.info) if v
            ]
            assert record.scan_id == scan.token
            assert len(record.cameras) == len(expected) == (5 if position == 0 else 6)
            for view, other in zip(record.cameras, expected, strict=True):
                np.testing.assert_array_equal(view.image, other.image)
                np.testing.assert_array_equal(view.pixel_rc, other.pixel_rc)
                np.testing.assert_array_equal(view.point_index, other.point_index)


def test_another_picture_size_runs_the_camera_stage_only(
    folder: NuscenesFolder, tmp_path: Path
) -> None:
    root = folder.write()
    place = tmp_path / "c" / "nuscenes"
    prepare(list_nuscenes(root), place, INLINE, Silent())
    assert plan(list_nuscenes(root), place, INLINE).tasks == ()
    tasks = plan(list_nuscenes(root, stored_hw=None), place, INLINE).tasks
    assert {(task.container, task.reason) for task in tasks} == {
        ("camera", "stored_hw [240, 400] -> null")
    }
    prepare(list_nuscenes(root, stored_hw=None), place, INLINE, Silent())
    with CacheReader.open(place) as reader:
        assert reader.scans.camera_hw[0].tolist() == [[90, 160]] * 6


def test_a_new_pose_runs_the_camera_stage_only(folder: NuscenesFolder, tmp_path: Path) -> None:
    root, place = folder.write(), tmp_path / "c" / "nuscenes"
    prepare(list_nuscenes(root), place, INLINE, Silent())
    file = root / "v1.0-mini" / "ego_pose.json"
    rows = json.loads(file.read_text())
    rows[1]["translation"][0] += 0.5
    file.write_text(json.dumps(rows))
    tasks = plan(list_nuscenes(root), place, INLINE).tasks
    assert [(task.container, task.sequence) for task in tasks] == [("camera", "scene-0061")]
