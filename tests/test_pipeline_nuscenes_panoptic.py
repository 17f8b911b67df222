"""Instance ids of nuScenes: panoptic files beside the labels of all, some or no scenes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes_files import NuscenesFolder
from pipeline_files import check_nuscenes
from test_train_stream import plan_for, same, take

from pass2d.cache.care.verify import verify
from pass2d.cache.clouds.instance_bank import instance_bank
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.nuscenes import list_nuscenes, nuscenes_table
from pass2d.pipeline.prepare import PrepareConfig, plan, prepare
from pass2d.pipeline.repair.repair import repair
from pass2d.train.data.mixes import MIXES
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.recipes.recipe import load_recipe
from pass2d.train.run.assemble import idle_mixes

INLINE = PrepareConfig(workers=0)
FIRST, SECOND = "scene-0061", "scene-1077"
"""Both of the training split."""


def folder_at(path: Path, **settings: Any) -> NuscenesFolder:
    folder = NuscenesFolder(path, version="v1.0-trainval", **{"n": 300, **settings})
    folder.drop(lambda name: "CAM_" in name)
    return folder


def prepared(root: Path, cache: Path, **wanted: Any) -> CacheReader:
    prepare(list_nuscenes(root, **wanted), cache / "nuscenes", INLINE, Silent())
    return CacheReader.open(cache)


def keys(reader: CacheReader) -> dict[str, str]:
    return {path.name: "" for path in sorted((reader.root / "rows").rglob("*.json"))}


def instances(reader: CacheReader) -> list[np.ndarray]:
    found = []
    for position in range(len(reader.scans)):
        record = reader.read(position, Fields(label=True, instance=True))
        assert record.instance is not None
        found.append(record.instance)
    return found


def test_ids_come_from_the_panoptic_file_of_each_scan(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "raw", scenes=(FIRST, SECOND), sweeps=1)
    folder.add_panoptic()
    root = folder.write()
    with prepared(root, tmp_path / "cache", sweeps=1) as reader:
        assert reader.info.facts.has_instances
        assert reader.info.facts.label_bytes == 1
        for scan in list_nuscenes(root, sweeps=1).scans:
            position = int(np.flatnonzero(reader.scans.scan_id == scan.scan_id)[0])
            record = reader.read(position, Fields(label=True, instance=True))
            assert scan.labels is not None
            raw = np.fromfile(scan.labels, np.uint8)
            number = np.arange(len(raw)) % 3 + 1
            want = np.where((raw > 0) & (raw < 24), 1000 * raw.astype(int) + number, 0)
            own = record.raw_index[record.raw_index < len(raw)]
            assert record.instance is not None
            assert record.instance[: len(own)].tolist() == want[own].tolist()
            assert not record.instance[len(own) :].any()  # added sweeps have none
        assert verify(reader.root, Silent()).is_sound
    prepare(list_nuscenes(root, sweeps=1), tmp_path / "cache/nuscenes", INLINE, Silent())
    with CacheReader.open(tmp_path / "cache") as again:
        assert again.generation == reader.generation


def test_without_panoptic_files_nothing_is_another(tmp_path: Path) -> None:
    root = folder_at(tmp_path / "raw").write()
    with prepared(root, tmp_path / "a") as reader:
        assert reader.info.own_facts is None
        assert not any(ids.any() for ids in instances(reader))
    assert not any("panoptic labels" in note for note in list_nuscenes(root).notes)
    assert not any("instance" in p.expected for p in check_nuscenes(root, progress=Silent()))


def test_scenes_with_panoptic_files_alone_are_made_again(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "raw", scenes=(FIRST, SECOND))
    root, cache = folder.write(), tmp_path / "cache"
    before = keys(prepared(root, cache))
    folder.add_panoptic((SECOND,))
    for file in [name for name in folder.files if name.startswith("panoptic/")]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(folder.files[file])
    listing = list_nuscenes(root)
    (note,) = [line for line in listing.notes if "panoptic" in line]
    assert note == f"scans without panoptic labels: 2 of 4 ({FIRST})"
    todo = plan(listing, cache / "nuscenes", INLINE)
    assert {task.sequence for task in todo.tasks} == {SECOND}
    with prepared(root, cache) as reader:
        assert reader.info.facts.has_instances
        has_ids = {
            scene: any(
                ids.any()
                for ids, s in zip(instances(reader), reader.scans.sequence, strict=True)
                if s == scene
            )
            for scene in (FIRST, SECOND)
        }
    assert has_ids == {FIRST: False, SECOND: True}
    assert before.keys() < keys(reader).keys()
    # Another listing into the same cache, of scenes without such files, changes nothing of that.
    with prepared(root, cache, scenes=(FIRST,)) as reader:
        assert reader.info.facts.has_instances
    assert plan(list_nuscenes(root), cache / "nuscenes", INLINE).tasks == ()
    # When they are gone, so are the ids.
    for file in root.glob("panoptic/*/*"):
        file.unlink()
    with prepared(root, cache) as reader:
        assert not reader.info.facts.has_instances
        assert not any(ids.any() for ids in instances(reader))


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "no npz file"),
        (b"PK\3\4 and then nothing", "no npz file"),
        (npz(data=np.zeros(300, np.uint16))[:-9], "no npz file"),
        (npz(labels=np.zeros(300, np.uint16)), "arrays ['labels']"),
        (npz(data=np.zeros(300, np.uint32)), "uint32 of shape (300,)"),
        (npz(data=np.zeros((300, 1), np.uint16)), "uint16 of shape (300, 1)"),
        (npz(data=np.zeros(299, np.uint16)), "299 values"),
        (npz(data=np.full(300, 40_001, np.uint16)), "values of raw id 40"),
        (npz(data=np.full(300, 17_001, np.uint16)), "that are the label file's at"),
    ],
)
def test_a_damaged_panoptic_file_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    folder = folder_at(tmp_path / "raw", scenes=(FIRST,))
    folder.add_panoptic()
    bad = next(name for name in folder.files if name.startswith("panoptic/"))
    folder.files[bad] = content
    root = folder.write()
    (problem,) = [p for p in check_nuscenes(root, progress=Silent()) if p.severity == "error"]
    assert problem.file == root / bad
    assert found in problem.found
    summary = prepare(list_nuscenes(root), tmp_path / "nuscenes", INLINE, Silent())
    (failed,) = summary.failed
    assert bad in failed.reason
    assert failed.container == "lidar"


def test_damaged_shards_are_made_again_with_their_ids(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "raw", scenes=(FIRST,))
    folder.add_panoptic()
    with prepared(folder.write(), tmp_path) as reader:
        before = instances(reader)
    shard = next(
        f
        for f in (tmp_path / "nuscenes/lidar").rglob("*")
        if f.is_file() and f.stat().st_size > 500
    )
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert not repair(tmp_path / "nuscenes", Silent()).unrepaired
    with CacheReader.open(tmp_path) as reader:
        assert all(np.array_equal(*pair) for pair in zip(before, instances(reader), strict=True))


MIXED = AugmentConfig(crop_hw=None, mixes=tuple({name: 0.6} for name in MIXES))


@pytest.mark.parametrize("with_ids", [False, True])
def test_all_mixes_work_with_and_without_instance_ids(tmp_path: Path, with_ids: bool) -> None:
    folder = folder_at(tmp_path / "raw", scenes=(FIRST, SECOND), n=3000)
    if with_ids:
        folder.add_panoptic()
    with prepared(folder.write(), tmp_path) as reader:
        recipe = replace(load_recipe("minkunet34-mix-nuscenes"), augment=MIXED)
        idle = " ".join(idle_mixes(reader, recipe, reader.select(split="train")))
        assert ("instance-copy" in idle) == ("instance-cutmix" in idle) == (not with_ids)
        bank = instance_bank(reader, reader.select(split="train"), Silent())
        assert (bank.n > 0) == with_ids
        if with_ids:
            pasted = nuscenes_table().info.facts.pasted
            assert set(bank.class_id.tolist()) == set(pasted)
            objects = {
                (position, int(label), int(instance))
                for position, ids in enumerate(instances(reader))
                for label, instance in zip(
                    reader.read(position, Fields(label=True)).label.tolist(),
                    ids.tolist(),
                    strict=True,
                )
                if label in pasted
            }
            assert bank.n <= len(objects)
        changes = {
            "augment": MIXED,
            "bank": bank,
            "size_hw": None,
            "batch_size": 2,
            "with_outside": True,
        }
        whole = take(reader, plan_for(reader, **changes), 4, threads=1)
        for a, b in zip(
            whole, take(reader, plan_for(reader, **changes), 4, threads=3), strict=True
        ):
            assert same(a, b)
        halves = [
            take(
                reader,
                plan_for(reader, **{**changes, "batch_size": 1}, world=2, rank=rank),
                4,
                threads=2,
            )
            for rank in (0, 1)
        ]
        for both, *parts in zip(whole, *halves, strict=True):
            joined = np.concatenate([part["channels"] for part in parts], axis=1)
            assert np.array_equal(both["channels"], joined)


def test_instance_copy_takes_all_things_of_the_partner(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "raw", scenes=(FIRST, SECOND))
    folder.add_panoptic()
    with prepared(folder.write(), tmp_path) as reader:
        augment = AugmentConfig(dropout_ratio=0.0, crop_hw=None, mixes=({"instance-copy": 1.0},))
        plan = plan_for(reader, augment=augment, size_hw=None, batch_size=1)
        n_things = [int(np.count_nonzero(ids)) for ids in instances(reader)]
        n_own = [len(ids) for ids in instances(reader)]
        for batch in take(reader, plan, 4, threads=1):
            n = batch["channels"].shape[1]
            assert any(n == own + things for own in n_own for things in n_things)
