"""Predictions as runs: streams, formats, interruptions, odd and large files, the README's lines."""

from __future__ import annotations

import errno
import json
import os
import queue
import re
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch
from heard import Heard
from leftovers import left_by_a_kill
from stub_network import StubNetwork, by_place
from test_cli import PROJECT, pass2d, spawn
from test_train_predict import CPU, card, inside, results, some_points, write_bin

from pass2d.cache.clouds.statistics import scan_statistics
from pass2d.common.errors import ConfigError, DataError
from pass2d.train.checkpoints.checkpoint import build_from_card, network_tensors, save_checkpoint
from pass2d.train.inference.scans import scan_input
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.prediction.files import find_scans
from pass2d.train.prediction.lines import arriving_lines
from pass2d.train.prediction.predict import Outputs, Stream, predict

RAW_OF = np.array([0, 40, 10, 50, 70], np.uint32)  # cache_samples.sample_info
ALL_FORMATS = Outputs(formats=("label", "npy", "ply", "bin"), confidence=True)


def save(path: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    network = build_from_card(card(), CPU)
    save_checkpoint(path, network_tensors(network.inference_state()), replace(card(), **changes))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("run") / "small.safetensors")


class Killed(BaseException):
    """Stands for kill -9: nothing may clean up after it."""


# Streams


def test_each_path_of_an_open_pipe_is_answered_before_the_next_is_known(
    checkpoint: Path, tmp_path: Path
) -> None:
    for name in ("a", "deep/er/a"):
        write_bin(tmp_path / f"{name}.bin", some_points(51))
    reading, writing = os.pipe()
    told: queue.Queue = queue.Queue()
    heard = Heard()
    heard_line = heard.say

    def say(text: str) -> None:
        heard_line(text)
        told.put(text)

    heard.say = say
    summaries = []

    def work() -> None:
        stream = Stream(descriptor=reading, base=tmp_path)
        summaries.append(
            predict(
                stream,
                checkpoint,
                tmp_path / "out",
                device=CPU,
                progress=heard,
                on_result=told.put,
            )
        )

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    assert "no statistics" in told.get(timeout=120)
    os.write(writing, b"a.b")
    os.write(writing, b"in\r\n\n")
    first = told.get(timeout=120)
    assert first.files == (tmp_path / "out/a.label",)
    assert first.files[0].stat().st_size == 204
    os.write(writing, b"gone.bin\n")
    assert told.get(timeout=120) == "gone.bin: no such file"
    os.write(writing, f"{tmp_path}/deep/er/a.bin".encode())
    os.close(writing)  # the last line lacks its end
    assert told.get(timeout=120).files == (tmp_path / "out/deep/er/a.label",)
    worker.join(timeout=120)
    os.close(reading)
    (summary,) = summaries
    assert (summary.scans, [str(f.points) for f in summary.failed]) == (2, ["gone.bin"])


def stream_of(tmp_path: Path, lines: str) -> Stream:
    (tmp_path / "list.txt").write_bytes(lines.encode())
    return Stream(descriptor=os.open(tmp_path / "list.txt", os.O_RDONLY), base=tmp_path)


def test_bad_lines_are_reported_one_by_one(checkpoint: Path, tmp_path: Path) -> None:
    scan = write_bin(tmp_path / "a.bin", some_points(30))
    write_bin(tmp_path / "a.npy", some_points(1))  # no NumPy file, and the same result as a.bin
    (tmp_path / "other.doc").touch()
    lines = "a.bin\na.npy\n.\nother.doc\nsub/../a.bin\n\0\n" + "x" * 5000 + ".bin\n"
    stream = stream_of(tmp_path, lines)
    summary = predict(stream, checkpoint, tmp_path / "out", device=CPU)
    assert results(tmp_path / "out") == ["a.label"]
    reasons = [failed.reason for failed in summary.failed]
    words = ["would both be written", "a folder", "a file of points is expected", ""]
    assert len(reasons) == 5
    for word, reason in zip(words, reasons, strict=False):
        assert word in reason
    assert summary.scans + summary.kept == 2  # the same file twice
    assert scan.exists()


