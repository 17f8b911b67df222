"""Several scans in one frame: against the official tool's clouds, and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import golden_multiscan
import numpy as np
import pytest
import torch
from pipeline_files import write_sequence
from train_samples import TASEG_STEPS

from pass2d.cache.fields import Fields
from pass2d.cache.motion import with_moving_classes
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti, semkitti_table
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.data.collate import collate
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan, block_order
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.scan import LoadedScan
from pass2d.train.stacks.build import SharedVoxels, enters_by_step, moved_points
from pass2d.train.stacks.choose import past_scans, require_poses
from pass2d.train.stacks.config import StackConfig
from pass2d.train.viewing.cached import cached_scans

INLINE = PrepareConfig(workers=0, shard_scans=2)
PLAIN = AugmentConfig(mode="none")


def line(x: float = 0, y: float = 0, z: float = 0) -> str:
    return f"1 0 0 {x} 0 1 0 {y} 0 0 1 {z}\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """00: five scans, each two metres further along x than the one before; 11 without labels."""
    root = tmp_path_factory.mktemp("stacks")
    folder = write_sequence(root / "raw", "00", (0, 1, 2, 5, 6))
    (folder / "poses.txt").write_text("".join(line(z=2 * place) for place in range(7)))
    (folder / "times.txt").write_text("".join(f"{place / 10}\n" for place in range(7)))
    write_sequence(root / "raw", "11", (0, 1), labels=False)
    prepare(list_semkitti(root / "raw"), root / "out", INLINE, Silent())
    return root / "out"


def loaded(reader: CacheReader, position: int, stack: StackConfig, **changes: object) -> LoadedScan:
    plan = StreamPlan(
        positions=np.arange(len(reader.scans)),
        batch_size=1,
        seed=0,
        augment=PLAIN,
        size_hw=None,
        with_outside=True,
        stack=stack,
    )
    return load_scan(reader, replace(plan, **changes), position, epoch=0)


def test_past_scans_are_the_files_before_and_move_with_the_vehicle(cache: Path) -> None:
    with CacheReader.open(cache) as reader:
        past = past_scans(reader.scans, 3, StackConfig(past=3))
        assert [(one.position, one.lag) for one in past] == [(2, 1), (1, 2), (0, 3)]
        # Frame 5 follows frame 2 in the folder: three steps of two metres lie between.
        assert [one.current_from_past[0, 3] for one in past] == [-6, -8, -10]
        np.testing.assert_allclose([one.seconds for one in past], [0.3, 0.4, 0.5])
        every_second = past_scans(reader.scans, 4, StackConfig(past=3, stride=2))
        assert [(one.position, one.lag) for one in every_second] == [(2, 2), (0, 4)]
        recent = past_scans(reader.scans, 4, StackConfig(past=3, within_s=0.2))
        assert [one.position for one in recent] == [3]
        assert past_scans(reader.scans, 0, StackConfig(past=3)) == ()
        assert [one.position for one in past_scans(reader.scans, 6, StackConfig(past=3))] == [5]


def test_the_current_scan_comes_first_and_stays_as_it_is(cache: Path) -> None:
    with CacheReader.open(cache) as reader:
        alone = loaded(reader, 4, StackConfig())
        stack = loaded(reader, 4, StackConfig(past=2))
        assert stack.n == alone.n + 100
        np.testing.assert_array_equal(stack.xyz[:, :50], alone.xyz)
        for place, (position, shift) in enumerate(((3, -2), (2, -8)), start=1):
            raw = reader.read(position, Fields(outside=True)).raw()
            there = stack.xyz[:, 50 * place : 50 * (place + 1)]
            np.testing.assert_allclose(there.T, raw.points[:, :3] + [shift, 0, 0], atol=1e-5)
            part = stack.parts[place]
            np.testing.assert_array_equal(part.record.label, raw.label)
            np.testing.assert_array_equal(part.record.signal, raw.points[:, 3])
            assert part.lag == place


def test_a_network_of_a_volume_sees_the_past_points_that_lie_in_it_now(cache: Path) -> None:
    with CacheReader.open(cache) as reader:
        whole = loaded(reader, 4, StackConfig(past=2))
        inside = loaded(reader, 4, StackConfig(past=2), with_outside=False)
        low, high = (
            np.array(reader.info.grid.low)[:, None],
            np.array(reader.info.grid.high)[:, None],
        )
        is_inside = ((whole.xyz > low) & (whole.xyz < high)).all(axis=0)
        np.testing.assert_array_equal(inside.xyz, whole.xyz[:, is_inside])
        np.testing.assert_array_equal(inside.label, whole.label[is_inside])


@pytest.mark.parametrize(
    ("time", "expected"),
    [("flag", [0, 1, 1]), ("lag", [0, 1, 2]), ("seconds", [0, 0.1, 0.4])],
)
def test_the_time_channel(cache: Path, time: str, expected: list[float]) -> None:
    with CacheReader.open(cache) as reader:
        stack = loaded(reader, 4, StackConfig(past=2, time=time))  # type: ignore[arg-type]
    for part, value in zip(stack.parts, expected, strict=True):
        assert part.record.time is not None
        np.testing.assert_allclose(part.record.time, value, atol=1e-6)


def test_points_enter_by_the_step_of_their_class() -> None:
    classes = np.array([0, 1, 2, 9, 10, 16], np.uint8)
    for lag, expected in (
        (1, [0, 0, 0, 0, 0, 0]),
        (2, [0, 0, 1, 0, 0, 1]),
        (4, [0, 0, 1, 0, 1, 1]),
        (8, [0, 0, 1, 0, 1, 1]),
    ):
        assert enters_by_step(classes, lag=lag, steps=TASEG_STEPS).tolist() == expected


def test_steps_take_labels_without_motion_or_an_earlier_run(cache: Path, tmp_path: Path) -> None:
    steps = tuple(1 if c == 1 else 0 for c in range(20))  # cars, moving ones too
    stack = StackConfig(past=1, points="steps", steps=steps)
    with CacheReader.open(cache) as reader:
        past = reader.read(3, Fields(outside=True)).raw()
        assert past.label is not None
        for tells in (False, True):
            entered = loaded(reader.tell_motion() if tells else reader, 4, stack).parts[1].record
            assert entered.n == int((past.label == 1).sum()) > 0
        folder = tmp_path / "sequences/00/predictions"
        folder.mkdir(parents=True)
        answers = np.full(50, 40, "<u4")
        answers[[3, 7]] = 252
        (folder / "000005.label").write_bytes(answers.tobytes())
        by_run = replace(stack, predictions=str(tmp_path))
        assert loaded(reader, 4, by_run).parts[1].record.n == 2
        with pytest.raises(DataError, match="no prediction of scan 00/000002"):
            loaded(reader, 3, by_run)


@pytest.mark.parametrize("n", [0, 1, 8191, 8192, 20000])
def test_points_are_moved_in_float64_and_rounded_once(n: int) -> None:
    rng = np.random.default_rng(n)
    xyz = rng.normal(0, 50, (3, n)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    motion = np.column_stack([turn, rng.normal(0, 1000, 3)])
    exact = turn @ xyz.astype(np.float64) + motion[:, 3:]
    moved = moved_points(xyz, target_from_source=motion)
    assert moved.dtype == np.float32
    assert (np.abs(moved - exact) <= 0.5001 * np.spacing(np.abs(exact).astype(np.float32))).all()


def test_points_that_share_a_voxel_with_the_current_scan() -> None:
    current = np.array([[0.05, 5.0], [0.05, -3.0], [0.0, 1.0]], np.float32)
    past = np.array([[0.09, 0.11, 5.04, -0.01], [0.01, 0.01, -2.99, 0.0], [0.0, 0.0, 1.0, 0]])
    voxels = SharedVoxels.of(current, voxel_m=0.1)
    assert voxels.hold(past.astype(np.float32)).tolist() == [True, False, True, False]
    assert not SharedVoxels.of(current[:, :0], voxel_m=0.1).hold(current).any()
    rng = np.random.default_rng(1)
    current, past = rng.normal(0, 0.4, (2, 3, 400)).astype(np.float32)
    cells = {tuple(cell) for cell in np.floor(current / 0.1).T.tolist()}
    want = [tuple(cell) in cells for cell in np.floor(past / 0.1).T.tolist()]
    assert SharedVoxels.of(current, voxel_m=0.1).hold(past).tolist() == want
    assert 0 < sum(want) < 400


def test_losses_of_the_current_scan_alone_ignore_past_points(cache: Path) -> None:
    with CacheReader.open(cache) as reader:
        stack = loaded(reader, 4, StackConfig(past=2, loss="current"))
        assert stack.label[:50].any()
        assert not stack.label[50:].any()


def test_the_draw_of_the_current_scan_does_not_depend_on_its_past(cache: Path) -> None:
    full = AugmentConfig()
    with CacheReader.open(cache) as reader:
        alone = loaded(reader, 4, StackConfig(), augment=full)
        stack = loaded(reader, 4, StackConfig(past=3), augment=full)
        assert stack.parts[0].draw == alone.draw
        seeds = [part.draw.point_seed for part in stack.parts]
        assert len(set(seeds)) == 4
        assert {part.draw.linear for part in stack.parts} == {alone.draw.linear}


def test_moving_classes_are_told_by_the_reader(cache: Path) -> None:
    with CacheReader.open(cache) as reader:
        before = reader.scans.label_histogram
        record = reader.read(0, Fields(outside=True, motion=True))
        reader.tell_motion()
        assert reader.info == with_moving_classes(semkitti_table().info)
        after = reader.scans.label_histogram
        assert after.shape == (7, 26)
        np.testing.assert_array_equal(after[:, 1] + after[:, 20], before[:, 1])
        told = reader.read(0, Fields(outside=True))
        moving = (record.label == 1) & (record.motion == 2)
        assert moving.any()
        np.testing.assert_array_equal(told.label, np.where(moving, 20, record.label))
        assert np.bincount(told.label, minlength=26).tolist() == after[0].tolist()


def test_what_cannot_be_stacked_is_one_error(cache: Path, tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "raw", "00", (0, 1))
    (folder / "poses.txt").unlink()
    (folder / "times.txt").unlink()
    prepare(list_semkitti(tmp_path / "raw"), tmp_path / "out", INLINE, Silent())
    with CacheReader.open(tmp_path / "out") as reader:
        positions = np.arange(2)
        with pytest.raises(ConfigError, match="no poses of sequence 00"):
            require_poses(reader.scans, positions, StackConfig(past=1), where="here")
        require_poses(reader.scans, positions, StackConfig(), where="here")
    with CacheReader.open(cache) as reader:
        seconds = StackConfig(past=1, time="seconds")
        require_poses(reader.scans, np.arange(7), seconds, where="here")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"past": -1}, "past must"),
        ({"past": 1, "stride": 0}, "stride must"),
        ({"past": 1, "points": "steps"}, "steps: give"),
        ({"past": 1, "steps": (1, 2)}, "steps: give"),
        ({"past": 1, "predictions": "x"}, "predictions: only"),
        ({"past": 1, "within_s": 0.0}, "within_s must"),
        ({"past": 1, "voxel_m": 0.0}, "voxel_m must"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StackConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected 20"):
        StackConfig(past=1, points="steps", steps=(1, 2)).require_classes(20)


def write_recorded(root: Path, sequence: str) -> None:
    """A sequence of the recordings as files."""
    data = golden_multiscan.arrays("sequential.npz")
    folder = root / "sequences" / sequence
    (folder / "velodyne").mkdir(parents=True)
    (folder / "labels").mkdir()
    tr = " ".join(repr(float(v)) for v in data["calib_Tr"].ravel())
    (folder / "calib.txt").write_text(f"P2: 700 0 600 0 0 700 180 0 0 0 1 0\nTr: {tr}\n")
    rows = data[f"seq{sequence}_poses_txt"]
    (folder / "poses.txt").write_text(
        "".join(" ".join(repr(float(v)) for v in row) + "\n" for row in rows)
    )
    for place, number in enumerate(data[f"seq{sequence}_frame_numbers"].tolist()):
        (folder / "velodyne" / f"{number:06d}.bin").write_bytes(data[f"frame{place}_points"])
        (folder / "labels" / f"{number:06d}.label").write_bytes(data[f"frame{place}_labels"])


RECORDED = (
    sorted(
        name[3:].removesuffix("_frame_numbers")
        for name in golden_multiscan.arrays("sequential.npz")
        if name.endswith("_frame_numbers")
    )
    if (golden_multiscan.FOLDER / "sequential.npz").exists()
    else []
)
"""Sequences of the recordings."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded")
    for sequence in RECORDED:
        write_recorded(root / "raw", sequence)
    prepare(list_semkitti(root / "raw"), root / "out", INLINE, Silent())
    return root / "out"


