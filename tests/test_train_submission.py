"""Submissions: what both servers ask for, as facts; odd zips; interrupted runs."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from nuscenes_files import NuscenesFolder
from pipeline_files import write_sequence
from stub_network import StubNetwork, by_place, trained_stub
from typer.testing import CliRunner

from pass2d.cache.reader import CacheReader
from pass2d.cli import app
from pass2d.common.errors import CheckpointError, ConfigError, DataError, Pass2DError
from pass2d.common.progress import Progress, Silent
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import build_from_card, network_tensors, save_checkpoint
from pass2d.train.checkpoints.trained import TrainedNetwork
from pass2d.train.inference.votes import VotePlan
from pass2d.train.submission.benchmark import Benchmark, parse_meta
from pass2d.train.submission.scans import expected_points
from pass2d.train.submission.sources import check_sources
from pass2d.train.submission.submit import SubmitConfig, submit
from pass2d.train.submission.verify import verify_submission

CPU = torch.device("cpu")
RAW_OF = np.array([0, 40, 10, 50, 70], np.uint32)
SEQUENCES = ("11", "12")
SCANS = 3
RULES = Benchmark(
    info=sample_info(),
    splits={"train": ("00",), "val": ("08",), "test": SEQUENCES},
    scan_counts={"11": SCANS, "12": SCANS},
)


@pytest.fixture(scope="module", autouse=True)
def _test_split() -> Iterable[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("cache_samples").SPLIT_OF, "12", "test")
        yield


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("cache")
    written = write_sample_cache(
        root, n_scans=SCANS, sequences=SEQUENCES, unlabelled=SEQUENCES, n_points=300
    )
    return root, written


@pytest.fixture
def stubbed(tmp_path: Path) -> TrainedNetwork:
    """A checkpoint whose network answers by `by_place`."""
    return trained_stub(tmp_path / "stub.safetensors", info=sample_info())


def write(
    trained: TrainedNetwork, scans, out: Path, *, progress: Progress | None = None, **changes
) -> object:
    config = SubmitConfig(**changes)
    return submit(trained, scans[0], out, benchmarks=[RULES], config=config, progress=progress)


def test_zip_holds_folders_and_one_file_per_scan_with_a_raw_id_per_raw_point(
    stubbed, scans, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "submission.zip"
    summary = write(stubbed, scans, out)
    assert summary.is_complete
    files = [f"sequences/{s}/predictions/{i:06d}.label" for s in SEQUENCES for i in range(SCANS)]
    folders = ["sequences/"] + [
        f"sequences/{s}{rest}" for s in SEQUENCES for rest in ("/", "/predictions/")
    ]
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert sorted(names) == sorted(files + folders)
        assert all(
            names.index(f"sequences/{n[10:12]}/predictions/") < names.index(n) for n in files
        )
        for name in files:
            scan = scans[1][f"{name[10:12]}/{name[25:31]}"]
            written = np.frombuffer(archive.read(name), "<u4")
            assert np.array_equal(written, RAW_OF[plain_answer(scan)])
    assert [p.name for p in out.parent.iterdir()] == ["submission.zip"]


def plain_answer(scan) -> np.ndarray:
    """The rule for each point inside, that of the nearest one inside for the others."""
    points = torch.from_numpy(np.column_stack([scan.xyz.T, scan.signal]))
    inside = by_place(points).numpy()
    labels = np.zeros(scan.n_raw, np.int64)
    labels[scan.raw_index] = inside
    others = np.setdiff1d(np.arange(scan.n_raw), scan.raw_index)
    for row, xyz in zip(others, scan.outside_xyz.T, strict=True):
        distance = ((scan.xyz.T.astype(float) - xyz.astype(float)) ** 2).sum(axis=1)
        labels[row] = inside[distance.argmin()]
    return labels


def test_class_0_is_never_answered_as_it_is_a_certain_miss(stubbed, scans, tmp_path: Path) -> None:
    stubbed.network.rule = lambda points: torch.zeros(len(points), dtype=torch.int64)
    write(stubbed, scans, tmp_path / "s.zip")
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".label"):
                assert not (np.frombuffer(archive.read(name), "<u4") == 0).any()


def test_description_lies_beside_sequences(stubbed, scans, tmp_path: Path) -> None:
    text = tmp_path / "about.txt"
    text.write_text("method: stub\n")
    write(stubbed, scans, tmp_path / "s.zip", description=text)
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert archive.read("description.txt") == b"method: stub\n"
    assert verify_submission(tmp_path / "s.zip", [RULES]).is_sound


def test_same_predictions_give_the_same_bytes(stubbed, scans, tmp_path: Path) -> None:
    write(stubbed, scans, tmp_path / "a.zip")
    write(stubbed, scans, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_missing_scan_is_an_error_here_not_on_the_server(stubbed, scans, tmp_path) -> None:
    rules = replace(RULES, scan_counts={"11": SCANS, "12": SCANS + 1})
    out = tmp_path / "s.zip"
    with pytest.raises(DataError, match=r"sequence 12: 3 scans, officially 4.*allow_partial"):
        submit(stubbed, scans[0], out, benchmarks=[rules], config=SubmitConfig())
    assert not out.exists()
    partial = SubmitConfig(allow_partial=True)
    summary = submit(stubbed, scans[0], out, benchmarks=[rules], config=partial)
    assert not summary.is_complete
    assert "server will refuse it" in " ".join(summary.notes)
    problems = verify_submission(out, [rules]).problems
    assert problems == ("s.zip: sequences/12: 3 prediction files, expected 4; missing: 000003",)


def test_a_missing_sequence_is_named(stubbed, scans, tmp_path: Path) -> None:
    rules = replace(RULES, splits={"test": ("11", "12", "13")})
    with pytest.raises(DataError, match="official sequences are not prepared: 13"):
        submit(stubbed, scans[0], tmp_path / "s.zip", benchmarks=[rules], config=SubmitConfig())


def shorter(points: bytes) -> bytes:
    return points[: len(points) // 2]


def longer(points: bytes) -> bytes:
    return points + points[:160]


def of_another_scan(points: bytes) -> bytes:
    return points[1600:] + points[:1600]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (shorter, "2,400 bytes; 4,800 were prepared"),
        (longer, "4,960 bytes; 4,800 were prepared"),
        (of_another_scan, "its 4,800 bytes are not those that were prepared"),
    ],
)
def test_points_that_changed_since_prepare_are_an_error(
    change: Callable[[bytes], bytes], found: str, tmp_path: Path
) -> None:
    write_sequence(tmp_path / "raw", "11", (0, 1), n=300, images=False)
    listing = list_semkitti(tmp_path / "raw")
    prepare(listing, tmp_path / "cache" / "semkitti", PrepareConfig(workers=0), Silent())
    trained = trained_stub(tmp_path / "stub.safetensors", info=listing.info)
    rules = Benchmark(info=listing.info, splits={"test": ("11",)}, scan_counts={"11": 2})
    zips = [tmp_path / "before.zip", tmp_path / "partial.zip", tmp_path / "after.zip"]

    def write_to(out: Path, **changes) -> None:
        submit(trained, tmp_path / "cache", out, benchmarks=[rules], config=SubmitConfig(**changes))

    os.utime(listing.scans[0].points, ns=(1, 1))  # copied without its time: the same bytes
    write_to(zips[0])
    file = listing.scans[1].points
    points = file.read_bytes()
    file.write_bytes(change(points))
    for out, is_partial in ((zips[1], True), (zips[2], False)):
        with pytest.raises(DataError, match="run `prepare` again") as raised:
            write_to(out, allow_partial=is_partial)
        assert str(raised.value).startswith(f"{file}: {found}. ")
        assert not out.exists()
    file.write_bytes(points)
    write_to(zips[2])
    file.unlink()  # as after moving the raw data set away: the cache has all that is needed
    write_to(zips[1])
    assert zips[0].read_bytes() == zips[1].read_bytes() == zips[2].read_bytes()


class CutError(Exception):
    pass


def test_an_interrupted_run_goes_on_and_gives_the_same_zip(stubbed, scans, tmp_path: Path) -> None:
    network = stubbed.network
    whole, out = tmp_path / "whole.zip", tmp_path / "s.zip"
    write(stubbed, scans, whole)

    def cut(points: torch.Tensor) -> torch.Tensor:
        if len(network.batches) == 2:
            raise CutError
        return by_place(points)

    network.batches.clear()
    network.rule = cut
    with pytest.raises(CutError):
        write(stubbed, scans, out)
    assert not out.exists()
    finished = len(network.batches[0].offsets) - 1
    parts = sorted(path.name for path in (tmp_path / ".s.zip.parts").glob("*.z"))
    assert parts == [f"{place:06d}.z" for place in range(finished)]
    network.rule = by_place
    # One of them torn by a power cut: it is predicted again.
    torn = tmp_path / ".s.zip.parts" / "000001.z"
    torn.write_bytes(torn.read_bytes()[:-3])
    network.batches.clear()
    summary = write(stubbed, scans, out)
    assert summary.reused == finished
    assert sum(len(b.offsets) - 1 for b in network.batches) == 2 * SCANS - finished + 1
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / ".s.zip.parts").exists()


class CutAtPacking(Silent):
    def start(self, title: str, *, total: int, unit: str) -> None:
        if title == "pack":
            raise CutError


def test_finished_scans_of_another_job_are_not_taken(stubbed, scans, tmp_path: Path) -> None:
    out = tmp_path / "s.zip"
    with pytest.raises(CutError):
        write(stubbed, scans, out, progress=CutAtPacking())
    other = trained_stub(
        tmp_path / "other.safetensors",
        StubNetwork(lambda points: torch.full((len(points),), 2)),
        info=sample_info(),
        content=b"another",
    )
    summary = write(other, scans, out)
    assert summary.reused == 0
    with zipfile.ZipFile(out) as archive:
        values = np.frombuffer(archive.read("sequences/11/predictions/000000.label"), "<u4")
    assert set(values.tolist()) == {10}


@pytest.mark.parametrize("record", ["none", "older", "newer"])
def test_what_a_killed_run_left_beside_its_finished_zip_goes(
    stubbed, scans, tmp_path: Path, record: str
) -> None:
    """But not an unfinished run that is to replace the zip: its record is newer."""
    out, parts = tmp_path / "s.zip", tmp_path / ".s.zip.parts"
    write(stubbed, scans, out)
    with pytest.raises(CutError):
        write(stubbed, scans, out, overwrite=True, progress=CutAtPacking())
    if record == "none":
        (parts / "finished.jsonl").unlink()
    else:
        zipped_ns = out.stat().st_mtime_ns + (1 if record == "newer" else 0)
        os.utime(parts / "finished.jsonl", ns=(zipped_ns, zipped_ns))
    with pytest.raises(DataError, match="already there"):
        write(stubbed, scans, out)
    assert parts.exists() == (record == "newer")


def test_a_zip_that_is_there_is_not_replaced(stubbed, scans, tmp_path: Path) -> None:
    out = tmp_path / "s.zip"
    out.write_bytes(b"mine")
    with pytest.raises(DataError, match="already there"):
        write(stubbed, scans, out)
    assert out.read_bytes() == b"mine"
    write(stubbed, scans, out, overwrite=True)
    assert zipfile.is_zipfile(out)


def test_a_second_run_on_the_same_zip_is_refused(stubbed, scans, tmp_path: Path) -> None:
    from pass2d.common.files import lock_file

    lock = tmp_path / ".s.zip.parts" / "run.lock"
    with (
        lock_file(lock, exclusive=True, wait=False),
        pytest.raises(Exception, match=r"s\.zip\.parts: another run"),
    ):
        write(stubbed, scans, tmp_path / "s.zip")


def test_random_votes_sum_and_differ_from_none_only_by_the_network(
    stubbed, scans, tmp_path: Path
) -> None:
    write(stubbed, scans, tmp_path / "s.zip", votes=VotePlan(kind="lattice", count=8))
    # 8 symmetries: y keeps its sign in four and loses it in four; a tie takes the lower class.
    assert verify_submission(tmp_path / "s.zip", [RULES]).is_sound


# zips that a server would refuse


def entries(**changes: bytes | None) -> dict[str, bytes]:
    """A sound zip's entries, changed."""
    sound: dict[str, bytes] = {"sequences/": b""}
    for sequence in SEQUENCES:
        sound[f"sequences/{sequence}/"] = sound[f"sequences/{sequence}/predictions/"] = b""
        for frame in range(SCANS):
            name = f"sequences/{sequence}/predictions/{frame:06d}.label"
            sound[name] = np.full(10 + frame, 40, "<u4").tobytes()
    return sound


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