def test_paths_elsewhere_keep_all_their_folders(checkpoint: Path, tmp_path: Path) -> None:
    scan = write_bin(tmp_path / "data/a.bin", some_points(30))
    (tmp_path / "here").mkdir()
    stream = replace(stream_of(tmp_path, f"{scan}\n../data/a.bin\n"), base=tmp_path / "here")
    predict(stream, checkpoint, tmp_path / "out", device=CPU)
    assert (tmp_path / "out" / scan.relative_to("/").with_suffix(".label")).is_file()
    assert results(tmp_path / "out") == ["a.label"]


def test_lines_longer_than_a_block_arrive_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("b" * 200_000 + "\nc\n\n  \nd")
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    lines = [line for line in arriving_lines(descriptor) if isinstance(line, str)]
    os.close(descriptor)
    assert lines == ["b" * 200_000, "c", "d"]
    with pytest.raises(DataError, match="standard input is closed"):
        next(arriving_lines(descriptor))


@pytest.mark.slow
def test_killed_and_interrupted_streams_leave_whole_files_and_go_on(
    checkpoint: Path, tmp_path: Path
) -> None:
    names = [f"{i % 3}/{i}" for i in range(12)]
    for name in names:
        write_bin(tmp_path / f"{name}.bin", some_points(2000))
    lines = "".join(f"{name}.bin\n" for name in names)
    words = ("predict", "-", "--checkpoint", checkpoint, "--out", tmp_path / "out", "--device=cpu")

    def start(*more: str) -> subprocess.Popen:
        read_end, write_end = os.pipe()
        process = spawn(*words, *more, cwd=tmp_path, stdin=read_end)
        os.close(read_end)
        os.write(write_end, lines.encode())
        process.feed = write_end
        return process

    killed = start()
    assert killed.stdout.readline() == f"{tmp_path}/out/0/0.label\n"
    killed.kill()
    killed.communicate()
    os.close(killed.feed)
    done = list((tmp_path / "out").rglob("*.label"))
    assert len(done) >= 1
    assert {path.stat().st_size for path in done} == {8000}
    again = start("--json")
    told = [json.loads(again.stdout.readline()) for _ in names]
    assert [Path(one["input"]) for one in told] == [tmp_path / f"{name}.bin" for name in names]
    assert sum(one["kept"] for one in told) >= 1
    again.send_signal(signal.SIGINT)  # it waits for more lines
    out, err = again.communicate(timeout=120)
    os.close(again.feed)
    assert again.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "interrupted: finished work is kept"
    assert "Traceback" not in err
    assert len(results(tmp_path / "out")) == 12
    assert {p.stat().st_size for p in (tmp_path / "out").rglob("*.label")} == {8000}


# Going on