def recorded_poses(sequence: str) -> tuple[list[np.ndarray], bool]:
    """world_from_lidar of each file, and whether the official tool takes the same ones.

    After a gap in the frame numbers, where poses.txt has a line for each number, it does not.
    """
    data = golden_multiscan.arrays("sequential.npz")
    rows = data[f"seq{sequence}_poses_txt"].reshape(-1, 3, 4)
    numbers = data[f"seq{sequence}_frame_numbers"].tolist()
    lines = [*range(len(numbers))] if len(rows) == len(numbers) else numbers
    last = np.array([0, 0, 0, 1.0])
    tr = np.vstack([data["calib_Tr"], last])
    poses = [np.linalg.inv(tr) @ np.vstack([rows[line], last]) @ tr for line in lines]
    return poses, lines == [*range(len(numbers))]


@pytest.mark.parametrize("sequence", RECORDED)
def test_stacks_are_those_of_the_official_tool(recorded: Path, sequence: str) -> None:
    data = golden_multiscan.arrays("sequential.npz")
    numbers = data[f"seq{sequence}_frame_numbers"].tolist()
    outputs = [f"seq{sequence}_out{number:06d}" for number in numbers]
    most = max(len(data[f"{out}_counts"]) for out in outputs if f"{out}_counts" in data) - 1
    lookup = semkitti_table().info.labels.training_lookup()
    poses, is_as_the_tool = recorded_poses(sequence)
    with CacheReader.open(recorded) as reader:
        first = int(np.flatnonzero(reader.scans.sequence == sequence)[0])
        for place, out in enumerate(outputs):
            stack = loaded(reader, first + place, StackConfig(past=most))
            sources = [place - lag for lag in range(min(place, most) + 1)]
            points = [data[f"frame{source}_points"] for source in sources]
            assert [part.record.n_raw for part in stack.parts] == [len(p) for p in points]
            labels = np.concatenate([data[f"frame{source}_labels"] for source in sources])
            np.testing.assert_array_equal(stack.label, lookup[labels & 0xFFFF])
            signal = np.concatenate([p[:, 3] for p in points])
            np.testing.assert_array_equal(_signal(stack), signal)
            np.testing.assert_array_equal(stack.xyz[:, : len(points[0])].T, points[0][:, :3])
            # By hand, with the pose of each file's own frame number.
            for part, source in zip(stack.added, sources[1:], strict=True):
                past = data[f"frame{source}_points"][:, :3].astype(float)
                motion = np.linalg.inv(poses[place]) @ poses[source]
                moved = past @ motion[:3, :3].T + motion[:3, 3]
                np.testing.assert_allclose(part.record.xyz.T, moved, rtol=0, atol=1e-4)
            key, same = f"{out}_xyz", data.get(f"{out}_equals_seq00_out")
            if key not in data and same is not None:
                key = f"seq00_out{int(same):06d}_xyz"
            if place and key in data and is_as_the_tool:
                added = stack.xyz[:, len(points[0]) :].T
                np.testing.assert_allclose(added, data[key], rtol=0, atol=1e-5)


