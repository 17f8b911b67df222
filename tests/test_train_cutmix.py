"""Instance CutMix and its bank: what is counted, kept and pasted."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from cache_samples import write_sample_cache
from heard import Heard
from mix_samples import TABLES, loaded
from test_train_stream import plan_for, same, take

from pass2d.cache.clouds.instance_bank import (
    InstanceBank,
    bank_file,
    build_bank,
    centred,
    instance_bank,
    instance_rows,
)
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import CameraView
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.datasets.table import load_table
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.data.mixes import CUTMIX_LIMIT, cut_mix
from pass2d.train.data.placing import first_in_cells, ground_places, thing_maps
from pass2d.train.data.sampling import AugmentConfig

REAL = Path(__file__).resolve().parents[1] / "../shared/real"
SEMKITTI = load_table(TABLES / "semkitti.toml").info
PASTED_RAW = [
    raw_id
    for raw_id, training in SEMKITTI.labels.raw_to_training.items()
    if training in SEMKITTI.facts.pasted
]
PUBLISHED_SIZES = {2: 5083, 3: 3092, 5: 7419, 6: 8084, 7: 1551}
"""Bicycles, motorcycles, other vehicles, people, bicyclists in SemanticKITTI's training scans."""
WORKERLESS = PrepareConfig(workers=0)
FACTS = replace(SEMKITTI.facts, pasted=(2, 3), grounds=(1, 4))
"""For made-up scans, which hold classes 1 to 4."""
CUTMIX = AugmentConfig(crop_hw=(32, 96), mixes=({"instance-cutmix": 1.0},))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    root = tmp_path_factory.mktemp("cache")
    info = replace(SEMKITTI, own_facts=FACTS)
    write_sample_cache(root, n_scans=4, sequences=("00", "01"), info=info)
    return CacheReader.open(root)


def equal(a: InstanceBank, b: InstanceBank) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_objects_have_more_than_five_points_of_one_kind_and_one_id() -> None:
    kind = np.array([6] * 6 + [6] * 5 + [7] * 6 + [6] * 4 + [9] * 9 + [6] * 2)
    instance = np.array([3] * 6 + [4] * 5 + [3] * 6 + [0] * 4 + [1] * 9 + [0] * 2)
    found = [(k, rows.tolist()) for k, rows in instance_rows(kind, instance, wanted=[6, 7])]
    without_id = [17, 18, 19, 20, 30, 31]  # all of a kind are one object
    assert found == [(6, without_id), (6, [0, 1, 2, 3, 4, 5]), (7, list(range(11, 17)))]
    nothing = instance_rows(kind[:0], instance[:0], wanted=[6])
    assert list(nothing) == []


@pytest.mark.parametrize(
    ("file", "objects"),
    [
        ("semantickitti/sequences/00/labels/000000.label", []),
        (
            "semantickitti/sequences/08/labels/000000.label",
            [(11, 19), (30, 18), (254, 70), (254, 13), (254, 55)],
        ),
        ("kitti_object_as_odometry/sequences/00/labels/000000.label", [(30, 360)]),
        # No instance ids: one object per raw class.
        (
            "pandaset_as_semantickitti/sequences/00/labels/000000.label",
            [(15, 14), (20, 1533), (30, 70)],
        ),
    ],
)
def test_objects_of_real_scans(file: str, objects: list[tuple[int, int]]) -> None:
    """The rule of `PUBLISHED_SIZES`."""
    if not (REAL / file).exists():
        pytest.skip("no real scans")
    raw = np.fromfile(REAL / file, np.uint32)
    found = instance_rows(raw & 0xFFFF, raw >> 16, wanted=PASTED_RAW)
    assert [(kind, len(rows)) for kind, rows in found] == objects
    # Slowly: a list of points per raw label.
    slow: dict[int, int] = {}
    for value in raw.tolist():
        if value & 0xFFFF in PASTED_RAW:
            slow[value] = slow.get(value, 0) + 1
    assert sorted(n for n in slow.values() if n > 5) == sorted(n for _, n in objects)