FIRST = "sequences/11/predictions/000000.label"
LAST = "sequences/12/predictions/000002.label"


def without(name: str) -> dict[str, bytes]:
    content = entries()
    del content[name]
    return content


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (without(LAST), "sequences/12: 2 prediction files, expected 3; missing: 000002"),
        (without("sequences/11/"), "sequences/11/: the folder itself has no entry"),
        ({**entries(), FIRST: b"\0" * 42}, f"{FIRST}: 42 bytes, expected 4 per point"),
        ({**entries(), FIRST: b""}, f"{FIRST}: 0 bytes, expected 4 per point"),
        ({**entries(), FIRST: np.array([40, 41], "<u4").tobytes()}, f"{FIRST}: holds 41"),
        (
            {**entries(), FIRST: np.array([40, 0, 252], ">u4").tobytes()},
            f"{FIRST}: looks like float32 or big-endian numbers, expected uint32",
        ),
        (
            {**entries(), FIRST: np.array([40.0, 0.0, 252.0], "<f4").tobytes()},
            f"{FIRST}: looks like float32 or big-endian numbers, expected uint32",
        ),
        (
            {**entries(), FIRST: np.full(99, 40, "<i8").tobytes()},
            f"{FIRST}: looks like int64 numbers, expected uint32",
        ),
        ({n: bytes(len(d)) for n, d in entries().items()}, "no point has a class"),
        ({**entries(), "__MACOSX/._x": b""}, "__MACOSX/._x: does not belong"),
        ({**entries(), "../evil.label": b"1234"}, "../evil.label: does not belong"),
        ({**entries(), "sequences/08/predictions/000000.label": b"\x28\0\0\0"}, "sequences/08: is"),
        ({f"mine/{n}": d for n, d in entries().items()}, "everything lies below mine/"),
        ({**entries(), "description.txt": b"\xff"}, "description.txt: not readable ('utf-8'"),
        ({**entries(), "a\n\x1b[31m\u202e": b""}, "a\\n\\x1b[31m\\u202e: does not belong"),
        ({"readme.txt": b"hello"}, "no prediction files (found readme.txt)"),
        ({}, "no prediction files (found nothing)"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, content: dict[str, bytes], problem: str) -> None:
    report = verify_submission(zipped(tmp_path / "s.zip", content), [RULES])
    assert not report.is_sound
    assert any(line.startswith(f"s.zip: {problem}") for line in report.problems), report.problems


