"""Corruption sets: folders as downloaded, Robo3D's scores, what is said of odd files."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import sample_info
from heard import Heard
from nuscenes_files import NuscenesFolder
from pipeline_files import write_sequence
from rich.console import Console
from stub_network import by_place, random_checkpoint, trained_stub
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.common.errors import DataError
from pass2d.common.progress import Silent
from pass2d.corruptions.registry import corruption_table
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.reports.report import report_json, report_tables
from pass2d.reports.robustness import remarks, summary_csv
from pass2d.train.checkpoints.trained import TrainedNetwork
from pass2d.train.inference.metric import official_scores
from pass2d.train.robustness.folders import find_corrupted, set_name
from pass2d.train.robustness.published_sets import robust_folders
from pass2d.train.robustness.robo3d import CORRUPTIONS, SEVERITIES, robust_scores

RAW_OF = np.array([0, 40, 10, 50, 70], np.uint32)
KITTI = corruption_table("semantickitti").baseline_miou
# Robo3D's own table of 2DPASS (SemanticKITTI-C), per cent: mCE 106.14, mRR 77.50.
TWODPASS = {
    "fog": 40.46,
    "wet_ground": 60.68,
    "snow": 48.53,
    "motion_blur": 57.80,
    "beam_missing": 58.78,
    "crosstalk": 28.46,
    "incomplete_echo": 55.84,
    "cross_sensor": 50.01,
}


def test_published_test_vector_comes_out() -> None:
    miou = {name: dict.fromkeys(SEVERITIES, value / 100) for name, value in TWODPASS.items()}
    scores = robust_scores(miou, clean=0.6461, baseline=KITTI)
    assert round(100 * scores.mce, 2) == 106.14
    assert round(100 * scores.mrr, 2) == 77.50
    assert scores.is_complete


def test_severities_are_averaged_before_the_baseline_is_compared() -> None:
    # mIoU 0.2, 0.5, 0.8 -> 0.5; (1 - 0.5) / (1 - 0.5587) = 1.13301...
    miou = {"fog": {"light": 0.8, "moderate": 0.5, "heavy": 0.2}}
    scores = robust_scores(miou, clean=0.625, baseline=KITTI)
    assert scores.mce == pytest.approx(0.5 / 0.4413)
    assert scores.mrr == pytest.approx(0.8)
    assert not scores.is_complete


def test_the_baseline_scores_100_against_itself() -> None:
    for layout in ("semantickitti", "nuscenes"):
        table = corruption_table(layout).baseline_miou
        miou = {name: {"": table[name]} for name in CORRUPTIONS}
        assert robust_scores(miou, clean=table["clean"], baseline=table).mce == pytest.approx(1)


def test_missing_severities_and_unknown_corruptions_make_it_partial() -> None:
    miou = {name: dict.fromkeys(SEVERITIES, 0.5) for name in CORRUPTIONS}
    del miou["snow"]["heavy"]
    scores = robust_scores({**miou, "gaussian": {"": 0.1}}, clean=None, baseline=KITTI)
    assert scores.incomplete == ("snow",)
    assert not scores.is_complete
    assert scores.mrr is None
    assert "gaussian" not in scores.corruptions


# folders


def write_scan(points_file: Path, labels_file: Path, *, seed: int, raw=RAW_OF, n: int = 300):
    """Points whose labels follow `by_place`, but for a tenth that do not."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform([-60, -60, -5], [60, 60, 3], (n, 3))
    points = np.column_stack([xyz, rng.integers(0, 100, n) / 100]).astype("<f4")
    labels = by_place(torch.from_numpy(points)).numpy()
    labels[rng.uniform(size=n) < 0.1] = rng.integers(0, 5)
    for file, data in ((points_file, points), (labels_file, raw[labels].astype("<u4"))):
        file.parent.mkdir(parents=True, exist_ok=True)
        data.tofile(file)
    return points, labels


