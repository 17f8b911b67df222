"""Several scans together from other sources: key frames of nuScenes, remote stores, statistics."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
from nuscenes_files import NuscenesFolder
from pipeline_files import write_sequence
from typer.testing import CliRunner

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.remote.store import RemoteStore
from pass2d.cli import app
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.stream import BatchStream, StreamConfig
from pass2d.train.stacks.config import StackConfig

PLAIN = AugmentConfig(mode="none")


def unit(quaternion: list[float]) -> list[float]:
    return (np.array(quaternion) / np.linalg.norm(quaternion)).tolist()


def matrix(rotation: list[float], translation: list[float]) -> np.ndarray:
    """4x4 of a quaternion, real part first, and a translation."""
    w, x, y, z = rotation
    whole = np.eye(4)
    whole[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    whole[:3, 3] = translation
    return whole


def test_key_frames_lie_where_the_vehicle_saw_them(tmp_path: Path) -> None:
    """The vehicle drives on, turns and tilts; the lidar sits askew on it."""
    folder = NuscenesFolder(tmp_path / "raw", scenes=("scene-0061",), samples=4, n=120)
    folder.drop(lambda name: "CAM_" in name)
    rng = np.random.default_rng(3)
    for row in folder.tables["ego_pose"]:
        row["rotation"] = unit([1.0, *rng.normal(0, 0.1, 2), rng.normal(0, 1)])
        row["translation"] = (1000 * rng.uniform(size=3)).tolist()
    (lidar,) = [r for r in folder.tables["calibrated_sensor"] if not r["camera_intrinsic"]]
    lidar["rotation"], lidar["translation"] = unit([0.8, 0.1, -0.2, 0.5]), [0.9, -0.1, 1.8]
    # Key frames lie within metres of each other: else nothing of the past is in the volume.
    for row in folder.tables["ego_pose"]:
        row["translation"] = [value % 5 for value in row["translation"]]
    root = folder.write()
    listing = list_nuscenes(root)
    assert all(scan.pose is not None for scan in listing.scans), listing.notes
    prepare(listing, tmp_path / "nuscenes", PrepareConfig(workers=0), Silent())
    ego = {r["token"]: matrix(r["rotation"], r["translation"]) for r in folder.tables["ego_pose"]}
    data = {r["token"]: r for r in folder.tables["sample_data"]}
    mounted = matrix(lidar["rotation"], lidar["translation"])
    with CacheReader.open(tmp_path) as reader:
        plan = StreamPlan(
            positions=np.arange(len(reader.scans)),
            batch_size=1,
            seed=0,
            augment=PLAIN,
            size_hw=None,
            with_outside=True,
            stack=StackConfig(past=3, time="seconds"),
        )
        tokens = reader.scans.token.tolist()
        in_world = [ego[data[token]["ego_pose_token"]] @ mounted for token in tokens]
        raw = [reader.read(p, Fields(outside=True)).raw() for p in range(len(tokens))]
        for position in range(len(tokens)):
            stack = load_scan(reader, plan, position, epoch=0)
            assert len(stack.parts) == position + 1
            for lag, part in enumerate(stack.parts):
                points = raw[position - lag].points[:, :3].astype(np.float64)
                motion = np.linalg.inv(in_world[position]) @ in_world[position - lag]
                moved = points @ motion[:3, :3].T + motion[:3, 3]
                if lag:
                    np.testing.assert_allclose(part.record.xyz.T, moved, rtol=0, atol=1e-4)
                    # In the world it is the point that the earlier key frame saw.
                    seen = points @ in_world[position - lag][:3, :3].T
                    there = part.record.xyz.T @ in_world[position][:3, :3].T
                    shift = in_world[position - lag][:3, 3] - in_world[position][:3, 3]
                    np.testing.assert_allclose(there, seen + shift, rtol=0, atol=1e-4)
                assert part.record.time is not None
                np.testing.assert_allclose(part.record.time, 0.5 * lag, atol=1e-5)
                np.testing.assert_array_equal(
                    np.sort(raw[position - lag].points[:, 3]), np.sort(all_signals(part.record))
                )


def all_signals(record) -> np.ndarray:
    outside = record.outside_signal
    return record.signal if outside is None else np.concatenate([record.signal, outside])


def write_kitti(root: Path, sequences: tuple[str, ...], n_scans: int) -> Path:
    for sequence in sequences:
        folder = write_sequence(root, sequence, tuple(range(n_scans)), images=False)
        poses = "".join(f"1 0 0 0 0 1 0 0 0 0 1 {place}\n" for place in range(n_scans))
        (folder / "poses.txt").write_text(poses)
    return root


def test_a_remote_store_gives_each_shard_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ten past scans a sample, across shards, and two threads; twice where it is cut."""
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    raw = write_kitti(tmp_path / "raw", ("00", "01", "02"), 9)
    place = "memory://stacks/semkitti"
    near = tmp_path / "near/semkitti"
    prepare(list_semkitti(raw), near, PrepareConfig(workers=0, shard_scans=2), Silent())
    store = fsspec.filesystem("memory")
    for path in near.rglob("*"):
        if path.is_file():
            store.pipe_file(f"/stacks/semkitti/{path.relative_to(near)}", path.read_bytes())
    fetched: Counter[str] = Counter()
    part, whole = RemoteStore.read_range, RemoteStore.fetch

    def read_range(self: RemoteStore, name: str, *more: int) -> bytes:
        fetched[f"{name} {more}"] += 1
        return part(self, name, *more)

    def fetch(self: RemoteStore, name: str, aside: Path, *, nbytes: int, xxh3: str) -> None:
        fetched[name] += 1
        whole(self, name, aside, nbytes=nbytes, xxh3=xxh3)

    monkeypatch.setattr(RemoteStore, "read_range", read_range)
    monkeypatch.setattr(RemoteStore, "fetch", fetch)
    with CacheReader.open(place) as reader:
        assert reader.is_remote
        reader.expect_all()
        plan = StreamPlan(
            positions=reader.select(split="train"),
            batch_size=2,
            seed=1,
            augment=PLAIN,
            size_hw=None,
            stack=StackConfig(past=10),
            shards=reader.scans.shard[reader.select(split="train")],
        )
        stream = BatchStream(reader, plan, StreamConfig(threads=2))
        n_seen = sum(len(next(stream).positions) for _ in range(plan.batches_per_epoch))
        stream.close()
        assert n_seen == 27
    shard_files = {name: n for name, n in fetched.items() if "/xyz/" in name}
    assert len(shard_files) == 15  # 3 sequences of 5 shards
    assert set(fetched.values()) == {1}