def _signal(stack: LoadedScan) -> np.ndarray:
    own = stack.record
    assert own.outside_signal is not None
    signal = own.raw_order().laid(own.signal, own.outside_signal)
    return np.concatenate([signal, *(part.record.signal for part in stack.added)])


def test_a_remote_order_has_the_past_of_each_window_at_hand() -> None:
    """Shards follow each other within a sequence: none is fetched again for its last scans."""
    shards = np.repeat([*range(30), *range(1000, 1011), *range(8000, 8019)], 64)
    positions = np.arange(len(shards))
    for epoch in range(3):
        order = block_order(positions, shards, seed=5, epoch=epoch, keeps_course=True)
        assert np.array_equal(np.sort(order), positions)
        seen: list[int] = []
        for start in range(0, len(order), 8 * 64):
            window = sorted(set(shards[order[start : start + 8 * 64]].tolist()))
            for shard in window:
                before = shard - 1
                assert shard % 1000 == 0 or before in window or before in seen[-8:]
            seen += window
        assert len(seen) == len(set(seen)) == 60
    first = [block_order(positions, shards, seed=5, epoch=e, keeps_course=True)[0] for e in (0, 1)]
    assert first[0] != first[1]


def test_a_view_shows_what_moves_and_knows_the_scans_before(cache: Path) -> None:
    with CacheReader.open(cache) as reader:
        found = cached_scans(reader.tell_motion(), split=None, sequences=["00"])
        assert found.table.names[20] == "moving-car"
        view = found.items[4].load()
        assert view.truth is not None
        assert (view.truth == 20).any()
        past = found.items[4].past(StackConfig(past=2))
        assert [one.lag for one in past] == [1, 2]
        assert [float(one.current_from_past[0, 3]) for one in past] == [-2, -8]
        assert found.items[4].past(StackConfig()) == ()