LAYOUTS = {  # where points lie; labels: the same with "labels" (or "label") and .label
    "yan": "{corruption}/velodyne/{scan}",
    "robo3d": "{corruption}/{severity}/velodyne/{scan}",
    "label": "{corruption}/{severity}/velodyne/{scan}",
    "sequences": "{corruption}/{severity}/sequences/08/velodyne/{scan}",
    "kind first": "velodyne/{corruption}/{severity}/{scan}",
    "numbers": "{corruption}/{number}/velodyne/{scan}",
    "hyphens": "{hyphen}/{severity}/velodyne/{scan}",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_nesting_is_understood(tmp_path: Path, layout: str) -> None:
    for corruption in ("wet_ground", "fog"):
        for number, severity in enumerate(SEVERITIES, start=1):
            for scan in ("000000", "000007"):
                points = LAYOUTS[layout].format(
                    corruption=corruption,
                    hyphen=corruption.replace("_", "-").title(),
                    severity=severity,
                    number=number,
                    scan=scan,
                )
                labels = points.replace("velodyne", "label" if layout == "label" else "labels")
                write_scan(tmp_path / f"{points}.bin", tmp_path / f"{labels}.label", seed=0, n=5)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    found = find_corrupted(tmp_path)
    severities = ("",) if layout == "yan" else SEVERITIES
    assert [(f.corruption, f.severity) for f in found] == [
        (corruption, severity) for corruption in ("fog", "wet_ground") for severity in severities
    ]
    for folder in found:
        assert [scan.points.stem for scan in folder.scans] == ["000000", "000007"]
        for scan in folder.scans:
            assert scan.labels is not None
            assert scan.labels.stem == scan.points.stem
            assert folder.corruption in str(scan.labels).lower().replace("-", "_")


def test_sets_are_named_after_what_they_are(tmp_path: Path) -> None:
    for name in ("clean", "gaussian_noise", "fog"):
        write_scan(
            tmp_path / name / "velodyne/0.bin", tmp_path / name / "labels/0.label", seed=0, n=4
        )
    folders = find_corrupted(tmp_path)
    assert [f.corruption for f in folders] == ["clean", "fog", "gaussian_noise"]
    assert set_name(folders, title="SemanticKITTI") == "SemanticKITTI-C (Yan et al.)"
    assert set_name(folders, title="nuScenes") == "nuScenes-C (Robo3D)"


def test_a_part_of_a_set_is_known_by_the_folders_above_it(tmp_path: Path) -> None:
    for severity in SEVERITIES:
        folder = tmp_path / "SemanticKITTI-C" / "Wet Ground" / severity
        write_scan(folder / "velodyne/0.bin", folder / "labels/0.label", seed=0, n=4)
    for root, severities in ((folder.parent, SEVERITIES), (folder, SEVERITIES[2:])):
        found = find_corrupted(root)
        assert [(f.corruption, f.severity) for f in found] == [
            ("wet_ground", severity) for severity in severities
        ]


def test_folders_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    for corruption in ("fog", "snow"):
        folder = tmp_path / corruption / "level 4"
        write_scan(folder / "velodyne/0.bin", folder / "labels/0.label", seed=0, n=4)
    with pytest.raises(DataError, match=r"snow/level 4.*fog/level 4.*the same scan of level_4"):
        find_corrupted(tmp_path)


def test_fog_of_another_set_is_not_compared_with_robo3ds_baseline(stubbed, tmp_path: Path) -> None:
    for name in ("clean", "fog", "cutout"):
        folder = tmp_path / "set" / name
        write_scan(folder / "velodyne/0.bin", folder / "labels/0.label", seed=len(name))
    report = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    clean, fog, cutout = (report.scores_of(r)[0].miou for r in report.results)
    assert report.scores.mce is None
    assert report.scores.mrr == pytest.approx((fog + cutout) / 2 / clean)
    assert not report_json(report)["is_complete"]
    assert remarks(report)[0].startswith("no mCE")
    (tmp_path / "set" / "cutout").rename(tmp_path / "set" / "[bold]cut")
    report = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    screen = Console(width=80, file=io.StringIO())
    screen.print(*report_tables(report))
    assert "[bold]cut" in screen.file.getvalue()
    heard = Heard()
    fog_alone = robust_folders(stubbed, tmp_path / "set" / "fog", tmp_path / "out", progress=heard)
    assert fog_alone.set_name == "SemanticKITTI-C (Yan et al.)"
    assert "Is it a corrupted set?" not in heard.all()
    (tmp_path / "set" / "fog").rename(tmp_path / "kitti")
    robust_folders(stubbed, tmp_path / "kitti", tmp_path / "out", progress=heard)
    assert "all its scans count as the corruption 'kitti'. Is it a corrupted set?" in heard.all()


def test_a_folder_without_scans_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no point files.*<corruption>/velodyne"):
        find_corrupted(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_corrupted(tmp_path / "none")


# evaluation


@pytest.fixture
def stubbed(tmp_path: Path) -> TrainedNetwork:
    return trained_stub(tmp_path / "stub.safetensors", info=sample_info())


def robo3d_tree(root: Path) -> dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]]:
    """Fog and snow at all severities, two scans each, and the clean ones."""
    written = {}
    for i, (corruption, severity) in enumerate(
        [("clean", ""), *((c, s) for c in ("fog", "snow") for s in SEVERITIES)]
    ):
        folder = root / corruption / severity
        written[corruption, severity] = [
            write_scan(
                folder / f"velodyne/{scan:06d}.bin",
                folder / f"labels/{scan:06d}.label",
                seed=9 * i + scan,
            )
            for scan in range(2)
        ]
    return written


