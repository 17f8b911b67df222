"""`prepare` writes what the stages compute, once, and redoes only what changed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cache_samples import sample_info
from heard import Heard
from large_manifest import many_scans, publish_many
from pipeline_files import png, scan_points, shards, write_sequence

from pass2d.cache.care.status import status
from pass2d.cache.fields import CONTAINERS, Fields
from pass2d.cache.layout import Layout, shard_number
from pass2d.cache.manifest import load_manifest
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import SCALES
from pass2d.common.errors import CacheError, ConfigError
from pass2d.common.progress import Silent
from pass2d.corruptions.registry import parse_variants
from pass2d.pipeline.compose import camera_views, lidar_record, motion_record, voxel_levels
from pass2d.pipeline.corrupted import corrupted_listings
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, PrepareSummary, plan, prepare, prepare_all
from pass2d.pipeline.run import jobs
from pass2d.pipeline.run.describe import plan_json, plan_lines, summary_lines
from pass2d.pipeline.run.destination import LocalFolder
from pass2d.pipeline.run.jobs import cut_into_shards
from pass2d.pipeline.run.runners import InlineRunner, RunTask
from pass2d.pipeline.run.tasks import ContainerTask, TaskContext, TaskResult, run_task
from pass2d.pipeline.source import SourceListing

ALL = Fields(
    label=True, instance=True, image=True, pixels=True, voxels=True, outside=True, motion=True
)
INLINE = PrepareConfig(workers=0, shard_scans=2)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three sequences: 00 (3 scans, 2 shards), 08 without pictures, 11 without labels."""
    root = tmp_path / "raw"
    write_sequence(root, "00", (0, 1, 2))
    write_sequence(root, "08", (0, 5), images=False)
    write_sequence(root, "11", (0,), labels=False)
    return root


def run(raw: Path, out: Path, config: PrepareConfig = INLINE, **chosen: object) -> PrepareSummary:
    return prepare(list_semkitti(raw, **chosen), out, config, Silent())


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Name -> (size, time) of every file but the locks."""
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and ".tmp" not in path.parts
    }


def assert_holds(root: Path, listing: SourceListing) -> None:
    """The cache at ``root`` holds exactly what the stages compute for the listing's scans."""
    with CacheReader.open(root) as reader:
        assert reader.scans.scan_id.tolist() == [scan.scan_id for scan in listing.scans]
        for position, scan in enumerate(listing.scans):
            found = reader.read(position, ALL)
            for role, file in (
                ("points", scan.points),
                ("labels", scan.labels),
                ("image0", scan.images[0]),
            ):
                assert reader.source_file(position, role) == file
            lidar = lidar_record(scan, listing.info)
            for name in ("xyz", "signal", "raw_index", "label", "instance"):
                np.testing.assert_array_equal(getattr(found, name), getattr(lidar, name))
            for name in ("outside_xyz", "outside_signal", "outside_label"):
                np.testing.assert_array_equal(getattr(found, name), getattr(lidar, name))
            moved = motion_record(scan, lidar, listing.info) or lidar
            for name in ("motion", "outside_motion"):
                np.testing.assert_array_equal(getattr(found, name), getattr(moved, name))
            pose = np.full(12, np.nan) if scan.pose is None else scan.pose
            np.testing.assert_array_equal(reader.scans.pose[position].ravel(), pose)
            views = [view for view in camera_views(scan, lidar, listing.info) if view is not None]
            assert len(found.cameras) == len(views)
            for a, b in zip(found.cameras, views, strict=True):
                np.testing.assert_array_equal(a.image, b.image)
                np.testing.assert_array_equal(a.point_index, b.point_index)
                np.testing.assert_array_equal(a.pixel_rc, b.pixel_rc)
            levels = voxel_levels(lidar, grid=listing.info.grid)
            assert [level.scale for level in found.voxels] == list(SCALES)
            for a, b in zip(found.voxels, levels, strict=True):
                np.testing.assert_array_equal(a.coord, b.coord)
                np.testing.assert_array_equal(a.label, b.label)
                np.testing.assert_array_equal(a.inverse, b.inverse)