def test_all_training_scans_hold_as_many_objects_as_were_published() -> None:
    """Only where PASS2D_SEMKITTI names the whole data set."""
    table = load_table(TABLES / "semkitti.toml")
    root = Path(os.environ.get("PASS2D_SEMKITTI", "nowhere")) / "sequences"
    files = [file for name in table.splits["train"] for file in root.glob(f"{name}/labels/*.label")]
    if len(files) != sum(table.scan_counts[name] for name in table.splits["train"]):
        pytest.skip("PASS2D_SEMKITTI names no complete data set")
    counts: Counter[int] = Counter()
    for file in files:
        raw = np.fromfile(file, np.uint32)
        for kind, _ in instance_rows(raw & 0xFFFF, raw >> 16, wanted=PASTED_RAW):
            counts[SEMKITTI.labels.raw_to_training[kind]] += 1
    assert counts == PUBLISHED_SIZES


def test_the_bank_of_a_real_scan_holds_its_objects(tmp_path: Path) -> None:
    """All five of this scan lie inside the volume, in which a cache keeps instance ids."""
    if not (source := REAL / "semantickitti/sequences/08").exists():
        pytest.skip("no real scans")
    folder = tmp_path / "raw/sequences/08"
    for name in ("velodyne", "labels"):
        shutil.copytree(source / name, folder / name)
    shutil.copy(source / "calib.txt", folder)
    prepare(list_semkitti(tmp_path / "raw"), tmp_path / "semkitti", WORKERLESS, Silent())
    raw = np.fromfile(folder / "labels/000000.label", np.uint32)
    points = np.fromfile(folder / "velodyne/000000.bin", np.float32).reshape(-1, 4)
    with CacheReader.open(tmp_path / "semkitti") as reader:
        bank = build_bank(reader, reader.select(), Silent())
    sizes = np.diff(bank.offsets).tolist()
    assert list(zip(bank.class_id.tolist(), sizes, strict=True)) == [
        *((2, 19), (6, 70), (6, 13), (6, 55), (6, 18))
    ]
    # Each object is one label of the raw file, moved to its own middle.
    found = dict(instance_rows(raw & 0xFFFF, raw >> 16, wanted=[11]))
    bicycle = points[found[11], :3].T
    np.testing.assert_allclose(bank.xyz[:, :19], centred(bicycle), atol=1e-5)
    assert np.array_equal(bank.signal[:19], points[found[11], 3])


def test_the_bank_of_a_cache_is_the_rule_on_each_scan(reader: CacheReader) -> None:
    positions = reader.select()
    bank = build_bank(reader, positions, Silent())
    want = []
    for position in positions:
        record = reader.read(int(position), Fields(label=True, instance=True))
        assert record.label is not None
        assert record.instance is not None
        for class_id in FACTS.pasted:
            for instance in np.unique(record.instance):
                rows = np.flatnonzero((record.label == class_id) & (record.instance == instance))
                if len(rows) > 5:
                    want.append((int(position), class_id, rows, record))
    assert bank.n == len(want) > 20
    for k, (position, class_id, rows, record) in enumerate(want):
        part = slice(bank.offsets[k], bank.offsets[k + 1])
        assert (bank.position[k], bank.class_id[k]) == (position, class_id)
        assert np.array_equal(bank.rows[part], rows)
        assert np.array_equal(bank.signal[part], record.signal[rows])
        xyz = bank.xyz[:, part]
        np.testing.assert_allclose(xyz[:2].mean(1), 0, atol=1e-5)
        assert xyz[2].min() == 0
        np.testing.assert_allclose(np.ptp(xyz, axis=1), np.ptp(record.xyz[:, rows], axis=1), 1e-5)
    assert bank.of_class(3).tolist() == [k for k, item in enumerate(want) if item[1] == 3]


