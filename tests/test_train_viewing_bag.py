"""`pass2d view` of recordings: clouds along a timeline, in any order of asking."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bag_samples import (
    START_NS,
    USUAL,
    Sent,
    cloud,
    drive,
    some_columns,
    write_mcap,
    write_ros1,
    write_ros2,
)
from cache_samples import sample_info
from stub_network import random_checkpoint
from test_train_viewing_recording import rows
from typed import answer, refusal

from pass2d.common.errors import ConfigError, DataError
from pass2d.points.bags.bag import open_bag
from pass2d.train.stacks.config import StackConfig
from pass2d.train.viewing.bag_clouds import bag_clouds

INFO = sample_info()


def test_clouds_are_there_in_any_order(tmp_path: Path) -> None:
    bag = write_mcap(tmp_path / "drive.mcap", drive(n_scans=30, n_points=20), chunk_size=2000)
    with open_bag(bag) as source:
        found = bag_clouds(source, INFO, topic=None)
        assert [item.frame_index for item in found.items] == list(range(30))
        for place in (0, 1, 3, 2, 2, 29, 5, 20, 19, 0):
            scan = found.items[place].load()
            assert (scan.name, scan.frame_index) == (f"/points/{place:06d}", place)
            assert np.array_equal(scan.xyz[0], some_columns(20, place)["x"])
            assert scan.time_s == pytest.approx(START_NS / 1e9 + place / 10, abs=1e-6)


def test_labels_that_clouds_carry_are_shown(tmp_path: Path) -> None:
    columns = some_columns(4)
    fields = [*USUAL, ("class_id", "u4", 20)]
    good = cloud({**columns, "class_id": np.array([0, 40, 10, 70])}, fields=fields, step=24)
    alien = cloud({**columns, "class_id": np.array([0, 40, 9999, 70])}, fields=fields, step=24)
    bag = write_mcap(tmp_path / "a.mcap", [Sent("/p", 10, good), Sent("/p", 20, alien)])
    with open_bag(bag) as source:
        first, second = (item.load() for item in bag_clouds(source, INFO, topic="/p").items)
    assert first.predicted.tolist() == [0, 1, 2, 4]
    assert second.predicted is None
    assert "another data set" in second.note


def test_recording_becomes_a_timeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rerun")
    monkeypatch.chdir(tmp_path)
    write_ros2(tmp_path / "drive", drive(n_scans=3))
    words = ["view", "drive", "--topic", "/points", "--no-checkpoint"]
    said = answer(*words, "--save", "x.rrd")
    assert said["scans"] == [f"/points/{k:06d}" for k in range(3)]
    found = rows(tmp_path / "x.rrd")
    signal = [row for row in found["world/signal"] if row.get("time") is not None]
    assert [row["frame_index"] for row in signal] == [0, 1, 2]
    assert [row["time"] for row in signal] == pytest.approx([0, 10**8, 2 * 10**8], abs=1000)
    assert "unknown topic" in refusal("view", "drive", "--topic", "/a", "--save", "y.rrd")
    for option in (["--split", "val"], ["--columns", "4"]):
        refusal(*words, *option, "--save", "y.rrd")
    assert "--topic applies only" in refusal("view", "--cache", "c", "--topic", "/a", "--png", "p")
    assert not (tmp_path / "y.rrd").exists()


def test_checkpoint_labels_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from pass2d.pipeline.datasets.registry import DATASETS

    random_checkpoint(tmp_path / "x.safetensors", info=DATASETS["semkitti"].table.info)
    from bag_samples import ROS1

    write_ros1(tmp_path / "drive.bag", drive(ROS1, n_scans=2))
    words = ["--checkpoint", "x.safetensors", "--device", "cpu", "--html", "x.html"]
    assert len(answer("view", "drive.bag", "--scans", ":", *words)["scans"]) == 2
    assert "predict" in (tmp_path / "x.html").read_text()


def test_network_of_several_scans_is_refused(tmp_path: Path) -> None:
    with open_bag(write_mcap(tmp_path / "drive.mcap", drive())) as source:
        (first, *_) = bag_clouds(source, INFO, topic=None).items
        assert first.past(StackConfig()) == ()
        with pytest.raises(ConfigError, match="trained on 3 scans together"):
            first.past(StackConfig(past=2))


def test_damage_on_the_way_is_one_error(tmp_path: Path) -> None:
    bag = write_mcap(tmp_path / "drive.mcap", drive())
    data = bytearray(bag.read_bytes())
    data[1000:1400] = bytes(400)
    bag.write_bytes(data)
    with open_bag(bag) as source:
        items = bag_clouds(source, INFO, topic=None).items
        with pytest.raises(DataError, match=r"drive\.mcap: not a readable MCAP file"):
            items[4].load()


def test_a_topic_without_messages_is_named(tmp_path: Path) -> None:
    folder = write_ros2(tmp_path / "drive", drive(n_scans=1))
    (base,) = folder.glob("*.db3")
    with closing(sqlite3.connect(base)) as connection, connection:
        connection.execute("DELETE FROM messages")
    with open_bag(folder) as source, pytest.raises(DataError, match=r"drive: no message of topic"):
        bag_clouds(source, INFO, topic=None)