def test_statistics_count_what_moves_apart_and_limit_the_weight_of_the_rare(
    tmp_path: Path,
) -> None:
    raw = write_kitti(tmp_path / "raw", ("00",), 4)
    labels = [np.fromfile(f, "<u4") & 0xFFFF for f in sorted(raw.glob("sequences/*/labels/*"))]
    n_moving = int((np.concatenate(labels) == 252).sum())
    n_static = int((np.concatenate(labels) == 10).sum())
    assert n_moving
    prepare(list_semkitti(raw), tmp_path / "semkitti", PrepareConfig(workers=0), Silent())
    words = ["stats", "--cache", str(tmp_path), "--json"]
    counts = []
    for moving in ([], ["--moving"]):
        result = CliRunner().invoke(app, [*words, *moving])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        (split,) = [s for name, s in found["splits"].items() if name == "train"]
        counts.append({c["name"]: c for c in split["classes"]})
    static, moving = counts
    assert len(static) == 20
    assert len(moving) == 26
    assert static["car"]["points"] == moving["car"]["points"] + moving["moving-car"]["points"]
    assert moving["car"]["points"] < n_static + 1
    assert 0 < moving["moving-car"]["points"] <= n_moving
    most = max(c["points"] for name, c in moving.items() if name != "unlabeled")
    wanted = (most / moving["moving-car"]["points"]) ** (1 / 3)
    assert moving["moving-car"]["weight"] == pytest.approx(wanted, rel=1e-6)
    for of_class in moving.values():
        assert of_class["weight"] <= 101  # (1 / 1e-6) ** (1 / 3), whatever a class's share