def test_a_gap_in_the_frames_is_named(tmp_path: Path) -> None:
    content = {**without(FIRST), "sequences/11/predictions/000003.label": b"\x28\0\0\0"}
    report = verify_submission(zipped(tmp_path / "s.zip", content), [RULES])
    assert report.problems == (
        "s.zip: sequences/11: 3 prediction files, expected 3; missing: 000000; "
        "no such scan: 000003",
    )


def test_a_split_that_nobody_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"split. 'tset': .* has train, val, test"):
        verify_submission(zipped(tmp_path / "s.zip", entries()), [RULES], split="tset")


def test_instance_ids_in_the_high_half_are_legal(tmp_path: Path) -> None:
    content = {**entries(), FIRST: np.array([40 | 7 << 16], "<u4").tobytes()}
    assert verify_submission(zipped(tmp_path / "s.zip", content), [RULES]).is_sound


def test_points_are_compared_with_the_cache(scans, tmp_path: Path) -> None:
    with CacheReader.open(scans[0]) as reader:
        expected = expected_points(reader, RULES, split="test")
        n_raw = reader.scans.n_raw.tolist()
    assert list(expected.values()) == n_raw
    report = verify_submission(zipped(tmp_path / "s.zip", entries()), [RULES], expected=expected)
    assert len(report.problems) == len(expected)
    assert f"10 points, the scan has {n_raw[0]}" in report.problems[0]