@pytest.mark.parametrize("name", ["laser-mix", "polar-mix", "instance-copy"])
def test_mixes_take_stacks_and_every_point_has_its_time(cache: Path, name: str) -> None:
    full = AugmentConfig(mixes=({name: 1.0},))
    stack = StackConfig(past=2, time="lag")
    with CacheReader.open(cache) as reader:
        for position in range(3, 5):
            positions = np.arange(5)  # those with labels
            scan = loaded(reader, position, stack, augment=full, positions=positions)
            batch = collate([scan], with_images=False, size_hw=(0, 0), dropout="remove")
            assert batch.channels.shape[0] == 5
            assert set(batch.channels[4].tolist()) <= {0.0, 1.0, 2.0}
            assert batch.labels is not None


def test_a_part_without_a_time_is_of_now(cache: Path) -> None:
    """As a mix pastes it, whatever lay in the memory before."""
    stack = StackConfig(past=1, time="lag")
    with CacheReader.open(cache) as reader:
        scan = loaded(reader, 4, stack)
    pasted = replace(scan.added[0], record=replace(scan.added[0].record, time=None))
    for ratio in (0.0, 0.5):
        part = replace(pasted, draw=replace(pasted.draw, drop_ratio=ratio))
        batch = collate(
            [replace(scan, added=(part,))],
            with_images=False,
            size_hw=(0, 0),
            allocate=lambda _name, shape, dtype: torch.full(shape, 7, dtype=dtype),
        )
        assert not batch.channels[4].any()