def plain_counts(scans: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Every point counted one by one; outside the volume the nearest inside point's answer."""
    counts = np.zeros((5, 5), np.int64)
    for points, labels in scans:
        answer = by_place(torch.from_numpy(points)).numpy()
        xyz = points[:, :3].astype(np.float64)
        inside = (np.abs(points[:, :2]) < 50).all(1) & (points[:, 2] > -4) & (points[:, 2] < 2)
        for row in range(len(points)):
            near = row if inside[row] else None
            if near is None:
                distance = ((xyz[inside] - xyz[row]) ** 2).sum(1)
                near = np.flatnonzero(inside)[distance.argmin()]
            counts[labels[row], answer[near]] += 1
    return counts


def test_scores_are_those_of_counting_every_point(stubbed, tmp_path: Path) -> None:
    written = robo3d_tree(tmp_path / "set")
    report = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    assert report.set_name == "SemanticKITTI-C (Robo3D)"
    for result in report.results:
        expected = official_scores(
            plain_counts(written[result.corruption, result.severity]), absent_counts_zero=True
        )
        assert report.scores_of(result)[0].miou == pytest.approx(expected.miou)
    data = report_json(report)
    assert data["clean_miou"] == next(
        row["miou_official"] for row in data["results"] if row["corruption"] == "clean"
    )
    assert data["scored_corruptions"] == ["fog", "snow"]
    assert not data["is_complete"]
    assert "PARTIAL: over fog, snow only" in remarks(report)[0]


def test_a_folder_with_fewer_scans_than_others_is_named(stubbed, tmp_path: Path) -> None:
    robo3d_tree(tmp_path / "set")
    heard = Heard()
    robust_folders(stubbed, tmp_path / "set", tmp_path / "out", progress=heard)
    assert "warning" not in heard.all()
    (tmp_path / "set/fog/light/velodyne/000001.bin").unlink()
    robust_folders(stubbed, tmp_path / "set", tmp_path / "out", progress=heard)
    (warning,) = (line for line in heard.lines if line.startswith("warning"))
    assert f"{tmp_path}/set/fog/light/velodyne: found 1 of 2 scans" in warning


def test_files_of_another_layout_are_read_as_they_are_said_to_be(stubbed, tmp_path: Path) -> None:
    robo3d_tree(tmp_path / "set")
    expected = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    for file in (tmp_path / "set").rglob("*.bin"):
        points = np.fromfile(file, np.float32).reshape(-1, 4)
        np.pad(points, ((0, 0), (0, 2))).astype(np.float64).tofile(file)
    said = {"columns": 6, "dtype": "float64"}
    report = robust_folders(stubbed, tmp_path / "set", tmp_path / "out", **said)
    assert not any(result.reused for result in report.results)  # counted of another layout
    for result, other in zip(report.results, expected.results, strict=True):
        assert np.array_equal(result.inside, other.inside)
        assert np.array_equal(result.outside, other.outside)


def test_summary_csv_has_a_row_per_severity_a_mean_and_the_scores(stubbed, tmp_path) -> None:
    robo3d_tree(tmp_path / "set")
    report = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    table = list(csv.DictReader(io.StringIO(summary_csv(report).decode())))
    assert [(row["corruption"], row["severity"]) for row in table] == [
        ("clean", ""),
        *(("fog", s) for s in (*SEVERITIES, "mean")),
        *(("snow", s) for s in (*SEVERITIES, "mean")),
        ("mCE", ""),
        ("mRR", ""),
    ]
    fog = [float(row["miou_official"]) for row in table[1:5]]
    assert fog[3] == pytest.approx(sum(fog[:3]) / 3, abs=2e-6)


def test_noise_that_a_corruption_added_is_ignored(stubbed, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "fog" / "light"
    points, labels = write_scan(folder / "velodyne/0.bin", folder / "labels/0.label", seed=1)
    raw = RAW_OF[labels].astype("<u4")
    raw[:50] = 21
    raw.tofile(folder / "labels/0.label")
    report = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    labels[:50] = 0
    assert np.array_equal(
        (report.results[0].inside + report.results[0].outside), plain_counts([(points, labels)])
    )


def test_counted_corruptions_are_kept_and_taken_only_for_the_same_job(
    stubbed, tmp_path: Path
) -> None:
    network = stubbed.network
    robo3d_tree(tmp_path / "set")
    first = robust_folders(stubbed, tmp_path / "set", tmp_path / "out", corruptions=["fog"])
    network.batches.clear()
    second = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    assert [result.reused for result in second.results] == [True] * 4 + [False] * 3
    assert sum(len(b.offsets) - 1 for b in network.batches) == 6
    assert report_json(first)["results"] == report_json(second)["results"][:4]
    record = tmp_path / "out/counts.jsonl"
    record.write_bytes(record.read_bytes().replace(b'"part":"fog light"', b'"part":"fog lighu"'))
    again = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    assert [result.reused for result in again.results] == [True, False] + [True] * 5
    stubbed.source.write_bytes(b"another")
    third = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    assert not any(result.reused for result in third.results)


def test_counts_are_not_taken_of_files_that_changed(stubbed, tmp_path: Path) -> None:
    robo3d_tree(tmp_path / "set")
    robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    file = tmp_path / "set/fog/light/velodyne/000000.bin"
    write_scan(file, tmp_path / "set/fog/light/labels/000000.label", seed=99)
    report = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    again = [f"{r.corruption} {r.severity}" for r in report.results if not r.reused]
    assert again == ["fog light"]


def test_points_that_are_none_in_the_layout_that_their_labels_give_are_left_out(
    stubbed, tmp_path: Path
) -> None:
    folder = tmp_path / "set" / "fog" / "light"
    for scan in range(3):
        write_scan(folder / f"velodyne/{scan}.bin", folder / f"labels/{scan}.label", seed=scan)
    points = np.fromfile(folder / "velodyne/1.bin", np.float32).reshape(-1, 4)
    # Five columns, cut to the size of as many points of four.
    wide = np.pad(points, ((0, 0), (0, 1)), constant_values=7).tobytes()[: points.nbytes]
    (folder / "velodyne/1.bin").write_bytes(wide)
    noise = np.random.default_rng(0).integers(0, 256, points.nbytes, np.uint8)
    (folder / "velodyne/2.bin").write_bytes(noise.tobytes())
    report = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    assert report.results[0].scans == 1
    cut, garbage = sorted(report.failed)
    assert "1.bin: points that make sense only as 5 float32 per point; expected 4" in cut
    assert "2.bin: numbers that are not coordinates" in garbage
    said = robust_folders(stubbed, tmp_path / "set", tmp_path / "said", columns=4, dtype="float32")
    assert not any("1.bin" in text for text in said.failed)


def test_bad_files_are_named_and_left_out(stubbed, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "fog" / "light"
    for scan in range(4):
        write_scan(folder / f"velodyne/{scan}.bin", folder / f"labels/{scan}.label", seed=scan)
    (folder / "labels/1.label").write_bytes(b"1234")
    (folder / "labels/2.label").unlink()
    np.full(300, 77, "<u4").tofile(folder / "labels/3.label")
    report = robust_folders(stubbed, tmp_path / "set", tmp_path / "out")
    assert report.results[0].scans == 1
    texts = sorted(report.failed)
    assert any("1.label: 4 bytes, but the scan has 300 points" in text for text in texts)
    assert any("2.bin: no label file" in text and "`clean`" in text for text in texts)
    assert any("3.label: raw label 77 is not in the table" in text for text in texts)
    assert not list((tmp_path / "out").rglob("*.json"))  # an unfinished count is not kept


def test_labels_and_clean_score_come_from_a_prepared_cache(tmp_path: Path) -> None:
    write_sequence(tmp_path / "raw", "08", (0, 1), n=300, images=False)
    listing = list_semkitti(tmp_path / "raw")
    prepare(listing, tmp_path / "cache" / "semkitti", PrepareConfig(workers=0), Silent())
    blurred = tmp_path / "set" / "motion_blur" / "light" / "velodyne" / "000000.bin"
    blurred.parent.mkdir(parents=True)
    shutil.copy(listing.scans[0].points, blurred)
    trained = trained_stub(tmp_path / "stub.safetensors", info=listing.info)
    arguments = (trained, tmp_path / "set", tmp_path / "out")
    report = robust_folders(*arguments, clean=tmp_path / "cache")
    assert [(r.corruption, r.scans) for r in report.results] == [("clean", 2), ("motion_blur", 1)]
    clean, blur = (result.inside + result.outside for result in report.results)
    assert blur.sum() == 300
    assert (blur <= clean).all()  # the same scan, by the labels of the clean data set
    again = robust_folders(*arguments, clean=tmp_path / "cache")
    assert all(result.reused for result in again.results)
    few = robust_folders(*arguments, clean=tmp_path / "cache", limit=1)
    assert [result.scans for result in few.results] == [1, 1]
    assert np.array_equal(few.results[0].inside + few.results[0].outside, blur)
    assert "of each at most 1 scans" in remarks(few)[0]
    assert "split val" in report.clean_source
    labels = listing.scans[0].labels
    assert labels is not None
    labels.write_bytes(labels.read_bytes()[::-1])
    with pytest.raises(DataError, match="none of its scans could be used") as raised:
        robust_folders(*arguments, clean=tmp_path / "cache")
    assert f"{labels}: its 1,200 bytes are not those that were prepared" in str(raised.value)
    assert report.clean_miou == report.scores_of(report.results[0])[0].miou
    assert few.scores.mrr == 1.0


def test_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    runner = CliRunner()
    checkpoint = random_checkpoint(tmp_path / "small.safetensors", info=sample_info())
    arguments = ["robust", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "o")]
    result = runner.invoke(app, [*arguments, "--root", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "no such folder" in result.output
    robo3d_tree(tmp_path / "set")
    result = runner.invoke(
        app, [*arguments, "--root", str(tmp_path / "set"), "--corruptions", "rain"]
    )
    assert result.exit_code == 1
    assert "no rain in this set; there are clean, fog, snow" in result.output
    result = runner.invoke(app, [*arguments, "--root", str(tmp_path / "set"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["set"] == "SemanticKITTI-C (Robo3D)"
    summary = tmp_path / "o" / "summary.csv"
    assert runner.invoke(app, [*arguments, "--root", str(tmp_path / "set")]).exit_code == 0
    summary.write_text("name,score\nmine,1\n")
    result = runner.invoke(app, [*arguments, "--root", str(tmp_path / "set")])
    assert result.exit_code == 1
    assert (
        f"{summary}: not written by pass2d, and in the way. Choose another --out" in result.output
    )
    assert summary.read_text() == "name,score\nmine,1\n"


def test_nuscenes_labels_are_found_by_token_through_the_clean_cache(tmp_path: Path) -> None:
    folder = NuscenesFolder(tmp_path / "raw", n=200)
    listing = list_nuscenes(folder.write(), stored_hw=(32, 48))
    place = tmp_path / "cache" / "nuscenes"
    prepare(listing, place, PrepareConfig(workers=0), Silent())
    scans = [scan for scan in listing.scans if scan.split == "val"]
    assert scans
    light = tmp_path / "nuScenes-C"
    for scan in scans:
        points = np.fromfile(scan.points, "<f4").reshape(-1, 5)
        target = light / "pointcloud" / "fog" / "light" / scan.points.name
        target.parent.mkdir(parents=True, exist_ok=True)
        points[::2].tofile(target)  # half of the points, as beams that are lost
        labels = np.fromfile(scan.labels, np.uint8)[::2].copy()
        labels[:5] = 41  # added by the fog
        written = light / "lidarseg" / "fog" / "light" / f"{scan.token}_lidarseg.bin"
        written.parent.mkdir(parents=True, exist_ok=True)
        labels.tofile(written)
    checkpoint = random_checkpoint(tmp_path / "random.safetensors", info=listing.info)
    report = robust_folders(checkpoint, light, tmp_path / "out", clean=tmp_path / "cache")
    assert report.set_name == "nuScenes-C (Robo3D)"
    _, result = report.results
    assert not result.failed
    assert result.scans == len(scans)
    n_points = sum(len(np.fromfile(scan.labels, np.uint8)[::2]) for scan in scans)
    counts = result.inside + result.outside
    assert counts.sum() == n_points
    assert counts[0].sum() >= 5 * len(scans)
    assert counts[:, 0].sum() == 0  # nuScenes forbids the answer 0