def test_a_name_that_is_there_twice_is_a_problem(tmp_path: Path) -> None:
    path = zipped(tmp_path / "s.zip", entries())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(FIRST, b"\x28\0\0\0")
    assert f"s.zip: {FIRST}: occurs 2 times" in verify_submission(path, [RULES]).problems


def test_an_entry_that_claims_to_be_huge_is_not_unpacked(tmp_path: Path) -> None:
    content = {**entries(), FIRST: b"\0" * (4 * 20_000_001)}
    report = verify_submission(zipped(tmp_path / "s.zip", content), [RULES])
    assert any("would unpack to 20,000,001 points" in line for line in report.problems)


@pytest.mark.parametrize("nbytes", [80, 42, 36])
def test_an_entry_that_unpacks_to_less_than_it_says_is_damaged(tmp_path: Path, nbytes: int) -> None:
    path = zipped(tmp_path / "s.zip", {**entries(), FIRST: b"\x28\0" * 17})
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\1\2", 0, data.rfind(FIRST.encode()))
    assert data[place + 24 : place + 28] == (34).to_bytes(4, "little")
    data[place + 24 : place + 28] = nbytes.to_bytes(4, "little")
    path.write_bytes(data)
    report = verify_submission(path, [RULES])
    wanted = f"damaged (34 bytes where {nbytes} are announced)" if nbytes % 4 == 0 else "expected 4"
    assert any(FIRST in line and wanted in line for line in report.problems), report.problems


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def test_a_flipped_bit_in_an_entry_is_found(tmp_path: Path) -> None:
    content = {**entries(), FIRST: np.tile(np.array([40, 10, 50, 70], "<u4"), 500).tobytes()}
    path = zipped(tmp_path / "s.zip", content)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(FIRST)
        start = info.header_offset + 30 + len(FIRST) + 4
    path.write_bytes(flip(path.read_bytes(), start))
    report = verify_submission(path, [RULES])
    assert any(FIRST in line for line in report.problems)


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"no zip at all" * 9])
def test_a_cut_off_file_is_one_clear_error(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = zipped(tmp_path / "s.zip", entries())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="not a whole zip file"):
        verify_submission(path, [RULES])


