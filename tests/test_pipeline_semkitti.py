"""The SemanticKITTI reader: what it finds, what it forgives, what it refuses."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from pipeline_files import CALIB, scan_points, write_sequence

from pass2d.common.errors import ConfigError, DataError
from pass2d.pipeline.compose import lidar_record
from pass2d.pipeline.datasets.semkitti import list_semkitti, semkitti_table
from pass2d.pipeline.datasets.semkitti_files import frame_ranges, gap_ranges
from pass2d.pipeline.datasets.table import load_table
from pass2d.pipeline.stages.calibration import image_from_lidar_matrix


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sequences 00 (train), 08 (val) and 11 (test, no labels) of three scans each."""
    write_sequence(tmp_path, "00")
    write_sequence(tmp_path, "08")
    write_sequence(tmp_path, "11", labels=False)
    return tmp_path


def ids(root: Path, **options) -> list[str]:
    return [scan.scan_id for scan in list_semkitti(root, **options).scans]


# the table


def test_table_equals_the_published_one(shared: Path) -> None:
    spec = json.loads((shared / "spec" / "datasets.json").read_text())["semantickitti"]
    table, labels = semkitti_table(), semkitti_table().info.labels
    assert labels.raw_to_training == {int(k): v for k, v in spec["learning_map_20"].items()}
    inverse = [spec["learning_map_inv_20"][str(i)] for i in range(20)]
    assert list(labels.training_to_raw) == inverse
    assert list(labels.names) == spec["train_names_20"]
    colors = [tuple(reversed(spec["color_map_bgr"][str(raw)])) for raw in inverse]
    assert list(labels.colors_rgb) == colors
    assert table.raw_names == {int(k): v for k, v in spec["raw_labels"].items()}
    assert {int(k): v for k, v in table.scan_counts.items()} == {
        int(k): v for k, v in spec["scan_count"].items()
    }
    for ours, theirs in (("train", "train"), ("val", "valid"), ("test", "test")):
        assert [int(name) for name in table.splits[ours]] == spec["split"][theirs]