def test_the_bank_is_kept_under_its_own_key(reader: CacheReader) -> None:
    positions, heard = reader.select(split="train"), Heard()
    made = instance_bank(reader, positions, heard)
    path = bank_file(reader, positions)
    content = path.read_bytes()
    assert bank_file(reader, positions[1:]) != path
    assert equal(instance_bank(reader, positions, heard), made)
    path.write_bytes(content[: len(content) // 2])  # made again, as it was
    assert equal(instance_bank(reader, positions, heard), made)
    assert path.read_bytes() == content


def test_without_instance_ids_there_is_no_bank(tmp_path: Path) -> None:
    info = load_table(TABLES / "nuscenes.toml").info
    write_sample_cache(tmp_path, n_scans=1, sequences=("00",), info=info, image_hw=None)
    with CacheReader.open(tmp_path) as reader:
        bank = instance_bank(reader, reader.select(), Silent())
    assert bank.n == 0
    scan = loaded(np.zeros((4, 4), np.float32), np.full(4, 11, np.uint8), name="nuscenes")
    assert cut_mix(scan, bank, np.random.default_rng(0)) is scan


def street(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform((-20, -20, -2), (20, 20, 1), (n, 3)).astype(np.float32)
    return np.column_stack([xyz, rng.uniform(0, 1, n)]), rng.choice([9, 11, 15], n)


@pytest.mark.parametrize("most_cells", [1 << 24, 10])
def test_each_cell_offers_the_first_of_its_points(most_cells: int) -> None:
    points, labels = street(3000, 1)
    xyz = np.ascontiguousarray(points[:, :3].T, np.float32)
    order = np.random.default_rng(2).permutation(3000)
    first: dict[tuple[int, ...], int] = {}
    low = xyz.min(1)
    for row in order.tolist():
        first.setdefault(tuple(int(v) for v in xyz[:, row] - low), row)
    want = [first[cell] for cell in sorted(first)]
    for among in (np.ones(3000, np.bool_), labels != 15):
        found = first_in_cells(xyz, order, among=among, most_cells=most_cells)
        assert found.tolist() == [row for row in want if among[row]]
    places = ground_places(xyz, labels != 15, rng=np.random.default_rng(2))
    ground = {tuple(xyz[:, row].tolist()) for row in want if labels[row] != 15}
    assert {tuple(place) for place in places.T.tolist()} == ground
    assert places.shape[1] == len(ground)
    assert first_in_cells(xyz[:, :0], order[:0], among=np.ones(0, np.bool_)).tolist() == []


def test_things_are_mirrored_turned_and_scaled() -> None:
    maps = thing_maps(4000, np.random.default_rng(3))
    determinant = np.linalg.det(maps)
    factor = np.cbrt(-determinant)  # one axis is always mirrored
    assert 0.9 <= factor.min() < 0.901
    assert 1.099 < factor.max() <= 1.1
    np.testing.assert_allclose(maps[:, 2, 2], factor)
    turned = maps[:, 0] / factor[:, None]
    angle = np.arctan2(turned[:, 0], turned[:, 1])
    assert np.bincount(((angle + np.pi) / (2 * np.pi) * 8).astype(int)).min() > 400


def test_what_is_pasted_stands_on_the_ground_and_leaves_the_scan_alone() -> None:
    points, labels = street(5000, 4)
    rows = np.arange(0, 5000, 100, dtype=np.int32)
    pixels = np.stack([rows % 32, rows % 64]).astype(np.uint16)
    view = CameraView(image=np.zeros((32, 64, 3), np.uint8), point_index=rows, pixel_rc=pixels)
    instance = np.where(labels == 15, 7, 0).astype(np.uint32)
    scan = loaded(
        points.astype(np.float32), labels.astype(np.uint8), cameras=(view,), instance=instance
    )
    n_things, size = 12, 8
    things = np.random.default_rng(5).normal(size=(n_things, 3, size)).astype(np.float32)
    bank = InstanceBank(
        position=np.zeros(n_things, np.int32),
        class_id=np.repeat(np.array(SEMKITTI.facts.pasted[1:], np.uint8), 3),
        offsets=np.arange(0, (n_things + 1) * size, size),
        rows=np.zeros(n_things * size, np.int32),
        xyz=np.concatenate([centred(thing) for thing in things], axis=1),
        signal=np.repeat(np.arange(n_things, dtype=np.float32), size),
    )
    counts = []
    for seed in range(40):
        mixed = cut_mix(scan, bank, np.random.default_rng(seed))
        assert not mixed.added
        record = mixed.record
        assert record.label is not None
        assert record.instance is not None
        assert np.array_equal(record.xyz[:, : scan.n], scan.record.xyz)
        assert np.array_equal(record.label[: scan.n], scan.record.label)
        assert np.array_equal(record.cameras[0].point_index, rows)
        pasted = record.xyz[:, scan.n :].reshape(3, -1, size)
        number = record.signal[scan.n :: size].astype(int)
        assert np.array_equal(record.label[scan.n :: size], bank.class_id[number])
        own = np.bincount(record.label[scan.n :: size], minlength=8)[list(SEMKITTI.facts.pasted)]
        assert own[0] == 0  # the bank has no bicycle
        assert own.max() < CUTMIX_LIMIT
        counts += own[1:].tolist()
        # Its mean stands on a ground point, its lowest point at that one's height; each once.
        ground = {tuple(p) for p in np.round(scan.xyz[:, labels != 15].T, 3).tolist()}
        at = [*pasted[:2].mean(2), pasted[2].min(1)]
        places = np.stack([np.round(axis, 3) for axis in at], 1)
        near = [min(np.abs(np.array(p) - place).max() for p in ground) for place in places[:3]]
        assert max(near, default=0) < 2e-3
        assert len({tuple(place) for place in places.tolist()}) == len(places)
        ids = record.instance[scan.n :].reshape(-1, size)
        assert (ids == ids[:, :1]).all()
        assert len(np.unique(ids[:, 0])) == len(ids)
        assert not len(ids) or ids.min() > 7
    assert 15 < np.mean(counts) < 24  # 19.5 expected


def test_no_more_things_than_places() -> None:
    points = np.array([[0, 0, 0, 0], [0.1, 0, 0, 0], [5, 5, 0, 0]], np.float32)
    scan = loaded(points, np.array([9, 9, 9], np.uint8))
    bank = InstanceBank(
        position=np.zeros(1, np.int32),
        class_id=np.array([6], np.uint8),
        offsets=np.array([0, 6]),
        rows=np.zeros(6, np.int32),
        xyz=np.zeros((3, 6), np.float32),
        signal=np.zeros(6, np.float32),
    )
    sizes = {cut_mix(scan, bank, np.random.default_rng(seed)).n for seed in range(60)}
    assert sizes <= {3, 9, 15}
    assert 15 in sizes
    nowhere = replace(scan, record=replace(scan.record, label=np.full(3, 15, np.uint8)))
    assert cut_mix(nowhere, bank, np.random.default_rng(0)).n == 3


@pytest.mark.parametrize("with_outside", [False, True])
def test_batches_are_the_same_whatever_threads_and_ranks(
    reader: CacheReader, with_outside: bool
) -> None:
    bank = build_bank(reader, reader.select(split="train"), Silent())
    plan = plan_for(reader, augment=CUTMIX, bank=bank, batch_size=2, with_outside=with_outside)
    plain = take(reader, replace(plan, augment=replace(CUTMIX, mixes=())), 4, threads=1)
    whole = take(reader, plan, 4, threads=1)
    for a, b in zip(whole, take(reader, plan, 4, threads=3), strict=True):
        assert same(a, b)
    halves = [
        take(reader, replace(plan, batch_size=1, world=2, rank=rank), 4, threads=2)
        for rank in (0, 1)
    ]
    for both, first, second in zip(whole, *halves, strict=True):
        channels = np.concatenate([first["channels"], second["channels"]], axis=1)
        assert np.array_equal(both["channels"], channels)
        labels = np.concatenate([first["labels"], second["labels"]])
        assert np.array_equal(both["labels"], labels)
    assert sum(b["channels"].shape[1] for b in whole) > sum(b["channels"].shape[1] for b in plain)