def test_an_encrypted_entry_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "s.zip", entries())
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        central = archive.start_dir
        local = archive.getinfo(FIRST).header_offset
    data[local + 6] |= 1
    while data[central + 46 : central + 46 + len(FIRST)] != FIRST.encode():
        lengths = struct.unpack("<HHH", data[central + 28 : central + 34])
        central += 46 + sum(lengths)
    data[central + 8] |= 1
    path.write_bytes(bytes(data))
    assert f"s.zip: {FIRST}: encrypted" in verify_submission(path, [RULES]).problems


# nuScenes


@pytest.fixture(scope="module")
def nuscenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache of v1.0-mini's layout and a checkpoint of random weights."""
    root = tmp_path_factory.mktemp("nuscenes")
    listing = list_nuscenes(NuscenesFolder(root / "raw", n=200).write(), stored_hw=(32, 48))
    prepare(listing, root / "cache" / "nuscenes", PrepareConfig(workers=0), Silent())
    settings = {"block_scales": [2, 4], "hidden": 4, "image_branch": False}
    card = Card(architecture="2dpass", settings=settings, info=listing.info)
    torch.manual_seed(0)
    network = build_from_card(card, CPU)
    checkpoint = root / "random.safetensors"
    save_checkpoint(checkpoint, network_tensors(network.inference_state()), card)
    return root / "cache", checkpoint


