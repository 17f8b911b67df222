"""nuScenes: its tables read by column, its labels by name, its versions and scenes."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes_files import NuscenesFolder
from pipeline_files import check_nuscenes

from pass2d.common.errors import DataError
from pass2d.pipeline.compose import lidar_record
from pass2d.pipeline.datasets import json_table
from pass2d.pipeline.datasets.json_table import ANY, read_rows
from pass2d.pipeline.datasets.nuscenes import list_nuscenes, nuscenes_table

ROWS = [
    {"token": f"{i:032x}", "size": i, "text": 'a "b" ]},[{ \u00fc' * (i % 3)} for i in range(60)
]


def read(file: Path, *columns: str, **options) -> list[tuple]:
    return list(read_rows(file, dict.fromkeys(columns, ANY), **options))


@pytest.fixture
def folder(tmp_path: Path) -> NuscenesFolder:
    return NuscenesFolder(tmp_path / "nus")


# rows


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_rows_are_those_of_the_whole_table_whatever_the_chunk(
    tmp_path: Path, chunk: int, indent: int | None
) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps(ROWS, indent=indent, ensure_ascii=False), encoding="utf-8")
    expected = [(row["text"], row["size"], None) for row in ROWS]
    columns = ("text", "size")
    assert read(file, *columns, optional={"other": ANY}, chunk_chars=chunk) == expected
    seen: list[int] = []
    read(file, "size", advance=seen.append, chunk_chars=chunk)
    assert sum(seen) == len(file.read_text())


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(" [ ]\n")
    assert read(tmp_path / "t.json", "token") == []


def test_reading_holds_a_small_part_of_a_table(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps(ROWS * 200))
    tracemalloc.start()
    n_rows = sum(1 for _ in read_rows(file, {"token": ANY}, chunk_chars=1 << 14))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_rows == 12_000
    assert peak < file.stat().st_size / 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"token": "a"}, {"token"', "invalid JSON|ends in the middle"),
        ('[{"token": "a"}, ', "ends in the middle"),
        ("", "ends in the middle"),
        ('{"token": "a"}', "expected a list"),
        ('[{"token": "a"}, {"name": 1}]', "row 1 has no token; found name"),
        ('[{"token": "a"}, 5]', "row 1 is 5"),
        ('[{"token": nonsense}]', "invalid JSON at 'nonsense"),
        ('[{"token": "a"}]\n[{"token": "b"}]', "after the end of the list"),
        ("[]" + " " * 99 + "x", "after the end of the list"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "t.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(file, "token", chunk_chars=16)
    assert str(file) in str(caught.value)


def test_damage_early_in_a_large_table_is_found_without_reading_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text('[{"token": oh' + json.dumps(ROWS * 3000)[1:])
    seen: list[int] = []
    with pytest.raises(DataError, match="invalid JSON at 'oh"):
        read(file, "token", advance=seen.append)
    assert sum(seen) < 2 * json_table.CHUNK_CHARS


def test_a_table_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "gone.json", "token")
    (tmp_path / "t.json").write_bytes(b"[\xff\xfe")
    with pytest.raises(DataError, match="not text"):
        read(tmp_path / "t.json", "token")


# values of the wrong type

DEEP: object = json.loads("[" * 400 + "]" * 400)
NO_TEXT = [None, 5, 0.5, True, [], ["a"], {"a": 1}, DEEP, "", "a\0b", "\ud800", "x" * 5000, "a\nb"]
NO_NUMBER = [None, "5", True, [], {}, -1, 0.5, float("nan"), float("inf"), 10**400, 1 << 63]
NO_NUMBERS = [None, "x", 5, [], [1], [[1, 0, 0, 0]], {"0": 1}, DEEP, ["1"] * 4, [True] * 4]
NO_NUMBERS += [[float("nan")] * 4, [10**400] * 4, [1e300] * 4, [1e300] * 3, [None] * 3, [1] * 40]
NO_MATRIX = [[[1, 0, 0]] * 2, [[1, 0]] * 3, [1] * 9, [[1, 0, "0"]] * 3, [[10**400] * 3] * 3]
WRONG = {
    ("scene", "token"): NO_TEXT,
    ("scene", "name"): NO_TEXT,
    ("sample", "token"): NO_TEXT,
    ("sample", "timestamp"): NO_NUMBER,
    ("sample", "scene_token"): NO_TEXT,
    ("sensor", "token"): NO_TEXT,
    ("sensor", "channel"): NO_TEXT,
    ("calibrated_sensor", "token"): NO_TEXT,
    ("calibrated_sensor", "sensor_token"): NO_TEXT,
    ("calibrated_sensor", "rotation"): NO_NUMBERS,
    ("calibrated_sensor", "translation"): NO_NUMBERS,
    ("calibrated_sensor", "camera_intrinsic"): [*NO_NUMBERS, *NO_MATRIX],
    ("sample_data", "token"): NO_TEXT,
    ("sample_data", "sample_token"): NO_TEXT,
    ("sample_data", "ego_pose_token"): NO_TEXT,
    ("sample_data", "calibrated_sensor_token"): NO_TEXT,
    ("sample_data", "timestamp"): NO_NUMBER,
    ("sample_data", "is_key_frame"): [None, 0, 1, "true", [], {}, 0.5],
    ("sample_data", "filename"): [*NO_TEXT, "/etc/passwd", "../up.bin", "a/../../b"],
    ("sample_data", "height"): [*NO_NUMBER[1:], 1 << 17],
    ("sample_data", "width"): [*NO_NUMBER[1:], 1 << 17],
    ("sample_data", "prev"): [x for x in NO_TEXT if x not in (None, "")],
    ("ego_pose", "token"): NO_TEXT,
    ("ego_pose", "rotation"): NO_NUMBERS,
    ("ego_pose", "translation"): NO_NUMBERS,
    ("category", "name"): NO_TEXT,
    ("category", "index"): [*NO_NUMBER, 256],
    ("lidarseg", "sample_data_token"): NO_TEXT,
    ("lidarseg", "filename"): [*NO_TEXT, "/dev/zero"],
}
"""Table and column to values that it must not have."""


def refusal(folder: NuscenesFolder) -> str:
    """What `prepare` and `--check` say of a folder: the same."""
    with pytest.raises(DataError) as caught:
        list_nuscenes(folder.root, sweeps=2)
    said = str(caught.value)
    try:
        problems = check_nuscenes(folder.root, sweeps=2)
    except DataError as error:  # nothing can be listed
        found = [str(error)]
    else:
        found = [p.found for p in problems if p.severity == "error"]
    assert any(one in said for one in found), (said, found)
    return said


def test_a_check_lists_every_fault_of_scenes_labels_and_other_tables(
    folder: NuscenesFolder,
) -> None:
    folder.write()
    scene, category, ego = (
        [dict(row) for row in folder.tables[t]] for t in ("scene", "category", "ego_pose")
    )
    scene[0]["name"], scene[-1]["token"] = None, 7
    category[3]["index"], category[5]["index"], category[9]["name"] = "x", 999, []
    ego[-1]["rotation"] = "north"
    for table, rows in (("scene", scene), ("category", category), ("ego_pose", ego)):
        rewritten(folder, table, rows)
    problems = [p for p in check_nuscenes(folder.root) if p.severity == "error"]
    of_tables = [p for p in problems if p.file.name in ("scene.json", "category.json")]
    assert sorted((p.file.name, p.found) for p in of_tables) == sorted(
        [
            ("scene.json", "row 0: name is None"),
            ("scene.json", f"row {len(scene) - 1}: token is 7"),
            ("category.json", f"{category[3]['name']} has index 'x'"),
            ("category.json", f"{category[5]['name']} has index 999"),
            ("category.json", "row 9: name is []"),
        ]
    )


def rewritten(folder: NuscenesFolder, table: str, rows: list) -> None:
    file = folder.root / folder.version / f"{table}.json"
    file.write_text(json.dumps(rows))


@pytest.mark.parametrize(("table", "column"), WRONG, ids=lambda name: name)
def test_a_value_of_the_wrong_type_is_one_error_with_table_row_and_column(
    folder: NuscenesFolder, table: str, column: str
) -> None:
    folder.sweeps = 2
    folder.write()
    rows = folder.tables[table]
    place = len(rows) - 1
    for value in WRONG[table, column]:
        rewritten(folder, table, [*rows[:-1], {**rows[place], column: value}])
        said = refusal(folder)
        assert said.startswith(f"{folder.root / folder.version / table}.json: "), said
        assert f"{column} is " in said or f"has {column} " in said, said
        assert "row " in said or str(rows[place].get("name")) in said or column == "name", said
        assert len(said) < 600
        assert said.isprintable()


@pytest.mark.parametrize(("table", "column"), [key for key in WRONG if key[1] != "height"])
def test_a_row_without_a_column_or_with_more_of_them(
    folder: NuscenesFolder, table: str, column: str
) -> None:
    folder.write()
    rows = [{**row, "unknown": [{}]} for row in folder.tables[table]]
    rewritten(folder, table, rows)
    assert len(list_nuscenes(folder.root).scans) == 4
    del rows[-1][column]
    rewritten(folder, table, rows)
    if column not in ("width", "prev"):
        assert column in refusal(folder)


@pytest.mark.parametrize("table", sorted({table for table, _ in WRONG}))
def test_a_row_that_is_there_twice_is_refused(folder: NuscenesFolder, table: str) -> None:
    folder.write()
    rows = folder.tables[table]
    rewritten(folder, table, [*rows, rows[-1]])
    said = refusal(folder)
    assert said.startswith(f"{folder.root / folder.version / table}.json: ")
    assert "twice" in said or "stands for two" in said


def test_two_key_frames_of_one_camera_are_refused(folder: NuscenesFolder) -> None:
    folder.write()
    rows = folder.tables["sample_data"]
    rewritten(folder, "sample_data", [*rows, {**rows[-1], "token": "another"}])
    assert "a key frame of CAM_FRONT_LEFT for sample" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "row 0: lists or objects nested too deeply"),
        ('[{"token": "a", "name": ' + '{"a":' * 100_000, "row 0: lists or objects nested"),
        ('[{"token": "a", "name": "b"}, {"token": ' + "9" * 5000 + "}]", "row 1: a number"),
        ('[{"token": "' + "a" * 9_000_000 + '", "name": "b"}]', "row 0: "),
        ('[{"token": "' + "a" * 3_000_000 + '", "name": "b"}]', "row 0: token is 'aaa"),
        ('[{"token": NaN, "name": "b"}]', "row 0: token is nan"),
        ("[[]]", "row 0 is []"),
        ("[null]", "row 0 is None"),
        ("{}", "expected a list"),
    ],
)
def test_no_nesting_and_no_length_is_too_much(folder: NuscenesFolder, text: str, said: str) -> None:
    folder.write()
    (folder.root / folder.version / "scene.json").write_text(text)
    assert said in refusal(folder)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_json_in_any_place_is_an_error_or_read(data: st.DataObject) -> None:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    values = st.recursive(
        scalars, lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x)
    )
    with TemporaryDirectory() as place:
        folder = NuscenesFolder(Path(place) / "n", samples=1, n=1)
        table = data.draw(st.sampled_from(sorted(folder.tables)))
        row = data.draw(st.sampled_from(folder.tables[table]))
        row[data.draw(st.sampled_from(sorted(row)))] = data.draw(values)
        folder.write()
        with contextlib.suppress(DataError):
            list_nuscenes(folder.root, sweeps=1)


# labels by name


def test_labels_are_known_by_name_whatever_their_numbers(folder: NuscenesFolder) -> None:
    usual = list_nuscenes(folder.write())
    moved = NuscenesFolder(folder.root.parent / "moved")
    for row in moved.tables["category"]:
        row["index"] = 31 - row["index"]
    for name, data in moved.files.items():
        if name.startswith("lidarseg/"):
            moved.files[name] = bytes(31 - value for value in data)
    listing = list_nuscenes(moved.write())
    for scan, other in zip(usual.scans, listing.scans, strict=True):
        expected = lidar_record(scan, usual.info).label
        assert expected is not None
        np.testing.assert_array_equal(lidar_record(other, listing.info).label, expected)
    car = listing.info.labels.names.index("car")
    assert listing.info.labels.training_to_raw[car] == 31 - 17
    assert [note for note in listing.notes if "vehicle.car" in note or "taken by name" in note]
    assert usual.info == nuscenes_table().info


def test_a_set_without_numbers_has_the_usual_ones(folder: NuscenesFolder) -> None:
    for row in folder.tables["category"]:
        del row["index"]
    assert list_nuscenes(folder.write()).info == nuscenes_table().info
    (folder.root / folder.version / "category.json").unlink()
    assert list_nuscenes(folder.root).info == nuscenes_table().info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "vehicle.tank"}, "vehicle.tank.*expected names of nuScenes-lidarseg"),
        ({"index": 300}, "index 300, expected a number 0..255"),
        ({"index": "17"}, "index '17'"),
        ({"index": None}, "index None"),
        ({"index": 3}, "index 3 stands for two names"),
    ],
)
def test_a_wrong_label_table_is_refused(
    folder: NuscenesFolder, change: dict[str, object], message: str
) -> None:
    folder.tables["category"][17].update(change)
    with pytest.raises(DataError, match=message):
        list_nuscenes(folder.write())


def test_a_class_must_have_a_label(folder: NuscenesFolder) -> None:
    rows = [row for row in folder.tables["category"] if row["name"] != "vehicle.car"]
    folder.tables["category"] = rows
    with pytest.raises(DataError, match="no label of class car"):
        list_nuscenes(folder.write())


# versions, scenes


def test_the_only_version_is_found_and_several_must_be_chosen_from(folder: NuscenesFolder) -> None:
    root = folder.write()
    assert len(list_nuscenes(root).scans) == 4
    assert len(list_nuscenes(root / "v1.0-mini").scans) == 4
    (root / "v1.0-test").mkdir()
    with pytest.raises(DataError, match=r"holds v1.0-mini, v1.0-test. Choose one by `version`"):
        list_nuscenes(root)
    assert len(list_nuscenes(root, version="v1.0-mini").scans) == 4


@pytest.mark.parametrize(
    ("version", "scenes", "expected"),
    [
        ("v1.0-mini", ("scene-0553", "scene-0916"), {"scene-0553": "train", "scene-0916": "val"}),
        (
            "v1.0-trainval",
            ("scene-0553", "scene-0001"),
            {"scene-0553": "val", "scene-0001": "train"},
        ),
        ("v1.0-test", ("scene-0077",), {"scene-0077": "test"}),
    ],
)
def test_splits_follow_the_official_lists_of_the_version(
    tmp_path: Path, version: str, scenes: tuple[str, ...], expected: dict[str, str]
) -> None:
    root = NuscenesFolder(tmp_path / "n", version=version, scenes=scenes, samples=1).write()
    scans = list_nuscenes(root, version=version).scans
    assert {scan.sequence: scan.split for scan in scans} == expected


def test_scenes_and_splits_can_be_chosen(folder: NuscenesFolder) -> None:
    root = folder.write()

    def sequences(**options) -> list[str]:
        return [scan.sequence for scan in list_nuscenes(root, **options).scans]

    assert sequences(splits=("val",)) == ["scene-0103"] * 2
    assert sequences(scenes=("61",)) == ["scene-0061"] * 2
    assert sequences(scenes=("103", "scene-0061"), limit=2) == ["scene-0061", "scene-0103"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "v2"}, "unknown version 'v2'"),
        ({"version": "v1.0-trainval"}, r"no tables of v1.0-trainval; it holds"),
        ({"splits": ("test",)}, "none of split test of v1.0-mini. Its splits are train, val"),
        ({"splits": ("training",)}, "unknown split"),
        ({"scenes": ("scene-0062",)}, "no scene-0062 in scene.json. Found scene-0061, scene-0103"),
        ({"scenes": ("61",), "splits": ("val",)}, "belongs to split train"),
        ({"scenes": ()}, "none were named"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_wrong_choices_are_refused(
    folder: NuscenesFolder, options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list_nuscenes(folder.write(), **options)


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        list_nuscenes(tmp_path / "gone")
    (tmp_path / "sequences").mkdir()
    with pytest.raises(DataError, match="use 'prepare semkitti'"):
        list_nuscenes(tmp_path)


def test_foreign_scenes_are_left_out_and_said(tmp_path: Path) -> None:
    folder = NuscenesFolder(tmp_path / "n", scenes=("scene-0001", "scene-0061"))
    listing = list_nuscenes(folder.write())
    assert {scan.sequence for scan in listing.scans} == {"scene-0061"}
    assert "in no split of v1.0-mini, left out: scene-0001" in listing.notes
    with pytest.raises(DataError, match=r"scene-0001: in no split of v1.0-mini"):
        list_nuscenes(folder.root, scenes=("1",))