def test_cache_holds_what_the_stages_compute(raw: Path, tmp_path: Path) -> None:
    heard = Heard()
    summary = prepare(list_semkitti(raw), tmp_path / "out", INLINE, heard)
    assert_holds(tmp_path / "out", list_semkitti(raw))
    assert (summary.scans, summary.points, heard.done) == (6, 300, 6)
    assert (summary.scans_without_image, summary.scans_without_label) == (2, 1)
    assert (summary.written_shards, summary.kept_shards, summary.generation) == (16, 0, 1)
    assert heard.lines == list(list_semkitti(raw).notes)
    assert {one.container for one in summary.seconds_by_container} == set(CONTAINERS) - {"thinned"}
    assert summary.slowest_container in summary.seconds_by_container
    assert not (tmp_path / "out" / "failed.jsonl").exists()


def test_real_scans(real_semkitti: Path, tmp_path: Path) -> None:
    summary = run(real_semkitti, tmp_path / "out", PrepareConfig(workers=0))
    assert_holds(tmp_path / "out", list_semkitti(real_semkitti))
    assert summary.points == 124668 + 124605 + 123389 + 115236
    assert summary.total_bytes < summary.source_bytes


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_same_bytes(raw: Path, tmp_path: Path, monkeypatch) -> None:
    run(raw, tmp_path / "inline")
    # A folder that holds names of ours: workers must import the package, not these.
    trap = tmp_path / "trap"
    (trap / "cache").mkdir(parents=True)
    (trap / "pipeline.py").write_text("raise SystemExit('the wrong pipeline')")
    monkeypatch.chdir(trap)
    summary = run(raw, tmp_path / "ray", replace(INLINE, workers=2))
    assert shards(tmp_path / "ray") == shards(tmp_path / "inline")
    assert summary.written_shards == 16
    with CacheReader.open(tmp_path / "ray") as a, CacheReader.open(tmp_path / "inline") as b:
        assert a.fingerprint == b.fingerprint


def spoil_content(raw: Path) -> None:
    """Other bytes in every file, of the same size and time: who reads one would see a change."""
    for path in raw.rglob("*.*"):
        if path.is_file():
            was = path.stat()
            path.write_bytes(bytes(was.st_size))
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def test_nothing_changed_nothing_done(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "out")
    before = tree(tmp_path / "out")
    listing = list_semkitti(raw)
    spoil_content(raw)
    assert plan(listing, tmp_path / "out", INLINE).tasks == ()
    summary = prepare(listing, tmp_path / "out", INLINE, Silent())
    assert tree(tmp_path / "out") == before
    assert (summary.written_shards, summary.kept_shards, summary.generation) == (0, 16, 1)


def test_every_data_set_is_planned_once(raw: Path, tmp_path: Path) -> None:
    planned = []

    class Counted(LocalFolder):
        def plan(self, *arguments: object) -> object:
            planned.append(Path(self.name).name)
            return super().plan(*arguments)

    @contextlib.contextmanager
    def counted(dataset_root: Path, **_options: object) -> Iterator[Counted]:
        folder = Counted(Path(dataset_root))
        with folder.locked():
            yield folder

    listing = list_semkitti(raw)
    variants = parse_variants("fog:light,snow:heavy")
    listings = [listing, *corrupted_listings(listing, variants)]
    config = PrepareConfig(shard_scans=2)  # Ray, if it were worth its start
    heard = Heard()
    summaries = prepare_all(listings, tmp_path, config, heard, open_place=counted)
    assert planned == ["semkitti", "semkitti-fog-light", "semkitti-snow-heavy"]
    assert [summary.scans for summary in summaries] == [6, 6, 6]
    assert [line for line in heard.lines if line.startswith("data set ")] == [
        f"data set {name}" for name in planned
    ]


def test_plan_writes_nothing(raw: Path, tmp_path: Path) -> None:
    todo = plan(list_semkitti(raw), tmp_path / "out", INLINE)
    assert not (tmp_path / "out").exists()
    assert len(todo.tasks) == 16
    assert {task.reason for task in todo.tasks} == {"new"}
    assert todo.nbytes > 0
    assert todo.seconds > 0


def _reasons(listing: SourceListing, out: Path, config: PrepareConfig = INLINE) -> set[str]:
    todo = plan(listing, out, config)
    return {f"{task.container} {task.shard}: {task.reason}" for task in todo.tasks}