def nuscenes_rules() -> Benchmark:
    table = DATASETS["nuscenes"].table
    return Benchmark(info=table.info, splits=table.splits)


def submit_nuscenes(nuscenes, out: Path, split: str, **changes) -> object:
    config = SubmitConfig(
        split=split, meta=tuple(parse_meta(None).items()), allow_partial=True, **changes
    )
    return submit(nuscenes[1], nuscenes[0], out, benchmarks=[nuscenes_rules()], config=config)


def test_nuscenes_zip_holds_uint8_of_1_to_16_by_token_and_the_meta_flags(
    nuscenes, tmp_path: Path
) -> None:
    with CacheReader.open(nuscenes[0]) as reader:
        split = str(reader.scans.split[0])
        table = reader.scans
        positions = reader.select(split=split)
        rows = {str(table.token[p]): int(table.n_raw[p]) for p in positions}
        scenes = sorted(set(table.sequence[positions].tolist()))
    out = tmp_path / "n.zip"
    submit_nuscenes(nuscenes, out, split)
    server = nuscenes_rules().server_split(split, scenes)
    with zipfile.ZipFile(out) as archive:
        meta = json.loads(archive.read(f"{server}/submission.json"))
        assert meta == {
            "meta": {
                "use_camera": False,
                "use_lidar": True,
                "use_radar": False,
                "use_map": False,
                "use_external": False,
            }
        }
        found = {}
        for name in archive.namelist():
            if name.endswith(".bin"):
                values = np.frombuffer(archive.read(name), np.uint8)
                assert values.min() >= 1
                assert values.max() <= 16
                found[name.removeprefix(f"lidarseg/{server}/")[:-13]] = len(values)
    assert found == rows
    assert verify_submission(out, [nuscenes_rules()]).is_sound


def test_nuscenes_zip_without_flags_or_with_a_0_is_refused(nuscenes, tmp_path: Path) -> None:
    name = "lidarseg/test/0a1b_lidarseg.bin"
    good = {name: bytes([1, 16]), "test/submission.json": json.dumps(submission_meta()).encode()}
    assert verify_submission(zipped(tmp_path / "a.zip", good), [nuscenes_rules()]).is_sound
    zero = {**good, name: bytes([1, 0])}
    report = verify_submission(zipped(tmp_path / "b.zip", zero), [nuscenes_rules()])
    assert report.problems == (f"b.zip: {name}: holds 0, expected 1 to 16 in uint8",)
    del good["test/submission.json"]
    report = verify_submission(zipped(tmp_path / "c.zip", good), [nuscenes_rules()])
    assert report.problems == ("c.zip: test/submission.json: missing",)
    foreign = {
        "lidarseg/foo/a_lidarseg.bin": b"\1",
        "foo/submission.json": b"{}",
    }
    report = verify_submission(zipped(tmp_path / "e.zip", foreign), [nuscenes_rules()])
    assert any("lidarseg/foo/: not a split of the server" in line for line in report.problems)
    half = {name: b"\1", "test/submission.json": b'{"meta": {"use_lidar": true}}'}
    report = verify_submission(zipped(tmp_path / "d.zip", half), [nuscenes_rules()])
    assert "use_camera, use_radar, use_map, use_external" in report.problems[0]


def submission_meta() -> dict[str, dict[str, bool]]:
    return {"meta": parse_meta("use_camera=true")}