def test_what_a_kill_left_half_written_is_replaced(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        write_bin(tmp_path / f"in/{name}.bin", some_points(30))
    whole = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if target.name == "b.npy":
            raise Killed
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    options = {"device": CPU, "outputs": Outputs(formats=("label", "npy"))}
    with pytest.raises(Killed):
        predict(tmp_path / "in", checkpoint, tmp_path / "out", **options)
    assert "b.label" in results(tmp_path / "out")
    assert "b.npy" not in results(tmp_path / "out")
    left_by_a_kill(tmp_path / "out")
    monkeypatch.undo()
    summary = predict(tmp_path / "in", checkpoint, tmp_path / "out", **options)
    assert summary.kept >= 1
    assert summary.scans + summary.kept == 3
    assert results(tmp_path / "out") == sorted(
        f"{name}.{suffix}" for name in "abc" for suffix in ("label", "npy")
    )


def test_results_are_kept_only_of_the_same_input_and_settings(
    checkpoint: Path, tmp_path: Path
) -> None:
    scan = write_bin(tmp_path / "in/a.bin", some_points(30))
    out = tmp_path / "out"

    def run(**options) -> tuple[int, int]:
        summary = predict(tmp_path / "in", checkpoint, out, device=CPU, **options)
        return summary.scans, summary.kept

    assert run() == (1, 0)
    assert run() == (0, 1)
    write_bin(scan, some_points(40))
    assert run() == (1, 0)
    assert (out / "a.label").stat().st_size == 160
    with pytest.raises(DataError, match=r"a\.label is already there.*other settings \(`outside`\)"):
        run(outside="ignore")
    assert run(overwrite=True, outside="ignore") == (1, 0)
    assert run(outside="ignore") == (0, 1)
    write_bin(tmp_path / "in/b.bin", some_points(10))
    assert run(outside="ignore") == (1, 1)
    record = out / ".pass2d/predict.jsonl"
    record.write_bytes(record.read_bytes() + b'{"scan": "c", "inp\n\xff\n[]\n')
    assert run(outside="ignore") == (0, 2)


def test_results_below_the_inputs_are_not_read_as_inputs(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_bin(folder / "a.bin", some_points(30))
    for _ in range(2):
        predict(folder, checkpoint, folder / "out", outputs=ALL_FORMATS, device=CPU)
    assert len(results(folder / "out")) == 5
    with pytest.raises(DataError, match=r"a\.npy: a result among the point files"):
        predict(folder / "a.bin", checkpoint, folder, outputs=ALL_FORMATS, device=CPU)


# Formats


def test_all_formats_say_the_same(checkpoint: Path, tmp_path: Path) -> None:
    points = some_points(200)
    points[3, 1], points[4, 0], points[5, 2] = np.nan, np.inf, -np.inf
    write_bin(tmp_path / "in/sub/a.bin", points)
    predict(tmp_path / "in", checkpoint, tmp_path / "out", outputs=ALL_FORMATS, device=CPU)
    labels, scores = Segmenter.load(checkpoint, device=CPU)(points)
    target = tmp_path / "out/sub"
    assert results(target) == sorted(
        ["a.label", "a.npy", "a.ply", "a_lidarseg.bin", "a_confidence.npy"]
    )
    assert np.array_equal(np.fromfile(target / "a.label", "<u4"), RAW_OF[labels])
    assert np.array_equal(np.load(target / "a.npy"), RAW_OF[labels])
    assert np.array_equal(np.fromfile(target / "a_lidarseg.bin", np.uint8), labels)
    confidence = np.load(target / "a_confidence.npy")
    assert confidence.dtype == np.float32
    assert np.array_equal(confidence, scores)
    assert labels[3:6].tolist() == [0, 0, 0]
    assert scores[3:6].tolist() == [0, 0, 0]
    assert (scores[inside(points)] > 0).all()
    vertex = plyfile.PlyData.read(str(target / "a.ply"))["vertex"]
    expected = ["x", "y", "z", "red", "green", "blue", "label", "confidence"]
    assert [p.name for p in vertex.properties] == expected
    xyz = np.column_stack([vertex[axis] for axis in "xyz"])
    assert np.array_equal(xyz, points[:, :3], equal_nan=True)
    assert np.array_equal(vertex["label"], RAW_OF[labels])
    assert np.array_equal(vertex["confidence"], scores)
    colors = np.column_stack([vertex[c] for c in ("red", "green", "blue")])
    table = np.array(card().info.labels.colors_rgb)
    assert np.array_equal(colors[labels > 0], table[labels[labels > 0]])
    header = (target / "a.ply").read_bytes().split(b"end_header\n")[0].decode("ascii")
    assert header.startswith("ply\nformat binary_little_endian 1.0\n")


@pytest.mark.parametrize("formats", [(), ("png",), ("label", "label")])
def test_unknown_formats_are_refused(formats: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"formats. must be some of label, npy, ply, bin"):
        Outputs(formats=formats)


def test_nuscenes_labels_are_explained_once(tmp_path: Path) -> None:
    path = save(tmp_path / "n.safetensors", info=replace(card().info, layout="nuscenes"))
    for name in "ab":
        write_bin(tmp_path / f"in/{name}.bin", some_points(80))
    heard = Heard()
    both = Outputs(formats=("label", "bin"))
    predict(tmp_path / "in", path, tmp_path / "out", outputs=both, device=CPU, progress=heard)
    assert sum("uint32 raw ids" in line and "formats=bin" in line for line in heard.lines) == 1
    only_bin = Outputs(formats=("bin",))
    heard = Heard()
    predict(tmp_path / "in", path, tmp_path / "b", outputs=only_bin, device=CPU, progress=heard)
    assert not any("raw ids" in line for line in heard.lines)
    assert (np.fromfile(tmp_path / "b/a_lidarseg.bin", np.uint8) > 0).all()  # 0 is no answer there


# Odd and large files


@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_files(checkpoint: Path, tmp_path: Path, n: int) -> None:
    scan = write_bin(tmp_path / "a.bin", np.ones((n, 4)))
    out = tmp_path / "out"
    summary = predict(scan, checkpoint, out, outputs=ALL_FORMATS, png=True, columns=4, device=CPU)
    assert (summary.points, summary.failed) == (n, ())
    assert (out / "a.label").stat().st_size == 4 * n
    assert len(plyfile.PlyData.read(str(out / "a.ply"))["vertex"]) == n


def test_more_points_than_a_pass_takes_are_labelled_in_parts() -> None:
    points = some_points(1000)
    network = StubNetwork()
    whole = Segmenter(network, card())
    expected = whole(points)
    parts = Segmenter(network, card())
    parts.pass_size = replace(parts.pass_size, largest_scan=90)
    network.batches.clear()
    kept = int(inside(points).sum())
    assert parts.pass_size.parts(kept) == -(-kept // 90)
    answer = parts(points)
    assert max(len(batch.points) for batch in network.batches) <= 90
    assert sum(len(batch.points) for batch in network.batches) == kept
    assert np.array_equal(answer.labels, expected.labels)
    assert np.array_equal(answer.scores, expected.scores)
    mixed = parts([points, points[:20]])
    assert np.array_equal(mixed[0].labels, expected.labels)
    assert np.array_equal(mixed[1].labels, whole(points[:20]).labels)


def test_nearest_points_of_large_files_are_looked_for_in_a_share() -> None:
    points = some_points(2000)
    scan = scan_input(points, name="", is_seen=inside(points), outside="nearest", tree_points=100)
    assert len(np.unique(scan.copied_from)) <= 100
    assert len(scan.other_rows) == 2000 - inside(points).sum()


def test_batch_size_is_the_scans_per_pass(checkpoint: Path, tmp_path: Path) -> None:
    for name in range(7):
        write_bin(tmp_path / f"in/{name}.bin", some_points(30))
    network = StubNetwork()
    three = Segmenter(network, card(), batch_size=3)
    three([some_points(20, seed) for seed in range(7)])
    assert [len(batch.offsets) - 1 for batch in network.batches] == [3, 3, 1]
    for size in (0, 33):
        with pytest.raises(ConfigError, match="`batch_size` must be 1 to 32"):
            Segmenter(network, card(), batch_size=size)
    labels = {
        size: predict(
            tmp_path / "in", checkpoint, tmp_path / str(size), batch_size=size, device=CPU
        )
        for size in (1, 5)
    }
    assert {s.scans for s in labels.values()} == {7}
    for path in (tmp_path / "1").glob("*.label"):
        assert path.read_bytes() == (tmp_path / "5" / path.name).read_bytes()


# Python


def test_segmenter_takes_lists_and_points_without_signal() -> None:
    scans = [some_points(30, 1), some_points(0), some_points(20, 2).astype(np.float64)]
    segmenter = Segmenter(StubNetwork(), card())
    together = segmenter(scans)
    assert [len(one.labels) for one in together] == [30, 0, 20]
    for scan, one in zip(scans, together, strict=True):
        assert np.array_equal(one.labels, segmenter(scan).labels)
    assert segmenter([]) == []
    rows = scans[0][:5]
    assert np.array_equal(segmenter(rows.tolist()).labels, segmenter(rows).labels)
    assert np.array_equal(segmenter(torch.from_numpy(rows)).labels, segmenter(rows).labels)
    with pytest.warns(UserWarning, match=r"\(N, 3\): the signal"):
        without = segmenter(scans[0][:, :3])
    assert np.array_equal(
        without.labels,
        by_place(torch.from_numpy(scans[0])).numpy() * inside(scans[0])
        + without.labels * ~inside(scans[0]),
    )


def test_lines_of_the_readme_run_as_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    (block,) = [block for block in blocks if "Segmenter.load" in block]
    lines = [line[4:] for line in block.splitlines() if line.strip()]
    assert len(lines) == 5
    save(tmp_path / "runs/first/checkpoints/best.safetensors")
    write_bin(tmp_path / "scan.bin", some_points(100))
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec("\n".join(lines), space)
    assert space["labels"].shape == space["scores"].shape == (100,)
    assert space["labels"].dtype == np.uint8
    assert ((space["scores"] >= 0) & (space["scores"] <= 1)).all()


# Warnings of a run


def test_a_difference_is_said_once_and_counted(tmp_path: Path) -> None:
    points = some_points(3000)
    path = save(tmp_path / "c.safetensors", input_statistics=scan_statistics([points.T]))
    for name in "abc":
        write_bin(tmp_path / f"in/{name}.bin", points * np.array([1, 1, 1, 255], np.float32))
    result = pass2d(
        "predict", tmp_path / "in", "--checkpoint", path, "--out", tmp_path / "out", "--json"
    )
    assert result.exit_code == 0, result.output
    (warning,) = json.loads(result.stdout)["warnings"]
    assert warning["kind"] == "signal"
    assert warning["option"] == "--signal-scale 0.00392"
    assert warning["scans"] == 3
    assert result.stderr.count("--signal-scale") == 1
    fixed = pass2d(
        *("predict", tmp_path / "in", "--checkpoint", path, "--out", tmp_path / "fixed"),
        *("--json", *warning["option"].split()),
    )
    assert json.loads(fixed.stdout)["warnings"] == []


def test_coordinates_in_millimetres_fail_with_the_option(tmp_path: Path) -> None:
    points = some_points(3000)
    points[:, :3] *= 1000
    points[:, 3] *= 255
    points[:, :3] += np.sign(points[:, :3]) * 1100  # all beyond 1 km, were they metres
    metres = points * np.array([1e-3, 1e-3, 1e-3, 1 / 255])
    statistics = scan_statistics([metres.T.astype(np.float32)])
    path = save(tmp_path / "c.safetensors", input_statistics=statistics)
    scan = write_bin(tmp_path / "a.bin", points)
    summary = predict(scan, path, tmp_path / "out", device=CPU)
    assert summary.failed[0].reason.endswith("(within 1 km): `unit=mm`")
    assert {w.option for w in summary.warnings} == {"`unit=mm`", "`signal_scale=0.00392`"}


def test_a_scan_outside_of_the_volume_is_named_and_the_rest_labelled(
    checkpoint: Path, tmp_path: Path
) -> None:
    points = some_points(51)
    write_bin(tmp_path / "in/a.bin", points)
    away = write_bin(tmp_path / "in/b.bin", points + np.float32([300, 0, 0, 0]))
    summary = predict(tmp_path / "in", checkpoint, tmp_path / "out", device=CPU)
    (failed,) = summary.failed
    assert failed.points == away
    assert failed.reason.startswith(f"{away}: none of 51 points lies in the network's volume: ")
    assert results(tmp_path / "out") == ["a.label"]


def test_a_sub_folder_that_cannot_be_read_is_named_and_the_rest_labelled(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "closed/b"):
        write_bin(tmp_path / f"in/{name}.bin", some_points(51))
    closed, real = tmp_path / "in" / "closed", os.scandir

    def scandir(path: str | int) -> object:
        if str(path) == str(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    summary = predict(tmp_path / "in", checkpoint, tmp_path / "out", device=CPU)
    assert summary.scans == 1
    assert (tmp_path / "out" / "a.label").is_file()
    (failed,) = summary.failed
    assert failed.points == closed
    assert failed.reason.startswith(f"{closed}: no permission to read it")
    with pytest.raises(DataError, match="closed: no permission to read it"):
        find_scans(tmp_path / "in", tmp_path / "out", say=print)
    (tmp_path / "in" / "a.bin").unlink()
    with pytest.raises(DataError, match="closed: no permission to read it"):
        predict(tmp_path / "in", checkpoint, tmp_path / "none", device=CPU)


# Other files beside scans


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (["velodyne/0.bin", "velodyne/1.txt", "calib.txt", "imu.csv"], [1, 2, 3]),
        (["b.xyz", "poses.txt", "a.txt", "calib_cam.txt", "times.csv", "val.txt"], [1, 3, 4, 5]),
        (["test.txt"], []),
        (["calib.txt", "poses.txt"], []),
        (["a.csv", "train_station.xyz"], []),
        (["a.npy", "b.bin", "poses.TXT.gz"], [2]),
    ],
)
def test_texts_beside_scans_are_left_out(
    names: list[str], left_out: list[int], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    heard = Heard()
    found = find_scans(tmp_path, tmp_path / "out", say=heard.say)
    expected = {tmp_path / name for i, name in enumerate(names) if i not in left_out}
    assert {scan.points for scan in found} == expected
    assert len(heard.lines) == bool(left_out)
    if left_out:
        assert f"ignoring {len(left_out)} text file" in heard.all()
        assert names[left_out[0]] in heard.all() or len(left_out) > 3
