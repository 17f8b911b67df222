"""`verify` finds all damage, `repair` fixes just that; `gc` and `status` tell the truth."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from cache_samples import sample_info, write_sample_cache
from pipeline_files import write_sequence
from typer.testing import CliRunner

from pass2d.cache.care.damage import IntegrityReport
from pass2d.cache.care.gc import collect_garbage
from pass2d.cache.care.status import status
from pass2d.cache.care.verify import verify
from pass2d.cache.fields import CONTAINERS, Fields
from pass2d.cache.keys import hash_bytes
from pass2d.cache.manifest import describe_dataset
from pass2d.cache.reader import CacheReader
from pass2d.cli import app
from pass2d.common.errors import CacheError
from pass2d.common.files import lock_file
from pass2d.common.json import dumps, seal
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, plan, prepare
from pass2d.pipeline.repair.rebuild_shards import rebuild_and_compare
from pass2d.pipeline.repair.repair import repair

ALL = Fields(label=True, instance=True, image=True, pixels=True, voxels=True, outside=True)
INLINE = PrepareConfig(workers=0, shard_scans=2)


def build(folder: Path) -> tuple[Path, Path]:
    """Raw files and a cache of two shards, one bad scan among them."""
    raw, out = folder / "raw", folder / "cache" / "semkitti"
    write_sequence(raw, "00", (0, 1))
    write_sequence(raw, "08", (0, 1))
    (raw / "sequences/08/velodyne/000001.bin").write_bytes(b"bad")
    prepare(list_semkitti(raw), out, INLINE, Silent())
    return raw, out


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    return build(tmp_path)


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".tmp" not in path.parts
    }


def shards(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(root).items() if name.startswith(CONTAINERS)}


def found(root: Path) -> IntegrityReport:
    return verify(root, Silent())


def one_of_each_kind(tree: dict[str, bytes]) -> dict[str, bytes]:
    """Top files, and one file of each name in each container, for tests that take time."""
    kinds = {}
    for name, data in tree.items():
        stage, *inside = Path(name).parts
        is_array = stage in CONTAINERS and len(inside) > 2
        kinds[stage, inside[-1] if is_array else len(inside) and name[-6:]] = (name, data)
    return dict(kinds.values())


def is_other_version(path: Path) -> bool:
    """Whether a flip hit the digit of the format version in dataset.json."""
    return path.name == "dataset.json" and b'"format_version":1,' not in path.read_bytes()


def flip(path: Path, rng: random.Random) -> bytes:
    """Flip one bit of a file; returns what it was."""
    was = path.read_bytes()
    data = bytearray(was)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return was


def test_an_undamaged_cache_is_sound(made: tuple[Path, Path]) -> None:
    _, out = made
    report = verify(out, Silent(), rebuild=rebuild_and_compare(out), rebuild_share=1.0)
    assert report.damages == ()
    assert (report.scans, report.shards, report.rebuilt) == (3, 8, 8)
    assert report.files == len(files(out))
    assert report.nbytes == sum(len(data) for data in files(out).values())


def test_what_others_publish_and_remove_meanwhile_is_no_damage(made: tuple[Path, Path]) -> None:
    raw, out = made
    said: list[str] = []
    times = itertools.count()

    @contextlib.contextmanager
    def present(_container: str, _name: str) -> Iterator[None]:
        if next(times) == 0:
            prepare(list_semkitti(raw), out, replace(INLINE, profile="size"), Silent())
            collect_garbage(out, keep=1)
        yield

    class Listener(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    report = verify(out, Listener(), presence=present)
    assert report.damages == ()
    assert report.files == len(files(out))
    assert said == [f"{out}: changed while it was being checked; checking again"]


@pytest.mark.parametrize("n_cameras", [1, 6])
def test_made_up_caches_are_sound(tmp_path: Path, n_cameras: int) -> None:
    sequences = ("00", "08", "11")
    write_sample_cache(
        tmp_path, sequences=sequences, info=sample_info(n_cameras=n_cameras), without_image=("08",)
    )
    assert found(tmp_path / "semkitti").damages == ()


def test_any_flipped_bit_is_found(made: tuple[Path, Path], fault_rounds: int) -> None:
    _, out = made
    rng = random.Random(1)
    names = list(files(out))
    assert {"CURRENT", "dataset.json", "failed.jsonl"} < set(names)
    for name in names * fault_rounds:
        was = flip(out / name, rng)
        if is_other_version(out / name):
            with pytest.raises(CacheError, match="format version"):
                found(out)
        else:
            damage = next(d for d in found(out).damages if d.path == name)
            if name.startswith(CONTAINERS):
                stage, folder, *inside = Path(name).parts
                assert (damage.container, f"{damage.shard:06d}") == (stage, folder[:6])
                assert damage.field == (inside[0] if len(inside) > 1 else "")
        (out / name).write_bytes(was)
    assert found(out).is_sound


def test_a_damaged_chunk_names_its_scan(made: tuple[Path, Path]) -> None:
    _, out = made
    with CacheReader.open(out) as reader:
        offset = reader._chunks["label"].spans(1)[0].offset + 20
    path = next((out / "lidar").glob("000000-*")) / "label/c/0/0"
    data = bytearray(path.read_bytes())
    data[offset] ^= 16
    path.write_bytes(data)
    (damage,) = found(out).damages
    assert damage.scan_ids == ("00/000001",)
    assert (damage.container, damage.shard, damage.field) == ("lidar", 0, "label")
    assert "label/c/0/0" in str(damage)
    assert "scan 00/000001" in str(damage)


def test_a_damaged_index_names_the_scans_that_plain_zarr_would_miss(
    made: tuple[Path, Path],
) -> None:
    _, out = made
    path = next((out / "lidar").glob("000000-*")) / "label/c/0/0"
    was = path.read_bytes()
    for place, expected in ((-20, ("00/000001",)), (-36, ("00/000000",)), (-1, None)):
        data = bytearray(was)
        data[place] ^= 2
        path.write_bytes(data)
        (damage,) = found(out).damages
        assert damage.scan_ids == (expected or ("00/000000", "00/000001"))
        assert (damage.field, damage.shard) == ("label", 0)
        assert "the index" in str(damage)


@pytest.mark.parametrize("change", ["truncate", "remove", "append", "extra"])
def test_truncated_missing_longer_and_extra_files_are_found(
    made: tuple[Path, Path], change: str
) -> None:
    _, out = made
    for name, data in one_of_each_kind(files(out)).items():
        path = out / name
        if change == "truncate":
            path.write_bytes(data[:-1])
        elif change == "append":
            path.write_bytes(data + b"\n")
        elif change == "remove":
            path.unlink()
        else:
            path = path.with_name("stray.bin")
            path.write_bytes(b"1")
        damages = found(out).damages
        wanted = str(path.relative_to(out))
        assert any(d.path == wanted or wanted.startswith(f"{d.path}/") for d in damages), name
        path.write_bytes(data) if change != "extra" else path.unlink()
    assert found(out).is_sound


def test_a_missing_shard_folder_and_record(made: tuple[Path, Path]) -> None:
    _, out = made
    shutil.rmtree(next((out / "voxel").glob("008000-*")))
    (damage,) = found(out).damages
    assert (damage.kind, damage.container, damage.shard) == ("missing", "voxel", 8000)


def test_rows_that_lie_are_found(made: tuple[Path, Path]) -> None:
    """A record with a right checksum and wrong content."""
    _, out = made
    path = next((out / "rows/lidar").glob("000000-*"))
    value = json.loads(path.read_bytes())
    del value["xxh3"]
    value["row"]["entries"]["lidar"][0]["n"] += 1
    path.write_bytes(seal(value))
    damages = found(out).damages
    assert {d.kind for d in damages} == {"inconsistent"}


def test_values_are_checked_against_each_other(made: tuple[Path, Path]) -> None:
    """A shard that was written wrong, with right checksums everywhere."""
    from pass2d.cache.care.check_shard import ShardChecker
    from pass2d.cache.layout import Layout
    from pass2d.cache.rows import decode_row
    from pass2d.cache.writing.encode import ArrayPlan
    from pass2d.cache.writing.shard import ArrayWriter

    _, out = made
    record = next((out / "rows/voxel").glob("000000-*"))
    row = decode_row(record.read_bytes(), where="row")
    folder = out / "voxel" / f"{record.stem}.zarr"
    from pass2d.cache.reading.shard_reader import ShardReader

    reader = ShardReader(Layout(root=out), row)
    values = [reader.chunk("inverse", index)[None] for index in range(2)]
    values[1][0, 2, 3] = 10_000
    shutil.rmtree(folder / "inverse")
    from pass2d.cache.fields import FIELDS
    from pass2d.cache.writing.shard import ArraySpec

    spec = ArraySpec(
        name="inverse",
        dtype="int32",
        shape=(2, *values[0].shape[1:]),
        chunk=values[0].shape,
        codec=FIELDS["inverse"].speed,
    )
    plan = ArrayPlan(spec=spec, chunks=iter(values))
    writer = ArrayWriter(folder, spec)
    new_files = {f.name: f for f in writer.write(plan.chunks)}
    from dataclasses import replace

    row = replace(
        row,
        files=tuple(new_files.get(f.name, f) for f in row.files),
        fields=tuple(writer.field_chunks() if f.name == "inverse" else f for f in row.fields),
    )
    checker = ShardChecker(Layout(root=out), row)
    checker.check(n_classes=20)
    (damage,) = checker.damages
    assert damage.field == "inverse"
    assert damage.scan_ids == ("00/000001",)
    assert "of scale 4" in damage.text


def test_changed_code_is_found_by_rebuilding(made, monkeypatch) -> None:
    from pass2d.pipeline.run import tasks

    _, out = made
    real = tasks.voxel_levels

    def other(lidar, *, grid):
        levels = real(lidar, grid=grid)
        levels[0].label[0] ^= 1
        return levels

    monkeypatch.setattr(tasks, "voxel_levels", other)
    report = verify(out, Silent(), rebuild=rebuild_and_compare(out), rebuild_share=1.0)
    assert {(d.kind, d.container) for d in report.damages} == {("other bytes", "voxel")}
    assert {d.path.split("/")[2] for d in report.damages} == {"vlabel"}


def test_vanished_sources_are_a_note_when_rebuilding(made: tuple[Path, Path]) -> None:
    raw, out = made
    shutil.rmtree(raw)
    report = verify(out, Silent(), rebuild=rebuild_and_compare(out), rebuild_share=1.0)
    assert report.is_sound
    assert report.rebuilt == 2  # voxel shards need no raw file
    assert sum("not rebuilt" in note for note in report.notes) == 6


def test_repair_fixes_every_file(made: tuple[Path, Path], tmp_path: Path) -> None:
    raw, made_once = made
    before = files(made_once)
    rng = random.Random(2)
    for number, name in enumerate(one_of_each_kind(before)):
        out = tmp_path / str(number) / "semkitti"
        shutil.copytree(made_once, out)
        with CacheReader.open(out) as reader:
            flip(out / name, rng)
            repair(out, Silent())
            assert found(out).damages == (), name
            for position in range(len(reader.scans)):  # a running reader is not disturbed
                reader.read(position, ALL)
        assert shards(out) == {n: d for n, d in before.items() if n.startswith(CONTAINERS)}
        prepare(list_semkitti(raw), out, INLINE, Silent())
        assert files(out)["failed.jsonl"] == before["failed.jsonl"]
        assert found(out).is_sound


def test_repair_rebuilds_only_what_is_damaged(made: tuple[Path, Path]) -> None:
    _, out = made
    times = {n: (out / n).stat().st_mtime_ns for n in files(out)}
    path = next((out / "lidar").glob("000000-*")) / "xyz/c/0/0/0"
    flip(path, random.Random(3))
    report = repair(out, Silent())
    assert len(report.repaired) == 1
    changed = {n for n, t in times.items() if (out / n).stat().st_mtime_ns != t}
    assert {Path(n).parts[1][:6] for n in changed} == {"000000", "lidar"}
    assert all(n.startswith(("lidar/000000", "rows/lidar/000000")) for n in changed)


def test_repair_after_a_whole_stage_is_lost(made: tuple[Path, Path]) -> None:
    _, out = made
    before = shards(out)
    shutil.rmtree(out / "camera")
    shutil.rmtree(out / "rows/camera")
    assert repair(out, Silent()).unrepaired == ()
    assert shards(out) == before
    assert found(out).is_sound


def test_repair_from_shards_alone(made: tuple[Path, Path]) -> None:
    """The manifest, the records and the sources are gone: the shards tell everything."""
    raw, out = made
    with CacheReader.open(out) as reader:
        fingerprint, table = reader.fingerprint, reader.scans
    for name in ("rows/lidar", "rows/camera", "rows/voxel"):
        for path in (out / name).glob("*.json"):
            path.write_bytes(b"{}")
    for path in (out / "manifest/gen-000001").iterdir():
        path.write_bytes(b"")
    shutil.rmtree(raw)
    report = repair(out, Silent())
    assert report.unrepaired == ()
    assert found(out).is_sound
    with CacheReader.open(out) as reader:
        assert reader.fingerprint == fingerprint
        np.testing.assert_array_equal(reader.scans.label_histogram, table.label_histogram)
        reader.read(0, ALL)


def test_repair_says_what_it_cannot_fix(made: tuple[Path, Path]) -> None:
    raw, out = made
    flip(next((out / "lidar").glob("000000-*")) / "xyz/c/0/0/0", random.Random(4))
    (raw / "sequences/00/velodyne/000000.bin").write_bytes(b"")
    (out / "notes.txt").write_text("mine")
    report = repair(out, Silent())
    assert len(report.unrepaired) == 2
    assert any("notes.txt" in text and "move it away" in text for text in report.unrepaired)
    assert any("sources or the code changed" in text for text in report.unrepaired)
    assert (out / "notes.txt").read_text() == "mine"


def test_what_cannot_be_fixed_stays_readable(made: tuple[Path, Path]) -> None:
    """The sources are gone: the scans of a damaged shard that are whole are all that is left."""
    raw, out = made
    with CacheReader.open(out) as reader:
        spans = reader._chunks["xyz"].spans(1)
        whole = reader.read(0, ALL)
    path = next((out / "lidar").glob("000000-*")) / "xyz/c/0/0/0"
    data = bytearray(path.read_bytes())
    data[spans[0].offset + 9] ^= 4
    path.write_bytes(data)
    before = files(out)
    shutil.rmtree(raw)
    report = repair(out, Silent())
    assert report.repaired == ()
    (line,) = report.unrepaired
    assert line.startswith("lidar/000000-")
    assert "sources" in line
    assert files(out) == before
    with CacheReader.open(out) as reader:
        np.testing.assert_array_equal(reader.read(0, ALL).xyz, whole.xyz)
        with pytest.raises(CacheError, match="field xyz of scan 00/000001 is damaged"):
            reader.read(1, ALL)


def test_gc_removes_what_nothing_refers_to(made: tuple[Path, Path]) -> None:
    raw, out = made
    old = files(out)
    prepare(
        list_semkitti(raw), out, PrepareConfig(workers=0, shard_scans=2, profile="size"), Silent()
    )
    both = files(out)
    assert len(both) > 2 * len(old) - 10
    (out / f".tmp/lidar-000001-0123456789ab-{'0' * 32}").mkdir()
    (out / ".tmp/thesis").mkdir()  # somebody's own
    promised = collect_garbage(out, dry_run=True)
    assert files(out) == both
    report = collect_garbage(out)
    assert report.removed == promised.removed
    assert report.nbytes == promised.nbytes > 0
    after = files(out)
    assert [n for n in after if n.startswith(("manifest", "rows"))] == [
        n
        for n in both
        if n.startswith(("manifest/gen-000002", "rows")) and (n not in old or "manifest" in n)
    ]
    assert not list((out / ".tmp").glob("lidar*"))
    assert (out / ".tmp/thesis").is_dir()
    assert found(out).is_sound
    with CacheReader.open(out) as reader:
        reader.read(0, ALL)
    assert collect_garbage(out).removed == ()


def test_gc_leaves_a_running_reader_alone(made: tuple[Path, Path]) -> None:
    raw, out = made
    other = PrepareConfig(workers=0, shard_scans=2, profile="size")
    with CacheReader.open(out) as reader:
        prepare(list_semkitti(raw), out, other, Silent())
        report = collect_garbage(out)
        assert report.removed == ()
        assert report.kept == ("manifest/gen-000001: a reader has it open",)
        reader.read(0, ALL)
    assert len(collect_garbage(out).removed) == 17


def test_gc_and_prepare_do_not_meet(made: tuple[Path, Path]) -> None:
    raw, out = made
    with lock_file(out / ".tmp/prepare.lock", exclusive=False, wait=True):
        with pytest.raises(CacheError, match="`prepare` is running"):
            collect_garbage(out)
        prepare(list_semkitti(raw), out, INLINE, Silent())  # two drivers are fine


def test_gc_keeps_the_work_of_an_interrupted_run(made: tuple[Path, Path]) -> None:
    raw, out = made
    write_sequence(raw, "05", (0,))
    current = (out / "CURRENT").read_bytes()
    manifest = files(out / "manifest")
    prepare(list_semkitti(raw), out, INLINE, Silent())
    shutil.rmtree(out / "manifest/gen-000002")  # as if it had been killed before publishing
    (out / "CURRENT").write_bytes(current)
    assert files(out / "manifest") == manifest
    report = collect_garbage(out)
    assert report.removed == ()
    assert len(report.kept) == 4
    assert len(collect_garbage(out, unfinished=True).removed) == 8


def test_a_repair_that_was_interrupted(made: tuple[Path, Path], monkeypatch) -> None:
    _, out = made
    before = shards(out)
    rng = random.Random(3)
    flip(next((out / "voxel").glob("000000-*")) / "coord/c/0/0/0", rng)
    flip(out / "manifest/gen-000001/scans.parquet", rng)
    with monkeypatch.context() as patch:
        patch.setattr(
            "pass2d.pipeline.repair.repair.make_shard", Mock(side_effect=KeyboardInterrupt)
        )
        patch.setattr(
            "pass2d.pipeline.repair.repair._Repairer._move_back", lambda *_: None
        )  # as after a SIGKILL
        with pytest.raises(KeyboardInterrupt):
            repair(out, Silent())
    assert repair(out, Silent()).unrepaired == ()
    assert found(out).is_sound
    assert shards(out) == before


def test_repair_clears_what_a_killed_repair_was_writing(made: tuple[Path, Path]) -> None:
    _, out = made
    shutil.rmtree(min((out / "lidar").iterdir()))
    scratch = out / ".tmp"
    left = [scratch / f"{name}-{'0' * 32}" for name in ("lidar-a", "generation", "damaged-a")]
    for folder in left:
        folder.mkdir()
    assert repair(out, Silent()).repaired
    assert [folder.exists() for folder in left] == [False, False, True]


def test_folders_in_the_place_of_files(made: tuple[Path, Path]) -> None:
    _, out = made
    records = [next((out / "rows" / stage).glob("000000-*")) for stage in CONTAINERS[:4]]
    for path in (*records, out / "CURRENT", out / "dataset.json", out / "failed.jsonl"):
        was = path.read_bytes()
        path.unlink()
        path.mkdir()
        (damage,) = found(out).damages
        assert (damage.kind, damage.path) == ("unreadable", str(path.relative_to(out)))
        assert damage.container == (path.parent.name if path in records else "")
        assert repair(out, Silent()).unrepaired == ()
        if path not in records:
            assert path.read_bytes() == was
        assert found(out).is_sound


@pytest.mark.parametrize("left", [None, b"", 1])
def test_a_list_of_failures_that_is_cut_off(made: tuple[Path, Path], left: object) -> None:
    raw, out = made
    (raw / "sequences/00/velodyne/000001.bin").write_bytes(b"bad too")
    prepare(list_semkitti(raw), out, INLINE, Silent())
    listed = (out / "failed.jsonl").read_bytes()
    lines = listed.splitlines(keepends=True)
    assert [json.loads(line)["scan_id"] for line in lines] == ["00/000001", "08/000001"]
    (out / "failed.jsonl").unlink()
    if left is not None:
        (out / "failed.jsonl").write_bytes(lines[0] if left == 1 else b"")
    (damage,) = found(out).damages
    assert damage.path == "failed.jsonl"
    assert repair(out, Silent()).unrepaired == ()
    assert (out / "failed.jsonl").read_bytes() == listed
    assert found(out).is_sound


def test_failures_of_other_sequences_stay_listed(made: tuple[Path, Path]) -> None:
    raw, out = made
    calib = raw / "sequences/00/calib.txt"
    good = calib.read_bytes()
    calib.write_text("P2: 1 2 3\n")
    assert len(prepare(list_semkitti(raw), out, INLINE, Silent()).failed) == 3

    def run(*sequences: str) -> tuple[list[str], list[str]]:
        summary = prepare(list_semkitti(raw, sequences=sequences), out, INLINE, Silent())
        path = out / "failed.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [f.scan_id for f in summary.failed], [json.loads(i)["scan_id"] for i in lines]

    assert run("08") == (["08/000001"], ["00/000000", "00/000001", "08/000001"])
    calib.write_bytes(good)
    assert run("00") == ([], ["08/000001"])
    (raw / "sequences/08/velodyne/000001.bin").unlink()
    assert run("08") == ([], [])
    assert not (out / "failed.jsonl").exists()


def test_status_sees_changed_and_vanished_sources(made: tuple[Path, Path]) -> None:
    raw, out = made
    report = status(out)
    assert report.is_current
    assert (report.scans, report.failed) == ({"train": 2, "val": 1}, 1)
    assert report.sources == 13  # 4 of points, 4 of labels, 3 pictures, 2 calib.txt
    assert [stage.shards for stage in report.containers] == [2, 2, 2, 2, 0]
    velodyne = raw / "sequences/00/velodyne"
    (velodyne / "000000.bin").write_bytes(b"shorter")
    (velodyne / "000001.bin").touch()
    (raw / "sequences/08/labels/000000.label").unlink()
    report = status(out)
    assert report.changed == (str(velodyne / "000000.bin"),)
    assert report.touched == (str(velodyne / "000001.bin"),)
    assert report.vanished == (str(raw / "sequences/08/labels/000000.label"),)
    assert not report.is_current
    assert status(out, hash_contents=True).touched == ()
    assert report.vanished_sequences == ()
    shutil.rmtree(raw / "sequences/08")
    assert status(out).vanished_sequences == ("08",)
    seen = CliRunner().invoke(app, ["cache", "status", "--cache", str(out)])
    assert seen.exit_code == 0
    assert "keeps the prepared scans of sequences 08, whose source files are gone" in seen.stdout
    raw.rename(raw.with_name("moved"))
    seen = CliRunner().invoke(app, ["cache", "status", "--cache", str(out)])
    assert "If the data set was moved, run `pass2d prepare` with the new --root" in seen.stdout


@pytest.mark.parametrize(
    ("version", "message"),
    [(0, "older pass2d wrote it: prepare again"), (2, "newer pass2d wrote it: upgrade")],
)
def test_other_format_versions_say_what_to_do(
    made: tuple[Path, Path], version: int, message: str
) -> None:
    raw, out = made
    path = out / "dataset.json"
    path.write_bytes(dumps({**json.loads(path.read_bytes()), "format_version": version}))
    for use in (
        lambda: CacheReader.open(out),
        lambda: found(out),
        lambda: status(out),
        lambda: repair(out, Silent()),
        lambda: collect_garbage(out),
        lambda: plan(list_semkitti(raw), out, INLINE),
        lambda: prepare(list_semkitti(raw), out, INLINE, Silent()),
    ):
        with pytest.raises(CacheError, match=message):
            use()


def test_describing_the_data_set_is_reproducible() -> None:
    assert hash_bytes(describe_dataset(sample_info())) == hash_bytes(
        describe_dataset(sample_info())
    )
