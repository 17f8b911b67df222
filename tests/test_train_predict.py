"""Predictions for point files: what is written for every raw point, what is said of bad ones."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import sample_info
from stub_network import StubNetwork, by_place

from pass2d.common.errors import CheckpointError, ConfigError, DataError, ShapeError
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import build_from_card, network_tensors, save_checkpoint
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.inference.votes import VotePlan, parse_votes
from pass2d.train.prediction.predict import predict

CPU = torch.device("cpu")
RAW_OF = np.array([0, 40, 10, 50, 70], np.uint32)  # cache_samples.sample_info


def card(**changes: object) -> Card:
    settings = {"block_scales": [2, 4], "hidden": 8, "image_branch": False}
    return Card(architecture="2dpass", settings=settings, info=sample_info(), **changes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "small.safetensors"
    network = build_from_card(card(), CPU)
    save_checkpoint(path, network_tensors(network.inference_state()), card())
    return path


def segmenter(**options) -> Segmenter:
    sees_all = options.pop("sees_all", False)
    return Segmenter(
        StubNetwork(options.pop("rule", by_place), sees_all=sees_all), card(), **options
    )


def some_points(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform([-70, -70, -6], [70, 70, 4], (n, 3))
    return np.column_stack([xyz, rng.uniform(0, 1, n)]).astype(np.float32)


def write_bin(path: Path, points: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    points.astype("<f4").tofile(path)
    return path


def results(out: Path) -> list[str]:
    """Names of what a prediction left, but for its own record."""
    return sorted(p.name for p in out.rglob("*") if p.is_file() and ".pass2d" not in p.parts)


def inside(points: np.ndarray) -> np.ndarray:
    return (np.abs(points[:, :2]) < 50).all(axis=1) & (points[:, 2] > -4) & (points[:, 2] < 2)


def test_every_point_is_labelled_those_outside_by_their_nearest() -> None:
    points = some_points(800)
    labels, scores = segmenter()(points)
    kept = inside(points)
    answer = by_place(torch.from_numpy(points)).numpy()
    assert np.array_equal(labels[kept], answer[kept])
    for row in np.flatnonzero(~kept):
        distance = ((points[kept, :3].astype(float) - points[row, :3]) ** 2).sum(axis=1)
        assert labels[row] == answer[kept][distance.argmin()]
    one_of_five = np.exp(1) / (np.exp(1) + 4)  # logits 1, 0, 0, 0, 0
    assert np.allclose(scores, one_of_five)


def test_outside_points_stay_without_an_answer_when_asked() -> None:
    points = some_points(300)
    labels, scores = segmenter(outside="ignore")(points)
    kept = inside(points)
    assert (labels[~kept] == 0).all()
    assert (scores[~kept] == 0).all()
    assert (labels[kept] > 0).all()


def test_network_that_sees_all_is_given_all() -> None:
    points = some_points(300)
    sees_all = segmenter(sees_all=True)
    labels, _ = sees_all(points)
    assert np.array_equal(labels, by_place(torch.from_numpy(points)).numpy())
    assert np.array_equal(sees_all.network.batches[0].points.numpy(), points)


def test_points_that_are_no_numbers_get_no_answer_and_harm_no_other() -> None:
    clean = some_points(200)
    dirty = clean.copy()
    dirty[3, 0], dirty[7, 2], dirty[9, 1], dirty[11, 3] = np.nan, np.inf, 1e30, np.nan
    labels, scores = segmenter(sees_all=True)(dirty)
    bad = [3, 7, 9]
    assert labels[bad].tolist() == [0, 0, 0]
    assert scores[bad].tolist() == [0, 0, 0]
    good = np.setdiff1d(np.arange(200), bad)
    assert np.array_equal(
        labels[good],
        segmenter()(clean)[0][good] * 0 + by_place(torch.from_numpy(clean)).numpy()[good],
    )
    assert np.isfinite(scores).all()


def test_random_votes_of_a_scan_do_not_depend_on_its_neighbours() -> None:
    voting = segmenter(
        votes=VotePlan(kind="random", count=3),
        rule=lambda p: torch.where(p[:, 1] > 0, 2, 3),
    )
    scans = [voting.prepare(some_points(100, seed), name="abc"[seed]) for seed in range(3)]
    together = [found.passes[0] for found in voting.label(scans, lambda scan: scan)]
    ((alone,),) = [found.passes for found in voting.label(scans[1:2], lambda scan: scan)]
    assert torch.equal(together[1].labels, alone.labels)
    assert torch.equal(together[1].scores, alone.scores)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((5, 2)),
        np.zeros(4),
        np.zeros((1, 2, 4)),
        np.zeros((4, 200)),
        np.zeros((3, 4), np.complex64),
        np.zeros(9, [("x", "f4"), ("y", "f4")]),
        "x",
    ],
)
def test_array_of_a_wrong_shape_is_refused(points: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"points must be \(N, 4\)"):
        segmenter()(points)


def test_options_of_the_segmenter_are_read_as_those_of_the_command(checkpoint: Path) -> None:
    assert Segmenter.load(checkpoint, device="cpu", votes=3).votes == parse_votes("3")
    for wrong, said in (
        ({"votes": -1}, "votes must be"),
        ({"outside": "far"}, "outside must be nearest or ignore"),
        ({"device": "gpu"}, "device 'gpu': the networks run on cpu and cuda only"),
    ):
        with pytest.raises(ConfigError, match=said):
            Segmenter.load(checkpoint, **wrong)


def test_further_columns_are_not_used() -> None:
    points = some_points(50)
    five = np.column_stack([points, np.arange(50)])
    assert np.array_equal(segmenter()(five).labels, segmenter()(points).labels)


def test_empty_scan_has_empty_answers() -> None:
    labels, scores = segmenter()(np.zeros((0, 4)))
    assert labels.shape == scores.shape == (0,)


def test_scan_wholly_outside_the_volume_is_labelled_0() -> None:
    with pytest.warns(UserWarning, match="no point lies in the network's volume"):
        labels, _ = segmenter()(np.full((4, 4), 60.0))
    assert labels.tolist() == [0, 0, 0, 0]


def test_checkpoint_alone_labels_a_folder_in_raw_ids(checkpoint: Path, tmp_path: Path) -> None:
    scans = {"a": some_points(500, 1), "sub/b": some_points(400, 2), "sub/empty": some_points(0)}
    for name, points in scans.items():
        write_bin(tmp_path / "in" / f"{name}.bin", points)
    summary = predict(tmp_path / "in", checkpoint, tmp_path / "out", device=CPU)
    assert (summary.scans, summary.points, summary.failed) == (3, 900, ())
    assert f"{tmp_path / 'in/sub/empty.bin'}: no points. Is the copy complete?" in summary.notes
    loaded = Segmenter.load(checkpoint, device=CPU)
    for name, points in scans.items():
        written = np.fromfile(tmp_path / "out" / f"{name}.label", "<u4")
        assert len(written) == len(points)
        assert np.array_equal(written, RAW_OF[loaded(points).labels])
    assert results(tmp_path / "out") == ["a.label", "b.label", "empty.label"]
    assert summary.class_points.sum() == 900


def test_single_file_and_pictures(checkpoint: Path, tmp_path: Path) -> None:
    scan = write_bin(tmp_path / "000001.bin", some_points(300))
    predict(scan, checkpoint, tmp_path / "out", png=True, device=CPU)
    assert results(tmp_path / "out") == ["000001.label", "000001_above.png", "000001_range.png"]
    assert (tmp_path / "out/000001_above.png").read_bytes().startswith(b"\x89PNG")


def test_bad_files_are_named_and_do_not_stop_the_others(checkpoint: Path, tmp_path: Path) -> None:
    write_bin(tmp_path / "in/good.bin", some_points(100))
    (tmp_path / "in/cut.bin").write_bytes(some_points(10).tobytes()[:-6])
    write_bin(tmp_path / "in/noise.bin", np.full((8, 4), np.nan))
    said: list[str] = []

    class Listener:
        def start(self, title: str, *, total: int, unit: str) -> None:
            assert (total, unit) == (3, "scans")

        def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
            pass

        def say(self, text: str) -> None:
            said.append(text)

    out = tmp_path / "out"
    summary = predict(tmp_path / "in", checkpoint, out, device=CPU, progress=Listener())
    assert results(out) == ["good.label"]
    assert [failed.points.name for failed in summary.failed] == ["cut.bin", "noise.bin"]
    assert "154 bytes: not a multiple of 16" in summary.failed[0].reason
    assert "its numbers are no coordinates" in summary.failed[1].reason
    reasons = [failed.reason for failed in summary.failed]
    assert [line for line in said if not line.startswith("warning: ")] == reasons


def test_points_without_an_answer_are_said_per_file(checkpoint: Path, tmp_path: Path) -> None:
    points = some_points(41)  # 656 bytes: no multiple of 20
    points[2, 1], points[5, 3] = np.nan, np.inf
    points[5, :3] = 1
    scan = write_bin(tmp_path / "x.bin", points)
    summary = predict(scan, checkpoint, tmp_path / "out", device=CPU)
    assert "1 of 41 points have no finite coordinates" in summary.notes[0]
    assert "signal of 1 points" in summary.notes[1]


def test_size_of_five_columns_is_recognised(checkpoint: Path, tmp_path: Path) -> None:
    for n in (501, 503):
        five = np.column_stack([some_points(n), np.zeros(n)])
        write_bin(tmp_path / f"in/{n}.pcd.bin", five)
    summary = predict(tmp_path / "in", checkpoint, tmp_path / "wrong", columns=4, device=CPU)
    assert "it looks like 5 float32 per point: `columns=5`" in summary.failed[0].reason
    summary = predict(tmp_path / "in", checkpoint, tmp_path / "out", device=CPU)
    said = next(one for one in summary.warnings if one.kind == "columns")
    assert "501.pcd.bin: read as 5 float32 per point (4 float32 in the training" in said.message
    assert (said.option, said.scans) == ("`columns=5`", 2)  # said once
    assert summary.failed == ()
    assert (tmp_path / "out/501.label").stat().st_size == 4 * 501


def test_results_are_overwritten_only_when_allowed(checkpoint: Path, tmp_path: Path) -> None:
    scan = write_bin(tmp_path / "a.bin", some_points(20))
    truth = tmp_path / "a.label"
    truth.write_bytes(b"made by hand")
    with pytest.raises(DataError, match=r"a\.label is already there.*overwrite"):
        predict(scan, checkpoint, tmp_path, device=CPU)
    assert truth.read_bytes() == b"made by hand"
    predict(scan, checkpoint, tmp_path, overwrite=True, device=CPU)
    assert truth.stat().st_size == 80


def test_two_inputs_of_one_result_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a.bin", "a.BIN"):
        write_bin(tmp_path / "in" / name, some_points(5))
    with pytest.raises(
        DataError, match=r"a\.bin and .*a\.BIN would both|a\.BIN and .*a\.bin would"
    ):
        predict(tmp_path / "in", checkpoint, tmp_path / "out", device=CPU)


def test_wrong_inputs_are_clear_errors(checkpoint: Path, tmp_path: Path) -> None:
    def run(inputs: Path, out: str = "out", **options) -> None:
        predict(inputs, checkpoint, tmp_path / out, device=CPU, **options)

    with pytest.raises(DataError, match="no such file or folder"):
        run(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file of points.*found: nothing"):
        run(tmp_path / "empty")
    (tmp_path / "empty/scan.doc").write_bytes(b"")
    with pytest.raises(DataError, match=r"found: 1 \.doc"):
        run(tmp_path / "empty")
    with pytest.raises(DataError, match=r"a file of points is expected: \.bin, \.npy"):
        run(tmp_path / "empty/scan.doc")
    scan = write_bin(tmp_path / "a.bin", some_points(5))
    for out in ("a.bin", "a.bin/below"):
        with pytest.raises(DataError, match=r"no results can be written there.*another folder"):
            run(scan, out=out)
    with pytest.raises(ConfigError, match="columns must be at least 3"):
        run(scan, columns=2)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        predict(scan, tmp_path / "gone.safetensors", tmp_path / "out", device=CPU)


def test_links_are_followed_and_hidden_files_left_out(checkpoint: Path, tmp_path: Path) -> None:
    write_bin(tmp_path / "elsewhere/velodyne/0.bin", some_points(50))
    write_bin(tmp_path / "in/._0.bin", some_points(5))
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere/velodyne")
    (tmp_path / "in/up").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in/pipe.bin")  # to open it would wait for ever
    (tmp_path / "in/empty.bin").mkdir()
    summary = predict(tmp_path / "in", checkpoint, tmp_path / "out", device=CPU)
    assert summary.scans == 1
    assert (tmp_path / "out/linked/0.label").is_file()
    assert [failed.reason for failed in summary.failed] == [
        f"{tmp_path / 'in/pipe.bin'}: a pipe, not a file of points",
        f"{tmp_path / 'in/empty.bin'}: an empty folder, not a file of points",
    ]


def test_colours_and_names_come_from_the_card(checkpoint: Path) -> None:
    loaded = Segmenter.load(checkpoint, device=CPU)
    assert loaded.names == sample_info().labels.names
    assert loaded.raw_ids(np.array([0, 3], np.uint8)).tolist() == [0, 50]


def test_volume_comes_from_the_card() -> None:
    info = sample_info()
    small = replace(info, grid=replace(info.grid, low=(-5, -5, -4), high=(5, 5, 2)))
    only_near = Segmenter(StubNetwork(), replace(card(), info=small), outside="ignore")
    labels, _ = only_near(np.array([[1, 1, 0, 0], [6, 1, 0, 0], [5, 0, 0, 0]]))
    assert (labels > 0).tolist() == [True, False, False]  # 5 is not strictly inside


def test_real_scan_of_a_test_sequence(
    checkpoint: Path, real_semkitti: Path, tmp_path: Path
) -> None:
    source = real_semkitti / "sequences/11/velodyne/000000.bin"
    summary = predict(source, checkpoint, tmp_path, png=True, device=CPU)
    assert (summary.points, summary.notes) == (115_236, ())
    written = np.fromfile(tmp_path / "000000.label", "<u4")
    assert len(written) == 115_236
    assert set(written.tolist()) <= set(RAW_OF.tolist())


def test_full_disk_is_a_clear_error_and_leaves_no_half_file(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_bin(tmp_path / "a.bin", some_points(20))

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match=r"a\.label: the labels could not be written: No space"):
        predict(scan, checkpoint, tmp_path / "out", device=CPU)
    assert results(tmp_path / "out") == []