def test_a_scan_that_a_nuscenes_scene_lacks_is_named(nuscenes) -> None:
    with CacheReader.open(nuscenes[0]) as reader:
        split, scene = str(reader.scans.split[0]), str(reader.scans.sequence[0])
        positions = reader.select(split=split).tolist()
        assert not check_sources(reader, positions).problems
        n = sum(str(reader.scans.sequence[p]) == scene for p in positions)
        problems = check_sources(reader, positions[1:]).problems
    assert problems == (f"{scene}: {n - 1} scans are prepared, the tables list {n}",)


def test_a_sweep_that_changed_since_prepare_is_an_error(tmp_path: Path) -> None:
    folder = NuscenesFolder(tmp_path / "raw", n=200)
    listing = list_nuscenes(folder.write(), stored_hw=(32, 48), sweeps=1)
    prepare(listing, tmp_path / "cache" / "nuscenes", PrepareConfig(workers=0), Silent())
    with CacheReader.open(tmp_path / "cache") as reader:
        positions = range(len(reader.scans))
        assert not check_sources(reader, positions).notes
        sweep = next(scan.sweeps[0].points for scan in listing.scans if scan.sweeps)
        sweep.write_bytes(sweep.read_bytes()[:-20])
        with pytest.raises(DataError, match=f"{sweep}: 3,980 bytes; 4,000 were prepared"):
            check_sources(reader, positions)


def test_nuscenes_needs_an_answer_for_every_point(nuscenes, tmp_path: Path) -> None:
    with CacheReader.open(nuscenes[0]) as reader:
        split = str(reader.scans.split[0])
    with pytest.raises(ConfigError, match="Use `outside=nearest`"):
        submit_nuscenes(nuscenes, tmp_path / "n.zip", split, outside="ignore")


def test_meta_flags_are_read_or_refused() -> None:
    assert parse_meta("use_camera=true, use_lidar=false")["use_camera"]
    assert not parse_meta("use_lidar=false")["use_lidar"]
    for text in ("camera=true", "use_camera", "use_camera=1"):
        with pytest.raises(ConfigError, match="expected FLAG=true"):
            parse_meta(text)


# the command


def test_command_checks_zips(scans, tmp_path: Path) -> None:
    runner = CliRunner()
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"nothing")
    result = runner.invoke(app, ["submit", "--verify", str(bad)])
    assert result.exit_code == 1
    assert "not a whole zip file" in result.output
    path = zipped(tmp_path / "s.zip", entries())
    result = runner.invoke(app, ["submit", "--verify", str(path), "--json"])
    assert result.exit_code == 1  # two sequences of eleven, three scans each
    report = json.loads(result.stdout)
    assert report["benchmark"] == "semantickitti"
    wanted = "3 prediction files, expected 921; missing: 000003, 000004, 000005 and 915 more"
    assert f"s.zip: sequences/11: {wanted}" in report["problems"]
    result = runner.invoke(app, ["submit", "--verify", str(path), "--allow-partial"])
    assert result.exit_code == 0
    assert "sound" in result.output


def test_options_that_cannot_be_met_are_refused_before_anything_is_predicted(
    stubbed, scans, tmp_path: Path
) -> None:
    for out, changes, said in (
        (tmp_path / "s.zip", {"description": tmp_path / "none.txt"}, "none.txt: the description"),
        (tmp_path / "s.zip", {"meta": (("use_camera", True),)}, "`meta`: SemanticKITTI takes none"),
        (tmp_path, {"overwrite": True}, "a folder. `out` names the zip"),
    ):
        with pytest.raises(Pass2DError, match=said):
            write(stubbed, scans, out, **{"allow_partial": True, **changes})
    assert not list(tmp_path.glob(".*.parts"))


def test_a_checkpoint_that_cannot_be_read_is_one_clear_error(scans, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        submit(
            tmp_path / "none.safetensors",
            scans[0],
            tmp_path / "s.zip",
            benchmarks=[RULES],
            config=SubmitConfig(),
        )
    assert not list(tmp_path.iterdir())