def test_a_new_grid_rewrites_voxels_only(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    before = tree(out)
    listing = list_semkitti(raw)
    grid = replace(listing.info.grid, shape=(500, 500, 30))
    listing = replace(listing, info=replace(listing.info, grid=grid))
    assert _reasons(listing, out) == {
        f"voxel {shard}: grid changed" for shard in (0, 1, 8000, 11000)
    }
    summary = prepare(listing, out, INLINE, Silent())
    assert summary.written_shards == 4
    after = tree(out)
    assert {n: v for n, v in before.items() if n.startswith(("lidar", "camera"))} == {
        n: v for n, v in after.items() if n.startswith(("lidar", "camera"))
    }
    assert_holds(out, listing)


def test_a_stage_with_a_new_code_version_runs_alone(raw, tmp_path, monkeypatch) -> None:
    run(raw, tmp_path / "out")
    monkeypatch.setitem(jobs.CODE_VERSIONS, "camera", 99)
    was = jobs.CODE_VERSIONS
    assert was["camera"] == 99
    reasons = _reasons(list_semkitti(raw), tmp_path / "out")
    assert {r.split(": ")[0] for r in reasons} == {f"camera {s}" for s in (0, 1, 8000, 11000)}
    assert all(r.endswith("-> 99") for r in reasons)


def test_another_profile_is_another_cache(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "out")
    size = replace(INLINE, profile="size")
    reasons = _reasons(list_semkitti(raw), tmp_path / "out", size)
    assert "lidar 8000: profile speed -> size" in reasons
    run(raw, tmp_path / "out", size)
    assert_holds(tmp_path / "out", list_semkitti(raw))


def test_a_changed_file_redoes_its_shard(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    before = tree(out)
    labels = raw / "sequences/00/labels/000002.label"
    labels.write_bytes(np.full(50, 40, np.uint32).tobytes())
    assert _reasons(list_semkitti(raw), out) == {
        f"lidar 1: {labels} has another time",
        "camera 1: lidar runs again",
        "voxel 1: lidar runs again",
        "motion 1: lidar runs again",
    }
    heard = Heard()
    assert prepare(list_semkitti(raw), out, INLINE, heard).written_shards == 4
    assert f"lidar of 1 shard again (sequence 00): {labels} has another time" in heard.lines
    assert_holds(out, list_semkitti(raw))
    after = tree(out)
    lost = [n for n in before if n not in after and not n.startswith("rows/")]
    assert lost == []
    assert all(after[n] == before[n] for n in before if n != "CURRENT")


def test_records_of_older_contents_do_not_ask_for_work(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    labels = raw / "sequences/08/labels/000005.label"
    picture = raw / "sequences/00/image_2/000000.png"
    run(raw, out)
    for seed, raw_id in enumerate((40, 48, 70)):  # the order of records depends on their keys
        labels.write_bytes(np.full(50, raw_id, "<u4").tobytes())
        picture.write_bytes(png(seed=90 + seed))
        assert run(raw, out).written_shards == 5
        assert plan(list_semkitti(raw), out, INLINE).tasks == ()


def test_a_changed_picture_redoes_camera_only(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    picture = raw / "sequences/00/image_2/000000.png"
    picture.write_bytes(png(seed=77))
    assert _reasons(list_semkitti(raw), out) == {f"camera 0: {picture} has another time"}
    assert run(raw, out).written_shards == 1
    assert_holds(out, list_semkitti(raw))


def test_new_calibration_redoes_camera_only(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    calib = raw / "sequences/00/calib.txt"
    calib.write_text(calib.read_text().replace("P2: 100", "P2: 90"))
    assert status(out).changed == (str(calib),)
    expected = {f"camera {s}: {calib} changed" for s in (0, 1)}
    assert _reasons(list_semkitti(raw), out) == expected
    assert run(raw, out).written_shards == 2
    assert_holds(out, list_semkitti(raw))
    # Numbers that nobody uses: noted, not written again.
    calib.write_text(calib.read_text().replace("P0: 100", "P0: 12345"))
    assert run(raw, out).written_shards == 0
    assert status(out).is_current
    calib.rename(calib.with_suffix(".bak"))
    assert status(out).vanished == (str(calib),)
    assert _reasons(list_semkitti(raw), out) == {
        "camera 0: pictures or calibration of scans changed 00/000000 and 1 more",
        "camera 1: pictures or calibration of scans changed 00/000002",
        # Tr is gone, and with it the poses.
        "motion 0: poses or times of scans changed 00/000000 and 1 more",
        "motion 1: poses or times of scans changed 00/000002",
    }
    calib.with_suffix(".bak").rename(calib)
    assert plan(list_semkitti(raw), out, INLINE).tasks == ()


def test_sequences_come_one_by_one(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out, sequences=["08"])
    first = tree(out)
    assert run(raw, out, sequences=["00", "11"]).written_shards == 12
    assert_holds(out, list_semkitti(raw))
    after = tree(out)
    unchanged = [n for n in first if n.startswith((*CONTAINERS, "rows", "manifest"))]
    assert all(after[n] == first[n] for n in unchanged)
    once = tmp_path / "once"
    run(raw, once)
    assert shards(once) == shards(out)


def test_sequences_that_are_not_listed_stay_and_are_said(raw: Path, tmp_path: Path) -> None:
    out, heard = tmp_path / "out", Heard()
    run(raw, out)
    shutil.rmtree(raw / "sequences/11/velodyne")
    todo = plan(list_semkitti(raw), out, INLINE)
    assert (todo.tasks, todo.dropped, todo.staying) == ((), (), ("11",))
    said = "not listed now, kept in the cache as prepared: 1 sequence (11)"
    assert plan_lines(todo)[0] == said
    assert plan_json(todo)["staying"] == ["11"]
    prepare(list_semkitti(raw), out, INLINE, heard)
    assert said in heard.lines
    with CacheReader.open(out) as reader:
        assert "11" in reader.scans.sequence.tolist()


def test_vanished_and_added_frames(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    for name in ("velodyne/000002.bin", "labels/000002.label", "image_2/000002.png"):
        (raw / "sequences/00" / name).unlink()
    todo = plan(list_semkitti(raw), out, INLINE)
    assert (todo.tasks, todo.dropped) == ((), (1,))
    assert plan_lines(todo)[0] == "1 shard without scans now: left out"
    run(raw, out)
    assert_holds(out, list_semkitti(raw))
    shutil.rmtree(raw / "sequences/00")
    write_sequence(raw, "00", (0, 1, 2, 3))
    summary = run(raw, out)
    # Shard 0 has the same content under new times: hashed again, not written again.
    assert summary.written_shards == 4
    assert_holds(out, list_semkitti(raw))
    (raw / "sequences/00/velodyne/000000.bin").unlink()
    (raw / "sequences/00/velodyne/000004.bin").write_bytes(scan_points(50, 4).tobytes())
    reasons = _reasons(list_semkitti(raw), out)
    assert f"lidar 1: {raw}/sequences/00/velodyne/000004.bin is new" in reasons
    assert "lidar 0: scans added 00/000002, removed 00/000000" in reasons


def test_a_moved_data_set_is_recognised_by_content(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    before = shards(out)
    moved = tmp_path / "moved"
    shutil.copytree(raw, moved)
    shutil.rmtree(raw)
    summary = run(moved, out)
    assert (summary.written_shards, summary.generation) == (0, 2)
    assert shards(out) == before
    listing = list_semkitti(moved)
    spoil_content(moved)  # its times are known now: nothing is read
    assert plan(listing, out, INLINE).tasks == ()


def test_a_folder_whose_name_is_no_text(raw: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/w\xf6rld"))
    raw.rename(odd)
    with pytest.raises(CacheError, match=r"w.udcf6rld/.*: the name is not UTF-8"):
        run(odd, tmp_path / "out")


def test_bad_scans_are_left_out_and_listed(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    points = raw / "sequences/00/velodyne/000000.bin"
    good = points.read_bytes()
    points.write_bytes(good[:-3])
    labels = raw / "sequences/08/labels/000005.label"
    labels.write_bytes(np.full(50, 7, np.uint32).tobytes())
    picture = raw / "sequences/11/image_2/000000.png"
    picture.write_bytes(picture.read_bytes()[:-50])
    heard = Heard()
    summary = prepare(list_semkitti(raw), out, INLINE, heard)
    assert [(f.scan_id, f.container) for f in summary.failed] == [
        ("00/000000", "lidar"),
        ("08/000005", "lidar"),
        ("11/000000", "camera"),
    ]
    assert str(points) in summary.failed[0].reason
    lines = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert [line["scan_id"] for line in lines] == ["00/000000", "08/000005", "11/000000"]
    assert "raw label" in lines[1]["reason"]
    assert sum("000000.png" in text for text in heard.lines) == 1
    with CacheReader.open(out) as reader:
        assert reader.scans.scan_id.tolist() == ["00/000001", "00/000002", "08/000000", "11/000000"]
        assert reader.read(3, ALL).cameras == ()
    again = run(raw, out)
    assert (again.failed, again.written_shards) == (summary.failed, 0)
    points.write_bytes(good)
    fixed = run(raw, out)
    assert [f.scan_id for f in fixed.failed] == ["08/000005", "11/000000"]
    assert fixed.written_shards == 4


def test_a_damaged_calibration_costs_the_pictures_of_its_sequence(
    raw: Path, tmp_path: Path
) -> None:
    out, calib = tmp_path / "out", raw / "sequences/00/calib.txt"
    good = calib.read_bytes()
    calib.write_text("P2: 1 2 3\nTr: 4\n")
    summary = run(raw, out)
    assert [(f.scan_id, f.container) for f in summary.failed] == [
        (f"00/00000{i}", "camera") for i in range(3)
    ]
    lines = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert all(line["reason"].startswith(f"{calib}: found 3 numbers for P2") for line in lines)
    (shown,) = [line for line in summary_lines(summary) if line.startswith("failed:")]
    assert shown.startswith(f"failed:    00/000000 and 2 more: {calib}: found")
    with CacheReader.open(out) as reader:
        assert reader.scans.has_image.tolist() == [False] * 5 + [True]
        assert reader.scans.has_label.tolist() == [True] * 5 + [False]
    assert run(raw, out).failed == summary.failed
    calib.write_bytes(good)
    expected = {f"camera {s}: {calib} is new" for s in (0, 1)}
    expected |= {
        "motion 0: poses or times of scans changed 00/000000 and 1 more",
        "motion 1: poses or times of scans changed 00/000002",
    }
    assert _reasons(list_semkitti(raw), out) == expected
    assert run(raw, out).failed == ()
    assert not (out / "failed.jsonl").exists()
    assert_holds(out, list_semkitti(raw))


def test_a_shard_of_bad_scans_only(raw: Path, tmp_path: Path) -> None:
    for frame in (0, 5):
        (raw / f"sequences/08/velodyne/{frame:06d}.bin").write_bytes(b"123")
    summary = run(raw, tmp_path / "out")
    assert [f.scan_id for f in summary.failed] == ["08/000000", "08/000005"]
    with CacheReader.open(tmp_path / "out") as reader:
        assert set(reader.scans.sequence.tolist()) == {"00", "11"}
    assert run(raw, tmp_path / "out").failed == summary.failed


def test_a_data_set_of_bad_scans_only(raw: Path, tmp_path: Path) -> None:
    for path in raw.rglob("*.bin"):
        path.write_bytes(b"123")
    summary = run(raw, tmp_path / "out")
    assert (summary.scans, summary.points, len(summary.failed)) == (0, 0, 6)
    with CacheReader.open(tmp_path / "out") as reader:
        assert len(reader.scans) == 0
        assert reader.select(split="train").tolist() == []
    for sequence in ("00", "08", "11"):
        shutil.rmtree(raw / "sequences" / sequence)
    write_sequence(raw, "00", (0, 1))
    assert run(raw, tmp_path / "out").scans == 2


def test_a_file_that_vanishes_while_preparing_is_a_bad_scan(raw: Path, tmp_path: Path) -> None:
    listing = list_semkitti(raw)
    (raw / "sequences/00/velodyne/000001.bin").unlink()
    summary = prepare(listing, tmp_path / "out", INLINE, Silent())
    assert [f.scan_id for f in summary.failed] == ["00/000001"]


def failing(task: ContainerTask) -> OSError:
    return OSError(5, "Input/output error", str(task.job.scans[0].points))


def test_errors_of_the_disk_are_tried_again(raw: Path, tmp_path: Path) -> None:
    calls = []

    def flaky(context: TaskContext, task: ContainerTask) -> TaskResult:
        calls.append((task.container, task.job.sequence))
        if 1 <= calls.count(("lidar", "08")) <= 3 and calls[-1] == ("lidar", "08"):
            raise failing(task)
        return run_task(context, task)

    listing = list_semkitti(raw)
    summary = prepare(listing, tmp_path / "out", INLINE, runner=runner(flaky))
    assert summary.failed == ()
    assert calls.count(("lidar", "08")) == 4


def runner(run: RunTask) -> Callable[[TaskContext], InlineRunner]:
    return partial(InlineRunner, max_retries=INLINE.max_retries, run_task=run)


def test_a_disk_that_keeps_failing_costs_one_shard(raw: Path, tmp_path: Path) -> None:
    def broken(context: TaskContext, task: ContainerTask) -> TaskResult:
        if task.job.sequence == "08":
            raise failing(task)
        return run_task(context, task)

    listing = list_semkitti(raw)
    summary = prepare(listing, tmp_path / "out", INLINE, runner=runner(broken))
    assert [f.scan_id for f in summary.failed] == ["08/000000", "08/000005"]
    assert "Input/output error" in summary.failed[0].reason
    assert run(raw, tmp_path / "out").failed == ()
    assert_holds(tmp_path / "out", list_semkitti(raw))


def test_a_lost_shard_is_made_again(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    before = shards(out)
    shutil.rmtree(next((out / "lidar").glob("000001-*")))
    next((out / "rows/voxel").glob("008000-*")).unlink()
    assert _reasons(list_semkitti(raw), out) == {
        "lidar 1: the shard or its commit record is missing",
        "camera 1: lidar runs again",
        "voxel 1: lidar runs again",
        "motion 1: lidar runs again",
        "voxel 8000: the shard or its commit record is missing",
    }
    run(raw, out)
    assert shards(out) == before


def test_shards_never_cross_sequences(raw: Path) -> None:
    cut = cut_into_shards(list_semkitti(raw).scans, shard_scans=2)
    assert [(job.shard, len(job.scans)) for job in cut] == [(0, 2), (1, 1), (8000, 2), (11000, 1)]


@pytest.mark.parametrize(("change", "written"), [(1e-14, 0), (1e-6, 2)])
def test_another_rounding_of_calibrations_keeps_the_shards(
    raw: Path, tmp_path: Path, change: float, written: int
) -> None:
    """As the matrix product of another processor: neither this machine nor its workers redo them.

    A calibration that differs by more is another: both shards of sequence 00 are made again.
    """
    run(raw, tmp_path)
    before = shards(tmp_path)
    listing = list_semkitti(raw)
    scans = tuple(
        replace(
            scan,
            image_from_lidar=scan.image_from_lidar
            and tuple(tuple(v * (1 + change) for v in row) for row in scan.image_from_lidar),
        )
        for scan in listing.scans
        if scan.sequence == "00"
    )
    assert prepare(replace(listing, scans=scans), tmp_path, INLINE, Silent()).written_shards == (
        written
    )
    assert (shards(tmp_path) == before) == (written == 0)
    for scan in scans:  # unknown files, which the tasks hash: a data set that was moved
        os.utime(scan.points, ns=(1, 1))
    again = prepare(replace(listing, scans=scans), tmp_path, INLINE, Silent())
    assert again.written_shards == 0


def test_scans_that_occur_twice_are_refused(raw: Path) -> None:
    scans = list_semkitti(raw).scans
    with pytest.raises(CacheError, match="twice"):
        cut_into_shards([*scans, scans[0]], shard_scans=2)


COLLIDING = ("drive_01530", "drive_01894")
"""Of one crc32 modulo 900,000."""


def _of_two_names(raw: Path, names: tuple[str, str]) -> SourceListing:
    """The scans of sequence 00 under two other names."""
    listing = list_semkitti(raw)
    scans = [
        replace(scan, sequence=name, scan_id=f"{name}/{scan.frame_index}")
        for name in names
        for scan in listing.scans
        if scan.sequence == "00"
    ]
    return replace(listing, scans=tuple(scans))


def _numbers(out: Path) -> dict[str, str]:
    """First scan id of each shard of the current generation, by its number."""
    table = load_manifest(Layout(root=out)).tables.scans
    firsts = [row for row in table.to_pylist() if row["row"] == 0]
    return {row["scan_id"]: row["shard"] for row in firsts}


@pytest.mark.parametrize("names", [COLLIDING, ("08", "scene-0008")])
def test_sequences_whose_numbers_collide_get_different_ones(
    raw: Path, tmp_path: Path, names: tuple[str, str]
) -> None:
    """Prepared together or one after the other, in either order, and again."""
    both = _of_two_names(raw, names)
    assert shard_number(names[0], 0) == shard_number(names[1], 0)
    together = tmp_path / "together"
    prepare(both, together, INLINE, Silent())
    for order in (names, names[::-1]):
        out = tmp_path / order[0]
        for name in order:
            one = [scan for scan in both.scans if scan.sequence == name]
            listing = replace(both, scans=tuple(one))
            prepare(listing, out, INLINE, Silent())
        found = _numbers(out)
        assert len(set(found.values())) == len(found) == len(_numbers(together)) == 4
        assert found[f"{order[0]}/0"] == shard_number(order[0], 0)
        assert found[f"{order[1]}/0"] == shard_number(order[1], 0, attempt=1)
        again = prepare(both, out, INLINE, Silent())
        assert again.written_shards == 0
        assert _numbers(out) == found


def test_a_number_that_another_driver_gave_away_meanwhile_is_not_taken(
    raw: Path, tmp_path: Path
) -> None:
    both, out = _of_two_names(raw, COLLIDING), tmp_path / "out"
    first, second = (
        replace(both, scans=tuple(scan for scan in both.scans if scan.sequence == name))
        for name in COLLIDING
    )
    config = PrepareConfig(workers=0)

    def slow(context: TaskContext) -> InlineRunner:
        prepare(second, out, config, Silent())  # the other driver, while this one works
        return InlineRunner(context, max_retries=0)

    with pytest.raises(CacheError, match=f"numbers of sequence {COLLIDING[1]}, which was"):
        prepare(first, out, config, Silent(), runner=slow)
    assert len(_numbers(out)) == 1
    prepare(first, out, config, Silent())
    assert len(set(_numbers(out).values())) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": "fast"}, "expected one of speed, size"),
        ({"shard_scans": 0}, "at least 1"),
        ({"workers": -1}, "must be 0"),
        ({"workers": 0, "ray_address": "auto"}, "leave out `ray_address`"),
    ],
)
def test_settings_that_cannot_work(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareConfig(**settings)


def test_a_cluster_that_is_not_there(raw: Path, tmp_path: Path) -> None:
    config = PrepareConfig(ray_address="127.0.0.1:1")
    with pytest.raises(CacheError, match=r"cannot connect to 127.0.0.1:1 .*`workers=0`"):
        run(raw, tmp_path / "out", config)


KITTI_SCANS = (4541, 1101, 4661, 801, 271, 2761, 1101, 1101, 4071, 1591, 1201)
KITTI_SCANS += (921, 1061, 3281, 631, 1901, 1731, 491, 1801, 4981, 831, 2721)


@pytest.mark.slow
def test_a_tenth_of_semantickitti_unchanged_reads_no_file(tmp_path: Path) -> None:
    """Every sequence of it, most in several shards, the last of them not full."""
    sequences = {f"{i:02d}": count // 10 for i, count in enumerate(KITTI_SCANS)}
    n = sum(sequences.values())
    assert n == 4353
    listing = many_scans(tmp_path / "raw", sample_info(), sequences=sequences)
    publish_many(listing, tmp_path / "out")
    before = tree(tmp_path / "out")
    spoil_content(tmp_path / "raw")  # and the records of shards are empty: who reads one fails
    summary = prepare(listing, tmp_path / "out", PrepareConfig(), Silent())
    assert (summary.scans, summary.points, summary.written_shards) == (n, n * 124_000, 0)
    assert tree(tmp_path / "out") == before
