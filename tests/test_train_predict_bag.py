"""Labels for recordings: the clouds get more fields, everything else stays as it is."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bag_samples import (
    ROS1,
    START_NS,
    USUAL,
    Sent,
    cloud,
    decoded,
    drive,
    encoded,
    field,
    read_bag,
    read_mcap,
    some_columns,
    text,
    write_mcap,
    write_ros1,
    write_ros2,
)
from cache_samples import sample_info
from heard import Heard
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType
from rosbags.rosbag2 import CompressionMode, StoragePlugin
from stub_network import StubNetwork, random_checkpoint
from test_train_predict import RAW_OF, card
from typed import answer, pass2d, refusal

from pass2d.common.errors import ConfigError, DataError
from pass2d.points.bags.bag import copy_path
from pass2d.train.checkpoints.trained import TrainedNetwork
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.inference.votes import parse_votes
from pass2d.train.prediction.bag import BagSummary, predict_bag
from pass2d.train.stacks.config import StackConfig

COLORS = sample_info().labels.colors_rgb


def network(tmp_path: Path, **changes: Any) -> TrainedNetwork:
    """A stub that answers by place."""
    return TrainedNetwork(
        network=StubNetwork(), card=card(**changes), source=tmp_path / "stub.safetensors"
    )


def label(bag: Path, out: Path, tmp_path: Path, **options: Any) -> BagSummary:
    return predict_bag(bag, network(tmp_path), out, **options)


FORMS: dict[str, Callable[[Path], Path]] = {
    "mcap": lambda at: write_mcap(at / "drive.mcap", drive()),
    "mcap lz4": lambda at: write_mcap(
        at / "drive.mcap", drive(), compression=CompressionType.LZ4, chunk_size=5000
    ),
    "mcap without chunks": lambda at: write_mcap(at / "drive.mcap", drive(), use_chunking=False),
    "mcap without index": lambda at: write_mcap(
        at / "drive.mcap",
        drive(),
        repeat_channels=False,
        repeat_schemas=False,
        use_statistics=False,
        index_types=IndexType.NONE,
    ),
    "mcap of ROS 1": lambda at: write_mcap(at / "drive.mcap", drive(ROS1), encoding="ros1"),
    "mcap big endian": lambda at: write_mcap(at / "drive.mcap", drive(), is_little=False),
    "ros1": lambda at: write_ros1(at / "drive.bag", drive(ROS1)),
    "ros1 lz4": lambda at: write_ros1(at / "drive.bag", drive(ROS1), packing="LZ4"),
    "ros1 bz2": lambda at: write_ros1(at / "drive.bag", drive(ROS1), packing="BZ2"),
    "db3 folder": lambda at: write_ros2(at / "drive", drive()),
    "mcap folder": lambda at: write_ros2(at / "drive", drive(), plugin=StoragePlugin.MCAP),
    "packed db3": lambda at: write_ros2(at / "drive", drive(), packing=CompressionMode.FILE),
    "packed messages": lambda at: write_ros2(
        at / "drive", drive(), packing=CompressionMode.MESSAGE
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_clouds_are_labelled_and_all_else_is_copied(form: str, tmp_path: Path) -> None:
    bag = FORMS[form](tmp_path)
    out = tmp_path / f"labelled{bag.suffix}"
    heard = Heard()
    summary = label(bag, out, tmp_path, progress=heard)
    is_ros1_mcap = form == "mcap of ROS 1"
    read = read_mcap if form in ("mcap of ROS 1", "mcap without index") else read_bag
    before, after = ([(row[0], row[1], row[-1]) for row in read(path)] for path in (bag, out))
    assert [row[:2] for row in after] == [row[:2] for row in before]
    assert len(before) == 15
    for (topic, _, old), (_, _, new) in zip(before, after, strict=True):
        if topic == "/chatter":
            assert new == old
            continue
        is_ros1 = "ros1" in form or is_ros1_mcap
        was, now = (decoded(data, is_ros1=is_ros1) for data in (old, new))
        assert now.header == was.header
        assert new[:2] == old[:2]  # the byte order of a message of ROS 2; the number of ROS 1's
        assert [f.name for f in now.fields] == ["x", "y", "z", "intensity", "class_id", "rgb"]
        points = np.column_stack([field(was, name).ravel() for name, _, _ in USUAL])
        answers, _ = Segmenter(StubNetwork(), card())(points)
        assert field(now, "class_id").ravel().tolist() == RAW_OF[answers].tolist()
        packed = [int(r) << 16 | int(g) << 8 | int(b) for r, g, b in (COLORS[a] for a in answers)]
        assert field(now, "rgb").ravel().view(np.uint32).tolist() == packed
        for name, _, _ in USUAL:
            assert np.array_equal(field(now, name), field(was, name))
    assert (summary.scans, summary.points, summary.topic) == (5, 300, "/points")
    assert summary.copied == {"/chatter": 10}
    assert (heard.done, summary.class_points.sum()) == (5, 300)
    assert not list(tmp_path.glob(".*"))
    if bag.is_dir():
        assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in bag.iterdir())


def test_mcap_keeps_its_numbers_both_stamps_attachments_metadata_and_packing(
    tmp_path: Path,
) -> None:
    bag, out = FORMS["mcap lz4"](tmp_path), tmp_path / "out.mcap"
    label(bag, out, tmp_path)
    for old, new in zip(read_mcap(bag), read_mcap(out), strict=True):
        assert new[:4] == old[:4]

    def about(path: Path) -> tuple[Any, ...]:
        with path.open("rb") as file:
            reader = make_reader(file)
            summary = reader.get_summary()
            channels = summary.channels.values()
            return (
                reader.get_header().profile,
                [(a.name, a.data, a.log_time) for a in reader.iter_attachments()],
                [(m.name, m.metadata) for m in reader.iter_metadata()],
                {chunk.compression for chunk in summary.chunk_indexes},
                [(c.topic, c.message_encoding, c.metadata) for c in channels],
                [(s.name, s.encoding, s.data) for s in summary.schemas.values()],
            )

    assert about(out) == about(bag)
    assert about(out)[3] == {"lz4"}


def test_database_keeps_every_other_row_and_table(tmp_path: Path) -> None:
    bag, out = FORMS["db3 folder"](tmp_path), tmp_path / "out"
    label(bag, out, tmp_path)

    def rows(folder: Path) -> dict[str, list[tuple]]:
        (file,) = folder.glob("*.db3")
        with closing(sqlite3.connect(file)) as base, base:
            names = [
                n for (n,) in base.execute("SELECT name FROM sqlite_master WHERE type='table'")
            ]
            return {name: list(base.execute(f"SELECT * FROM {name}")) for name in names}

    old, new = rows(bag), rows(out)
    (number,) = [number for number, name, *_ in old["topics"] if name == "/points"]
    assert [row[:3] for row in new["messages"]] == [row[:3] for row in old["messages"]]
    changed = [a for a, b in zip(new.pop("messages"), old.pop("messages"), strict=True) if a != b]
    assert (len(changed), {row[1] for row in changed}) == (5, {number})
    assert new == old
    assert (out / "metadata.yaml").read_bytes() == (bag / "metadata.yaml").read_bytes()


def test_messages_of_a_database_that_is_open_are_there(tmp_path: Path) -> None:
    bag = FORMS["db3 folder"](tmp_path)
    (file,) = bag.glob("*.db3")
    recorder = sqlite3.connect(file)  # its last rows lie in a file beside it
    recorder.execute("PRAGMA journal_mode = WAL")
    late = cloud(some_columns(60, 9))
    recorder.execute(
        "INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)",
        (START_NS + 10**9, encoded(late, "cdr")),
    )
    recorder.commit()
    summary = label(file, tmp_path / "out.db3", tmp_path)
    recorder.close()
    assert summary.scans == 6


def one_scan(tmp_path: Path, message: Any, **options: Any) -> tuple[Any, BagSummary]:
    """A recording of one scan, labelled."""
    bag = write_mcap(tmp_path / "one.mcap", [Sent("/points", START_NS, message)])
    summary = label(bag, tmp_path / "out.mcap", tmp_path, overwrite=True, **options)
    return decoded(read_mcap(tmp_path / "out.mcap")[0][-1]), summary


def test_rows_without_numbers_keep_their_place(tmp_path: Path) -> None:
    columns = some_columns(60)
    clean, _ = one_scan(tmp_path, cloud(columns))
    columns["x"][[3, 59]] = np.nan
    columns["z"][7] = np.inf
    found, summary = one_scan(tmp_path, cloud(columns, height=4))
    answer = field(found, "class_id").ravel()
    bad = np.zeros(60, bool)
    bad[[3, 7, 59]] = True
    assert (answer[bad] == 0).all()
    is_in = np.abs(columns["x"]) < 50
    is_in &= (np.abs(columns["y"]) < 50) & (columns["z"] > -4) & (columns["z"] < 2)
    kept = is_in & ~bad
    assert np.array_equal(answer[kept], field(clean, "class_id").ravel()[kept])
    assert (answer[kept] > 0).all()
    (note,) = summary.notes
    assert note.endswith("(3 points)")


@pytest.mark.parametrize("is_bigendian", [False, True])
def test_any_order_types_and_padding_of_fields(tmp_path: Path, is_bigendian: bool) -> None:
    columns = some_columns(60)
    expected = field(one_scan(tmp_path, cloud(columns))[0], "class_id").ravel()
    columns["ring"] = np.arange(60)
    columns["intensity"] = (columns["intensity"] * 255).round()
    fields = [
        *(("ring", "u2", 1), ("z", "f8", 5), ("intensity", "u1", 13)),
        *(("y", "f8", 16), ("x", "f8", 24)),
    ]
    message = cloud(
        columns, fields=fields, step=35, height=3, row_padding=11, is_bigendian=is_bigendian
    )
    found, _ = one_scan(tmp_path, message)
    assert field(found, "class_id").shape == (3, 20)
    assert field(found, "class_id").ravel().tolist() == expected.tolist()
    for name, _, _ in fields:
        assert np.array_equal(field(found, name), field(message, name))
    assert (found.point_step, found.row_step) == (44, 20 * 44 + 11)
    old = message.data.reshape(3, -1)
    new = found.data.reshape(3, -1)
    assert np.array_equal(new[:, -11:], old[:, -11:])
    assert np.array_equal(new[:, :880].reshape(60, 44)[:, :35], old[:, :700].reshape(60, 35))


def test_fields_of_those_names_go_on_under_others(tmp_path: Path) -> None:
    columns = {**some_columns(60), "rgb": np.arange(60), "original_rgb": np.arange(60) * 2}
    fields = [*USUAL, ("rgb", "u4", 20), ("original_rgb", "u4", 24)]
    found, _ = one_scan(tmp_path, cloud(columns, fields=fields, step=28), confidence=True)
    assert [f.name for f in found.fields[4:]] == [
        *("original_original_rgb", "original_rgb", "class_id", "rgb", "confidence"),
    ]
    assert field(found, "original_original_rgb").ravel().tolist() == list(range(60))
    assert field(found, "original_rgb").ravel().tolist() == list(range(0, 120, 2))
    assert np.allclose(field(found, "confidence"), np.exp(1) / (np.exp(1) + 4))


def test_cloud_without_points_gets_the_fields(tmp_path: Path) -> None:
    found, summary = one_scan(tmp_path, cloud(some_columns(0)))
    assert (found.width, found.point_step, len(found.data)) == (0, 32, 0)
    assert [f.name for f in found.fields[4:]] == ["class_id", "rgb"]
    assert (summary.scans, summary.points) == (1, 0)


def test_signal_that_is_missing_is_said_once(tmp_path: Path) -> None:
    sent = [
        Sent("/points", START_NS + k, cloud(some_columns(60, k), fields=USUAL[:3]))
        for k in range(3)
    ]
    bag = write_mcap(tmp_path / "drive.mcap", sent)
    heard = Heard()
    summary = label(bag, tmp_path / "out.mcap", tmp_path, progress=heard)
    (warning,) = [one for one in summary.warnings if one.kind == "no_signal"]
    assert warning.scans == 3
    assert heard.all().count("no column of the signal among x, y, z") == 1


def test_drivers_that_leave_out_counts_and_row_steps(tmp_path: Path) -> None:
    message = cloud(some_columns(60), row_step=0)
    message.fields = [dataclasses.replace(one, count=0) for one in message.fields]
    found, _ = one_scan(tmp_path, message)
    plain, _ = one_scan(tmp_path, cloud(some_columns(60)))
    assert np.array_equal(field(found, "class_id"), field(plain, "class_id"))


def test_units_and_names_are_options_here_too(tmp_path: Path) -> None:
    columns = some_columns(60)
    expected = field(one_scan(tmp_path, cloud(columns))[0], "class_id")
    renamed = {"a": columns["x"] * 100, "b": columns["y"] * 100, "c": columns["z"] * 100}
    fields = [("a", "f4", 0), ("b", "f4", 4), ("c", "f4", 8), ("i", "f4", 16)]
    bag = write_mcap(
        tmp_path / "cm.mcap",
        [Sent("/points", START_NS, cloud({**renamed, "i": columns["intensity"]}, fields=fields))],
    )
    checkpoint = random_checkpoint(tmp_path / "x.safetensors", info=sample_info())
    line = refusal("predict", bag, "--checkpoint", checkpoint, "--out", tmp_path / "no")
    assert line.endswith("Name it: --map x=NAME")
    assert "/points, message 0: no column for x" in line
    from pass2d.points.mapping import InputMapping

    mapping = InputMapping(columns={"x": "a", "y": "b", "z": "c"}, unit_m=0.01)
    label(bag, tmp_path / "m.mcap", tmp_path, mapping=mapping)
    found = decoded(read_mcap(tmp_path / "m.mcap")[0][-1])
    assert np.array_equal(field(found, "class_id"), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": np.zeros(100, np.uint8)}, "100 bytes and a row of 1,320, but 1 x 60 points"),
        ({"point_step": 10}, "field 'z' ends at byte 12, a point has 10 bytes"),
        ({"width": 61}, "but 1 x 61 points of 22 bytes: truncated"),
        ({"width": 2**32 - 1}, "truncated"),
        ({"point_step": 0}, "field 'x' ends at byte 4, a point has 0 bytes"),
        ({"datatype": 9}, "field 'x' has the unknown type 9"),
    ],
)
def test_cloud_whose_numbers_do_not_fit_is_one_error(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    number = changes.pop("datatype", None)
    message = cloud(some_columns(60), **changes)
    if number is not None:
        message.fields[0].datatype = number
    with pytest.raises(DataError, match=rf"one.mcap, /points, message 0: .*{words}"):
        one_scan(tmp_path, message)
    assert [p.name for p in tmp_path.iterdir()] == ["one.mcap"]


def test_votes_and_exported_networks_and_stacks(tmp_path: Path) -> None:
    bag = FORMS["mcap"](tmp_path)
    summary = label(bag, tmp_path / "v.mcap", tmp_path, votes=parse_votes("3"))
    assert summary.scans == 5
    stacked = network(tmp_path, stack=StackConfig(past=2))
    with pytest.raises(ConfigError, match=r"trained on 3 scans together.*not read from rec"):
        predict_bag(bag, stacked, tmp_path / "s.mcap")
    assert not (tmp_path / "s.mcap").exists()


def test_random_votes_do_not_depend_on_the_form(tmp_path: Path) -> None:
    def rule(points: torch.Tensor) -> torch.Tensor:
        return torch.where(points[:, 1] > 0, 2, 3)

    found = []
    for form in ("mcap", "ros1"):
        trained = TrainedNetwork(
            network=StubNetwork(rule), card=card(), source=tmp_path / "s.safetensors"
        )
        bag = FORMS[form](tmp_path)
        out = tmp_path / f"out{bag.suffix}"
        predict_bag(bag, trained, out, votes=parse_votes("2"))
        found.append(
            [
                field(decoded(data, is_ros1=form == "ros1"), "class_id").tolist()
                for topic, _, data in read_bag(out)
                if topic == "/points"
            ]
        )
    assert found[0] == found[1]


# What is wrong

HARMED = ("mcap", "mcap without chunks", "ros1", "db3 folder")


def test_several_topics_are_named(tmp_path: Path) -> None:
    sent = [
        *drive(n_scans=2),
        Sent("/rear", START_NS + 7, cloud(some_columns(60))),
    ]
    bag, out = write_mcap(tmp_path / "drive.mcap", sent), tmp_path / "out.mcap"
    with pytest.raises(DataError, match=r"several .*: /points \(2\), /rear \(1\)\. .*`topic`"):
        label(bag, out, tmp_path)
    with pytest.raises(DataError, match="unknown topic '/point'; did you mean '/points'"):
        label(bag, out, tmp_path, topic="/point")
    with pytest.raises(DataError, match="topic /chatter is of type std_msgs/String"):
        label(bag, out, tmp_path, topic="/chatter")
    summary = label(bag, out, tmp_path, topic="/rear")
    assert (summary.scans, summary.copied) == (1, {"/chatter": 4, "/points": 2})
    rows = {row[0]: decoded(row[-1]) for row in read_mcap(out) if row[0] != "/chatter"}
    assert {name: len(one.fields) for name, one in rows.items()} == {"/points": 4, "/rear": 6}


def test_recording_without_clouds_says_what_it_has(tmp_path: Path) -> None:
    bag = write_mcap(tmp_path / "a.mcap", [Sent("/chatter", START_NS, text("hello"))])
    with pytest.raises(DataError, match=r"no .*PointCloud2 topic; it has /chatter \(std_msgs"):
        label(bag, tmp_path / "out.mcap", tmp_path)


@pytest.mark.parametrize(
    ("form", "harm"),
    [
        *((form, harm) for form in HARMED for harm in ("cut", "empty", "other")),
        *((form, "bytes") for form in ("mcap", "db3 folder")),  # the others have no sums
    ],
)
def test_damaged_recording_is_one_error_and_leaves_nothing(
    form: str, harm: str, tmp_path: Path
) -> None:
    bag = FORMS[form](tmp_path)
    file = next(bag.glob("*.db3")) if bag.is_dir() else bag
    data = bytearray(file.read_bytes())
    if harm == "bytes":
        middle = len(data) // 2
        data[middle - 200 : middle + 200] = bytes(400)
    made = {"cut": data[: len(data) // 2], "empty": b"", "other": b"no recording" * 99}
    file.write_bytes(made.get(harm, data))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError) as caught:
        label(bag, tmp_path / f"out{bag.suffix}", tmp_path)
    assert str(file.name) in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_recorder_that_was_killed_is_told_how_to_fix(tmp_path: Path) -> None:
    bag = FORMS["mcap"](tmp_path)
    bag.write_bytes(bag.read_bytes()[:-60])
    with pytest.raises(DataError, match="mcap recover"):
        label(bag, tmp_path / "out.mcap", tmp_path)
    bag = FORMS["ros1"](tmp_path)
    data = bytearray(bag.read_bytes())
    place = data.index(b"index_pos=")
    data[place + 10 : place + 18] = bytes(8)
    bag.write_bytes(data)
    with pytest.raises(DataError, match=r"not indexed.*rosbag reindex"):
        label(bag, tmp_path / "out.bag", tmp_path)


@pytest.mark.parametrize(
    "text_of_file",
    ["", "a: [", "a: 1", "rosbag2_bagfile_information: {relative_file_paths: [gone.db3]}"],
)
def test_metadata_that_says_nothing_is_one_error(tmp_path: Path, text_of_file: str) -> None:
    bag = FORMS["db3 folder"](tmp_path)
    (bag / "metadata.yaml").write_text(text_of_file)
    with pytest.raises(DataError, match=r"metadata\.yaml|gone\.db3"):
        label(bag, tmp_path / "out", tmp_path)


def test_clouds_that_are_nowhere_are_an_error(tmp_path: Path) -> None:
    columns = some_columns(60)
    columns["x"][:] = np.nan
    with pytest.raises(DataError, match="none of 60 points has coordinates"):
        one_scan(tmp_path, cloud(columns))
    assert [p.name for p in tmp_path.iterdir()] == ["one.mcap"]


# Where the copy goes


def test_copy_is_not_replaced_without_being_asked(tmp_path: Path) -> None:
    bag, out = FORMS["mcap"](tmp_path), tmp_path / "out.mcap"
    out.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"out\.mcap is already there"):
        label(bag, out, tmp_path)
    with pytest.raises(DataError, match="the recording itself"):
        label(bag, bag, tmp_path, overwrite=True)
    assert out.read_bytes() == b"mine"
    label(bag, out, tmp_path, overwrite=True)
    assert len(read_mcap(out)) == 15
    folder = FORMS["db3 folder"](tmp_path)
    made = tmp_path / "made"
    made.mkdir()
    (made / "thesis.txt").touch()
    with pytest.raises(DataError, match="not a recording of the same format as"):
        label(folder, made, tmp_path, overwrite=True)
    assert (made / "thesis.txt").exists()
    shutil.rmtree(made)
    for _ in range(2):
        label(folder, made, tmp_path, overwrite=True)
    assert len(read_bag(made)) == 15


def test_copy_lies_where_out_says(tmp_path: Path) -> None:
    bag = FORMS["mcap"](tmp_path)
    assert copy_path(bag, tmp_path / "a.mcap") == tmp_path / "a.mcap"
    assert copy_path(bag, tmp_path / "a") == tmp_path / "a/drive.mcap"
    with pytest.raises(ConfigError, match=r"must end in \.mcap"):
        copy_path(bag, tmp_path / "a.bag")
    folder = FORMS["db3 folder"](tmp_path)
    assert copy_path(folder, tmp_path / "new") == tmp_path / "new"
    (tmp_path / "there").mkdir()
    assert copy_path(folder, tmp_path / "there") == tmp_path / "there/drive"


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("form", ["mcap", "ros1", "db3 folder"])
def test_run_that_ends_early_leaves_no_half_of_a_copy(form: str, tmp_path: Path) -> None:
    bag = FORMS[form](tmp_path)
    out = tmp_path / f"out{bag.suffix}"

    def stop(count: int) -> None:
        if count == 3:
            raise Killed

    with pytest.raises(Killed):
        label(bag, out, tmp_path, progress=Heard(on_advance=stop))
    assert sorted(p.name for p in tmp_path.iterdir()) == [bag.name]
    # What kill -9 leaves is a folder that nobody holds locked: the next run removes it.
    left = tmp_path / f".pass2d-{os.geteuid()}" / f"out-{'0' * 32}"
    left.mkdir(parents=True)
    (left / "half.mcap").touch()
    label(bag, out, tmp_path)
    assert not left.parent.exists()
    assert len(read_bag(out)) == 15


# The command


def test_command_labels_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random_checkpoint(tmp_path / "x.safetensors", info=sample_info())
    FORMS["mcap"](tmp_path)
    words = ["predict", "drive.mcap", "--checkpoint", "x.safetensors", "--device", "cpu"]
    said = answer(*words, "--topic", "/points", "--out", "labelled.mcap", "--confidence")
    assert said["out"] == str(tmp_path / "labelled.mcap")
    assert (said["scans"], said["points"], said["copied"]) == (5, 300, {"/chatter": 10})
    assert said["fields"] == ["class_id", "rgb", "confidence"]
    assert sum(said["class_points"].values()) == 300
    assert len(read_mcap(tmp_path / "labelled.mcap")) == 15
    done = pass2d(*words)
    assert done.exit_code == 0, done.output
    assert "10 messages of 1 other topic copied as they are" in done.stdout
    assert (tmp_path / "predictions" / "drive.mcap").is_file()
    for option in (["--png"], ["--format", "ply"], ["--columns", "4"], ["--dtype", "float32"]):
        assert f"{option[0]} applies only to point files" in refusal(*words, *option)
    (tmp_path / "a.bin").write_bytes(bytes(160))
    assert "--topic applies only to recordings" in refusal("predict", "a.bin", "--topic", "/a")
    assert "gone.mcap: no such file" in refusal("predict", "gone.mcap", *words[2:])
    (tmp_path / "bags").mkdir()
    (tmp_path / "drive.mcap").rename(tmp_path / "bags" / "drive.mcap")
    assert "A ROS recording is given by its own path" in refusal("predict", "bags", *words[2:])


@pytest.mark.parametrize("form", ["mcap", "ros1", "packed db3"])
def test_a_pipe_is_not_waited_for(form: str, tmp_path: Path) -> None:
    bag = FORMS[form](tmp_path)
    (file,) = bag.glob("*.zstd") if bag.is_dir() else [bag]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match=file.name):
        label(bag, tmp_path / f"labelled{bag.suffix}", tmp_path)