def test_description_is_that_of_semantickitti() -> None:
    info = semkitti_table().info
    assert (info.name, info.layout, info.labels.n_classes) == ("semkitti", "semantickitti", 20)
    assert (info.grid.low, info.grid.high) == ((-50, -50, -4), (50, 50, 2))
    assert info.grid.shape == (1000, 1000, 60)
    assert (info.n_cameras, info.raw_columns, info.signal_name) == (1, 4, "remission")
    assert info.has_class_weights
    assert info.labels.colors_rgb[1] == (100, 150, 245)  # car: light blue in RGB


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "semkitti"\n', "", "'name' is missing"),
        ("[grid]", "[grid", "not a TOML"),
        ("raw = 10,", "raw = 11,", "'car' writes raw 11"),
        ('"car" }', '"cart" }', r"do not exist: \['cart'\]"),
        ("shape = [1000, 1000, 60]", "shape = [1000, 1000]", "three of int"),
        ("high = [50.0", "high = [-50.0", "must be above low"),
        ('{ name = "bicycle", raw', '{ name = "car", raw', "same name"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = (Path(__file__).parents[1] / "pipeline/datasets/semkitti.toml").read_text()
    assert old in text
    (tmp_path / "table.toml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        load_table(tmp_path / "table.toml")


# what is found


def test_scans_come_by_sequence_and_frame_with_all_their_files(root: Path) -> None:
    listing = list_semkitti(root)
    assert [s.scan_id for s in listing.scans] == [
        f"{sequence}/{frame:06d}" for sequence in ("00", "08", "11") for frame in range(3)
    ]
    assert [s.split for s in listing.scans] == ["train"] * 3 + ["val"] * 3 + ["test"] * 3
    scan = listing.scans[4]
    folder = root / "sequences" / "08"
    assert (scan.sequence, scan.frame_index, scan.token) == ("08", 1, "")
    assert scan.points == folder / "velodyne" / "000001.bin"
    assert scan.labels == folder / "labels" / "000001.label"
    assert scan.images == (folder / "image_2" / "000001.png",)
    assert scan.files() == (scan.points, scan.labels, scan.images[0])
    matrix = image_from_lidar_matrix(CALIB, file=folder)
    np.testing.assert_array_equal(np.reshape(scan.image_from_lidar, (3, 4)), matrix)
    assert listing.notes == ("sequence 11: no labels",)
    assert pickle.loads(pickle.dumps(listing)) == listing


def test_root_may_be_the_data_set_its_dataset_or_its_sequences_folder(root: Path) -> None:
    expected = ids(root)
    assert ids(root / "sequences") == expected
    (root / "kitti").mkdir()
    (root / "sequences").rename(root / "kitti" / "dataset")
    (root / "kitti" / "dataset").rename(root / "sequences")
    (root / "kitti" / "dataset").mkdir()
    (root / "sequences").rename(root / "kitti" / "dataset" / "sequences")
    assert ids(root / "kitti") == expected
    assert ids(root / "kitti" / "dataset") == expected
    assert ids(root / "kitti" / "dataset" / "sequences") == expected


def test_splits_and_sequences_choose(root: Path) -> None:
    assert {name[:2] for name in ids(root, splits=("val", "test"))} == {"08", "11"}
    assert {name[:2] for name in ids(root, sequences=["8", "00"])} == {"00", "08"}
    assert len(ids(root, sequences=["00", "00"])) == 3
    assert list_semkitti(root, sequences=["08"]).notes == ()


def test_limit_takes_the_first_scans_of_each_split_in_equal_shares(root: Path) -> None:
    assert ids(root, limit=2) == ["00/000000", "08/000000"]
    assert ids(root, limit=4) == ["00/000000", "00/000001", "08/000000", "11/000000"]
    assert ids(root, limit=2, splits=("val",)) == ["08/000000", "08/000001"]
    assert len(ids(root, limit=8)) == 8
    assert ids(root, limit=100) == ids(root)


def test_a_full_split_gives_its_share_to_the_others(root: Path) -> None:
    for frame in (1, 2):
        (root / "sequences" / "08" / "velodyne" / f"{frame:06d}.bin").unlink()
    assert len(ids(root, limit=7)) == 7
    assert sum(name.startswith("08") for name in ids(root, limit=7)) == 1


# what is forgiven


def test_sequences_without_pictures_labels_or_texts(tmp_path: Path) -> None:
    write_sequence(tmp_path, "01", images=False, texts=False)
    write_sequence(tmp_path, "02", images=False, texts=False, labels=False)
    listing = list_semkitti(tmp_path, splits=("train",))
    assert all(s.images == (None,) and s.image_from_lidar is None for s in listing.scans)
    assert [s.labels is None for s in listing.scans] == [False] * 3 + [True] * 3
    assert set(listing.notes) == {
        "sequences 01, 02: no image_2",
        "sequences 01, 02: no calib.txt",
        "sequences 01, 02: no poses.txt",
        "sequences 01, 02: no times.txt",
        "sequence 02: no labels",
    }


def test_an_empty_folder_is_a_missing_one(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path, "08", images=False)
    (folder / "image_2").mkdir()
    (folder / "image_2" / ".DS_Store").write_bytes(b"x")
    assert list_semkitti(tmp_path, sequences=["08"]).notes == ("sequence 08: no image_2",)


def test_gaps_and_frames_that_lie_in_one_folder_only(root: Path) -> None:
    folder = root / "sequences" / "00"
    (folder / "velodyne" / "000009.bin").write_bytes(scan_points().tobytes())
    (folder / "velodyne" / "000001.bin").unlink()
    (folder / "image_2" / "000002.png").unlink()
    listing = list_semkitti(root, sequences=["00"])
    assert [s.frame_index for s in listing.scans] == [0, 2, 9]
    assert [s.labels is None for s in listing.scans] == [False, False, True]
    assert [s.images[0] is None for s in listing.scans] == [False, True, True]
    assert set(listing.notes) == {
        "sequence 00: scans without labels: 000009 (1 in all)",
        "sequence 00: labels without scan: 000001 (1 in all)",
        "sequence 00: scans without image_2: 000002, 000009 (2 in all)",
        "sequence 00: image_2 without scan: 000001 (1 in all)",
        "sequence 00: gaps in the frame numbers: 000001, 000003-000008 (7 in all)",
    }


def test_foreign_files_are_passed_over(root: Path) -> None:
    expected = ids(root)
    for folder in (root, root / "sequences", root / "sequences" / "00" / "velodyne"):
        for name in (".DS_Store", "._000000.bin", "Thumbs.db", "readme.txt", "000003.bin.part"):
            (folder / name).write_bytes(b"x")
    (root / "sequences" / "99").mkdir()
    (root / "sequences" / "old").mkdir()
    (root / "sequences" / "05").write_bytes(b"a file, no sequence")
    listing = list_semkitti(root)
    assert [s.scan_id for s in listing.scans] == expected
    assert "sequence 99: in no split, left out" in listing.notes


def test_upper_case_suffixes_are_read_and_lower_case_wins(root: Path) -> None:
    folder = root / "sequences" / "00" / "velodyne"
    (folder / "000001.bin").rename(folder / "000001.BIN")
    (folder / "000002.BIN").write_bytes(b"another")
    points = [s.points.name for s in list_semkitti(root, sequences=["00"]).scans]
    assert points == ["000000.bin", "000001.BIN", "000002.bin"]


def test_symbolic_links_are_followed(root: Path, tmp_path: Path) -> None:
    folder = root / "sequences" / "00"
    (folder / "velodyne").rename(tmp_path / "elsewhere")
    (folder / "velodyne").symlink_to(tmp_path / "elsewhere")
    (folder / "velodyne" / "000000.bin").rename(tmp_path / "one.bin")
    (folder / "velodyne" / "000000.bin").symlink_to(tmp_path / "one.bin")
    (root / "sequences" / "02").symlink_to(folder)
    assert ids(root, sequences=["00", "02"]) == [
        f"{s}/{f:06d}" for s in ("00", "02") for f in range(3)
    ]


def test_jpegs_serve_where_there_is_no_png(root: Path) -> None:
    folder = root / "sequences" / "00" / "image_2"
    (folder / "000000.png").rename(folder / "000000.jpg")
    (folder / "000001.jpeg").write_bytes(b"not taken")
    names = [s.images[0].name for s in list_semkitti(root, sequences=["00"]).scans]
    assert names == ["000000.jpg", "000001.png", "000002.png"]


def test_a_sequence_without_scans_is_left_out_and_said(root: Path) -> None:
    shutil.rmtree(root / "sequences" / "08" / "velodyne")
    listing = list_semkitti(root)
    assert {s.sequence for s in listing.scans} == {"00", "11"}
    assert "sequence 08: no velodyne: left out" in listing.notes


def test_a_damaged_calibration_matters_only_to_pictures(root: Path) -> None:
    folder = root / "sequences" / "00"
    (folder / "calib.txt").write_text("P0: 1\n")
    (folder / "image_2" / "000001.png").unlink()
    listing = list_semkitti(root)
    assert [(f.scan_id, f.container) for f in listing.failed] == [
        ("00/000000", "camera"),
        ("00/000002", "camera"),
    ]
    assert "00/calib.txt: found no P2 among P0" in listing.failed[0].reason
    (note,) = [n for n in listing.notes if n.startswith("sequence 00: no pictures are prepared")]
    assert "found no P2 among P0" in note
    by_sequence = {scan.sequence: scan.image_from_lidar for scan in listing.scans}
    assert by_sequence["00"] is None
    assert by_sequence["08"] is not None
    assert len(list_semkitti(root, limit=1).failed) == 1  # of the scans that are listed
    shutil.rmtree(folder / "image_2")
    listing = list_semkitti(root)
    assert listing.scans[0].image_from_lidar is None
    assert listing.failed == ()


def test_pictures_without_calibration_are_listed_and_said(root: Path) -> None:
    (root / "sequences" / "00" / "calib.txt").unlink()
    listing = list_semkitti(root, sequences=["00"])
    assert listing.scans[0].images[0] is not None
    assert listing.scans[0].image_from_lidar is None
    (note,) = listing.notes
    assert note.startswith("sequence 00: no pictures are prepared: ")
    assert "calib.txt: found nothing, expected P2 and Tr" in note
    assert [(f.scan_id, f.container) for f in listing.failed] == [
        (scan.scan_id, "camera") for scan in listing.scans
    ]


def test_a_file_far_too_long_for_a_calibration_is_refused(root: Path) -> None:
    (root / "sequences" / "00" / "calib.txt").write_text("x: 1\n" * 300_000)
    reasons = [failed.reason for failed in list_semkitti(root).failed]
    assert any("calib.txt: found 1,500,000 bytes" in reason for reason in reasons)


def test_a_byte_order_mark_before_the_calibration_does_not_matter(root: Path) -> None:
    file = root / "sequences" / "00" / "calib.txt"
    plain = list_semkitti(root).scans[0].image_from_lidar
    lines = sorted(file.read_text().splitlines(), key=lambda line: not line.startswith("P2"))
    file.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert list_semkitti(root).scans[0].image_from_lidar == plain


# what is refused


def test_wrong_folders_are_explained(root: Path, tmp_path: Path) -> None:
    cases = {
        root / "nowhere": "no such folder",
        root / "sequences" / "00" / "calib.txt": ": a file",
        root / "sequences" / "00": rf"looks like a single sequence: give {root}",
        root / "sequences" / "00" / "velodyne": "scans of one sequence",
    }
    (tmp_path / "empty").mkdir()
    cases[tmp_path / "empty"] = "the folder is empty"
    (tmp_path / "nus" / "v1.0-mini").mkdir(parents=True)
    cases[tmp_path / "nus"] = "looks like nuScenes"
    for folder, words in cases.items():
        with pytest.raises(DataError, match=words) as caught:
            list_semkitti(folder)
        assert str(caught.value).startswith(f"{folder}: ")
        assert "sequences/NN/" in str(caught.value)


def test_choices_that_cannot_be_met_are_explained(root: Path) -> None:
    cases = [
        ({"sequences": ["05"]}, "no folder for sequence 05. Found 00, 08, 11"),
        ({"sequences": ["42"]}, "sequence 42: not one of SemanticKITTI"),
        ({"sequences": ["08"], "splits": ("train",)}, "belongs to split val"),
        ({"sequences": []}, "none were named"),
        ({"splits": ("valid",)}, "split 'valid'"),
        ({"splits": ()}, "none of split nothing"),
        ({"limit": 0}, "limit 0: must be at least 1"),
        ({"limit": -3}, "limit -3"),
    ]
    for options, words in cases:
        with pytest.raises(DataError, match=words):
            list_semkitti(root, **options)
    shutil.rmtree(root / "sequences" / "08")
    with pytest.raises(DataError, match=r"found sequences 00, 11, none of split val.*any of 08"):
        list_semkitti(root, splits=("val",))


def test_a_sequence_that_was_asked_for_must_have_scans(root: Path) -> None:
    shutil.rmtree(root / "sequences" / "08" / "velodyne")
    with pytest.raises(DataError, match=r"no scans in .*08/velodyne"):
        list_semkitti(root, sequences=["00", "08"])


def test_no_scans_at_all_is_an_error(tmp_path: Path) -> None:
    (write_sequence(tmp_path, "00", frames=()) / "velodyne" / "000000.txt").write_text("x")
    with pytest.raises(DataError, match=r"no scans in .*00/velodyne"):
        list_semkitti(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_named(root: Path) -> None:
    folder = root / "sequences" / "00" / "velodyne"
    folder.chmod(0)
    try:
        assert [f.scan_id for f in list_semkitti(root).failed] == ["00"]
    finally:
        folder.chmod(0o755)


def test_a_link_to_nowhere_is_named_when_it_is_read(root: Path) -> None:
    points = root / "sequences" / "00" / "velodyne" / "000000.bin"
    points.unlink()
    points.symlink_to(root / "gone.bin")
    listing = list_semkitti(root)
    with pytest.raises(DataError, match=r"00/velodyne/000000.bin: found no such file"):
        lidar_record(listing.scans[0], listing.info)


def test_frames_are_written_as_ranges() -> None:
    assert frame_ranges({4}) == "000004 (1 in all)"
    assert frame_ranges({1, 2, 3, 7, 9, 10}) == "000001-000003, 000007, 000009-000010 (6 in all)"
    assert frame_ranges(range(0, 10, 2)) == "000000, 000002, 000004, ... (5 in all)"
    assert gap_ranges([0, 4, 5, 7]) == "000001-000003, 000006 (4 in all)"
    assert gap_ranges(range(0, 9, 2), max_runs=9).endswith("000005, 000007 (4 in all)")
    assert not gap_ranges({3, 4})


def test_scans_named_by_time_stamps_of_microseconds_or_nanoseconds(root: Path) -> None:
    folder = root / "sequences" / "00"
    for frame in (1, 2):  # numbers between them fill no memory
        for name in ("velodyne/*.bin", "labels/*.label", "image_2/*.png"):
            for file in folder.glob(name.replace("*", f"00000{frame}")):
                file.rename(file.with_stem(f"15318835{frame:02d}44937700000"[:18]))
    listing = list_semkitti(root, sequences=["00"])
    assert [scan.frame_index for scan in listing.scans][1:] == [
        153188350144937700,
        153188350244937700,
    ]
    assert any("gaps in the frame numbers: 000001-153188350144937699" in n for n in listing.notes)


def test_frame_number_that_cannot_be_stored_is_named(root: Path) -> None:
    file = root / "sequences" / "00" / "velodyne" / "000002.bin"
    file.rename(file.with_stem("9" * 20))
    listing = list_semkitti(root)
    assert [failed.scan_id for failed in listing.failed] == ["00"]
    assert "a frame number of 20 digits, expected at most 18. Rename" in listing.failed[0].reason
    assert {scan.sequence for scan in listing.scans} == {"08", "11"}


def test_folders_of_scans_that_are_no_sequences_are_named(root: Path) -> None:
    (root / "sequences" / "00").rename(root / "sequences" / "000")
    notes = list_semkitti(root).notes
    assert "split train: no sequence found" in notes
    assert f"folder {root}/sequences/000: not a sequence of two digits, left out" in notes
