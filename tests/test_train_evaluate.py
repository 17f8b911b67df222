"""Counts of whole evaluations against a plain loop over points, and the report made of them."""

from __future__ import annotations

import io
import json
import math
import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from numpy.typing import NDArray
from rich.console import Console
from scipy.spatial import cKDTree
from stub_network import StubNetwork, by_place
from torch import Tensor
from typer.testing import CliRunner

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import DatasetInfo, GridConfig, ScanRecord
from pass2d.cli import app
from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Silent
from pass2d.reports.evaluation import score_rows
from pass2d.reports.report import report_json, report_tables, write_html
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import network_tensors, save_checkpoint
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.evaluation.counts import (
    BAND_NAMES,
    EvalCounts,
    EvalReport,
    part_scores,
    pass_result,
)
from pass2d.train.evaluation.evaluate import count_scans, evaluate, evaluate_network
from pass2d.train.evaluation.pictures import write_pictures
from pass2d.train.inference.passes import PassSize
from pass2d.train.inference.scans import eval_scan, record_input
from pass2d.train.inference.votes import VotePlan

CPU = torch.device("cpu")
ALONE = ProcessGroup(device=CPU)
TWO_SCANS = PassSize(points=10**9, scans=2)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ScanRecord]]:
    root = tmp_path_factory.mktemp("cache")
    scans = write_sample_cache(root, n_scans=5, sequences=("00", "08", "11"), n_points=700)
    return root, scans


def answers(record: ScanRecord) -> NDArray[np.int64]:
    points = np.concatenate([record.xyz, record.signal[None]]).T
    return by_place(torch.from_numpy(points)).numpy()


def slow_matrices(
    records: list[ScanRecord], *, outside: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(inside, outside) point by point, the nearest by a full search."""
    inside_counts, outside_counts = np.zeros((2, 5, 5), np.int64)
    for record in records:
        predicted = answers(record)
        for label, prediction in zip(record.label, predicted, strict=True):
            inside_counts[label, prediction] += 1
        for point, label in zip(record.outside_xyz.T, record.outside_label, strict=True):
            distance = ((record.xyz.T.astype(np.float64) - point) ** 2).sum(axis=1)
            prediction = predicted[distance.argmin()] if outside == "nearest" else 0
            outside_counts[label, prediction] += 1
    return inside_counts, outside_counts


@pytest.mark.parametrize("outside", ["nearest", "ignore"])
def test_every_labelled_raw_point_is_counted_once(cached, outside) -> None:
    root, scans = cached
    with CacheReader.open(root) as reader:
        positions = reader.select(split="val")
        counts = evaluate_network(StubNetwork(), reader, positions, outside=outside)
        records = [scans[scan_id] for scan_id in reader.scans.scan_id[positions]]
    inside, outside_counts = slow_matrices(records, outside=outside)
    assert counts.inside().tolist() == inside.tolist()
    assert counts.outside().tolist() == outside_counts.tolist()
    assert counts.total.sum() == sum(record.n_raw for record in records)


def test_ignored_outside_points_are_misses_for_official_and_unknown_to_published(cached) -> None:
    root, _ = cached
    with CacheReader.open(root) as reader:
        counts = evaluate_network(
            StubNetwork(), reader, reader.select(split="val"), outside="ignore"
        )
        official, published = counts.scores(reader.info)
    road, n_outside = counts.inside()[1].sum(), counts.outside().sum()
    assert published.miou == 1.0  # the rule is the one that made the labels
    assert official.iou[1] == road / (road + n_outside)  # all outside points are road
    assert official.iou[2:].tolist() == [1.0, 1.0, 1.0]
    assert official.missed == n_outside


def test_published_accuracy_counts_every_raw_point(cached) -> None:
    root, scans = cached
    with CacheReader.open(root) as reader:
        positions = reader.select(split="val")
        records = [scans[scan_id] for scan_id in reader.scans.scan_id[positions]]
        found = {
            outside: evaluate_network(
                StubNetwork(lambda p: (p[:, 2] > -1).long()), reader, positions, outside=outside
            ).scores(reader.info)[1]
            for outside in ("nearest", "ignore")
        }
    right = total = 0
    for record in records:
        predicted = (record.xyz[2] > -1).astype(np.int64)
        right += int((predicted == record.label).sum())  # an ignored point is right if it gets 0
        right += int((record.outside_label == 0).sum())  # none outside has a prediction
        total += record.n_raw
    assert right > 0
    for published in found.values():  # what --outside gives is not the network's
        assert published.accuracy == right / total
        assert published.miou == found["ignore"].miou


def test_published_counts_all_points_of_a_network_that_sees_them_all(cached) -> None:
    root, scans = cached
    network = StubNetwork(lambda p: torch.ones(len(p), dtype=torch.int64), sees_all=True)
    with CacheReader.open(root) as reader:
        positions = reader.select(split="val")
        records = [scans[scan_id] for scan_id in reader.scans.scan_id[positions]]
        published = evaluate_network(network, reader, positions).scores(reader.info)[1]
    labels = np.concatenate([np.concatenate([r.label, r.outside_label]) for r in records])
    assert published.accuracy == (labels == 1).mean()
    assert published.points == (labels != 0).sum()
    assert published.iou[1] == (labels == 1).sum() / (labels != 0).sum()


def test_network_without_a_volume_sees_all_points_in_raw_order(cached) -> None:
    root, scans = cached
    network = StubNetwork(lambda points: torch.ones(len(points), dtype=torch.int64), sees_all=True)
    with CacheReader.open(root) as reader:
        position = int(reader.select(split="val")[0])
        counts = evaluate_network(network, reader, [position])
        record = scans[str(reader.scans.scan_id[position])]
    seen = network.batches[0].points
    assert len(seen) == record.n_raw
    assert np.array_equal(seen[record.raw_index, :3].numpy(), record.xyz.T)
    is_outside = np.ones(record.n_raw, bool)
    is_outside[record.raw_index] = False
    assert np.array_equal(seen[is_outside, :3].numpy(), record.outside_xyz.T)
    assert counts.outside()[1, 1] == is_outside.sum()
    expected = np.bincount(record.label, minlength=5)
    assert counts.inside()[:, 1].tolist() == expected.tolist()


def test_points_fall_into_their_range_band(cached) -> None:
    root, scans = cached
    with CacheReader.open(root) as reader:
        positions = reader.select(split="val")
        counts = evaluate_network(StubNetwork(), reader, positions)
        records = [scans[scan_id] for scan_id in reader.scans.scan_id[positions]]
    distance = np.concatenate(
        [np.linalg.norm(np.hstack([r.xyz, r.outside_xyz]).astype(float), axis=0) for r in records]
    )
    edges = [0, 10, 20, 30, 50, np.inf]
    expected = [int(((distance >= a) & (distance < b)).sum()) for a, b in zip(edges, edges[1:])]  # noqa: B905, RUF007
    assert counts.total.sum(dim=(0, 2, 3)).tolist() == expected
    assert len(BAND_NAMES) == len(expected)


def test_network_comes_back_in_the_mode_it_was_in(cached) -> None:
    root, _ = cached
    network = StubNetwork().train()
    with CacheReader.open(root) as reader:
        evaluate_network(network, reader, reader.select(split="val")[:1])
    assert network.modes == [False]
    assert network.training


def test_shares_of_three_processes_make_the_whole_and_each_pass_is_the_same(cached) -> None:
    root, _ = cached
    alone = StubNetwork()
    shared = [StubNetwork() for _ in range(3)]
    with CacheReader.open(root) as reader:
        positions = reader.select(split="val")
        whole = evaluate_network(alone, reader, positions, size=TWO_SCANS)
        parts = [
            evaluate_network(
                network,
                reader,
                positions,
                group=ProcessGroup(device=CPU, rank=r, world=3),
                size=TWO_SCANS,
            )
            for r, network in enumerate(shared)
        ]
    assert torch.equal(sum(part.total for part in parts), whole.total)
    assert sorted(place for part in parts for place in part.scans) == sorted(whole.scans)
    assert [len(part.scans) for part in parts] == [2, 2, 1]
    passes = [batch.points.tolist() for batch in alone.batches]
    in_turn = [shared[turn % 3].batches[turn // 3].points.tolist() for turn in range(len(passes))]
    assert in_turn == passes


def test_votes_move_the_points_and_leave_the_labels(cached) -> None:
    root, _ = cached
    network = StubNetwork(lambda p: torch.where(p[:, 2] < -2, 1, torch.where(p[:, 2] > 0.5, 4, 2)))
    with CacheReader.open(root) as reader:
        positions = reader.select(split="val")
        plans = (VotePlan(), VotePlan(kind="lattice", count=8))
        plain, voted = count_scans(
            network, reader, positions, plans=plans, outside="nearest", progress=Silent()
        )
    assert torch.equal(plain.total, voted.total)  # the rule looks at z alone: all votes agree
    seen = [tuple(batch.offsets.diff().tolist()) for batch in network.batches]
    assert sum(map(len, seen)) == len(positions) * 9
    assert len({tuple(b.points[0, :2].tolist()) for b in network.batches}) > 1


class OneRecord:
    """A reader of one scan that lies in no cache."""

    def __init__(self, record: ScanRecord, info: DatasetInfo) -> None:
        self._record, self.info = record, info
        self.scans = SimpleNamespace(n=np.array([record.n]), n_raw=np.array([record.n_raw]))

    def read(self, position: int, fields: Fields) -> ScanRecord:
        return self._record


def test_scan_without_any_point_in_the_volume_is_all_misses() -> None:
    record = ScanRecord(
        scan_id="08/000000",
        n_raw=2,
        xyz=np.zeros((3, 0), np.float32),
        signal=np.zeros(0, np.float32),
        raw_index=np.zeros(0, np.int32),
        label=np.zeros(0, np.uint8),
        outside_xyz=np.array([[60, 70], [0, 0], [0, 0]], np.float32),
        outside_signal=np.zeros(2, np.float32),
        outside_label=np.array([1, 2], np.uint8),
    )

    counts = evaluate_network(StubNetwork(), OneRecord(record, sample_info()), [0])
    assert counts.outside()[[1, 2], 0].tolist() == [1, 1]
    assert counts.scores(sample_info())[0].miou == 0


def test_scan_without_labels_cannot_be_evaluated(cached) -> None:
    root, _ = cached
    with CacheReader.open(root) as reader:
        record = reader.read(int(reader.select(split="test")[0]), Fields(outside=True))
    with pytest.raises(ConfigError, match="11/000000 has no labels"):
        eval_scan(record, record_input(record, uses_volume=True, outside="nearest"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained small network in a checkpoint."""
    from pass2d.train.checkpoints.checkpoint import build_from_card

    torch.manual_seed(0)
    settings = {"block_scales": [2, 4], "hidden": 8, "image_branch": False}
    card = Card(architecture="2dpass", settings=settings, info=sample_info())
    network = build_from_card(card, CPU)
    path = tmp_path_factory.mktemp("run") / "small.safetensors"
    save_checkpoint(path, network_tensors(network.inference_state()), card)
    return path


@pytest.fixture(scope="module")
def report(cached, checkpoint) -> EvalReport:
    root, _ = cached
    return evaluate(checkpoint, root, votes=VotePlan(kind="random", count=2), group=ALONE)


def test_report_has_both_protocols_without_and_with_votes(report) -> None:
    header, rows = score_rows(report)
    assert header[:3] == ["protocol", "votes", "mIoU"]
    assert [row[:2] for row in rows] == [
        ["official", "no votes"],
        ["published", "no votes"],
        ["official", "2 random votes"],
        ["published", "2 random votes"],
    ]
    assert report.scans == 5
    assert report.best.official.points == report.passes[0].official.points


def test_evaluation_is_a_function_of_its_inputs(report, cached, checkpoint) -> None:
    again = evaluate(checkpoint, cached[0], votes=VotePlan(kind="random", count=2), group=ALONE)
    assert [p.confusion.tolist() for p in again.passes] == [
        p.confusion.tolist() for p in report.passes
    ]


def test_worst_scan_comes_first(report) -> None:
    scores = [scan.miou for scan in report.best.scans]
    assert scores == sorted(scores)
    assert {scan.scan_id for scan in report.best.scans} == {f"08/00000{n}" for n in range(5)}


def test_range_bands_sum_to_the_whole(report) -> None:
    assert sum(band.points for band in report.best.by_range) == report.best.official.points


def test_in_a_part_a_class_is_left_out_only_if_neither_labelled_nor_predicted() -> None:
    counts = np.zeros((5, 5), np.int64)
    counts[1, 1], counts[1, 2] = 8, 2
    scores = part_scores(counts)
    assert scores.miou == (0.8 + 0.0) / 2  # class 2 is predicted, and never right
    assert [c for c in range(1, 5) if math.isnan(scores.iou[c])] == [3, 4]


def test_a_result_is_not_lost_with_the_page_that_cannot_be_written(
    cached, checkpoint, tmp_path: Path
) -> None:
    words = ["eval", "--cache", str(cached[0]), "--checkpoint", str(checkpoint), "--device", "cpu"]
    gone = CliRunner().invoke(app, [*words, "--html", str(tmp_path / "gone" / "page.html")])
    assert gone.exit_code == 1
    assert "no such folder" in gone.stderr
    assert "evaluate" not in gone.stderr
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as if there were no more room
    try:
        late = CliRunner().invoke(app, [*words, "--json", "--html", str(tmp_path / "page.html")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert late.exit_code == 1
    assert "the page could not be written: File too large" in late.stderr
    assert json.loads(late.stdout)["scans"] == 5
    assert not list(tmp_path.iterdir())


def test_json_is_plain_and_names_the_protocols(report) -> None:
    document = json.loads(json.dumps(report_json(report), allow_nan=False))
    assert document["miou"] == report.best.official.miou
    assert document["protocol"] == "official"
    best = document["passes"][-1]
    assert best["official"]["protocol"] == "official"
    assert best["published"]["protocol"] == "published"
    assert list(best["official"]["iou"]) == ["road", "car", "building", "tree"]
    assert np.array(best["confusion"]).sum() == sum(
        best["official"][key] for key in ("points",)
    ) + sum(best["confusion"][0])


def test_tables_show_each_class_and_protocol(report) -> None:
    stream = io.StringIO()
    Console(file=stream, width=160).print(*report_tables(report))
    text = stream.getvalue()
    for word in (
        "official",
        "published",
        "■ building",
        "30-50 m",
        "beyond 50 m",
        "08/000003",
        "mean",
    ):
        assert word in text
    assert "5 scans of semkitti val" in text
    assert "nearest predicted point" in text


def test_page_is_written_and_nothing_else(report, tmp_path: Path) -> None:
    write_html(report, tmp_path / "eval.html")
    html = (tmp_path / "eval.html").read_text()
    assert "data:image/png;base64," in html
    assert html.count("<td>published</td>") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["eval.html"]


def test_absent_class_is_a_dash_in_tables_and_null_in_json() -> None:
    info = replace(sample_info(), layout="nuscenes")
    counts = EvalCounts.empty(5, CPU, sees_outside=False)
    scan = torch.zeros((10, 5, 5), dtype=torch.int64)
    scan[0, 1, 1] = 7
    counts.add(0, scan)
    result = pass_result("no votes", counts, info, scan_ids=["a"])
    assert result.official.miou == 1.0
    assert math.isnan(result.official.iou[2])
    report = EvalReport(
        info=info,
        checkpoint="c",
        architecture="2dpass",
        split="val",
        outside="ignore",
        scans=1,
        scans_without_label=0,
        seconds=1.0,
        passes=(result,),
    )
    assert report_json(report)["passes"][0]["official"]["iou"]["car"] is None
    stream = io.StringIO()
    Console(file=stream, width=160).print(*report_tables(report))
    words = " ".join(stream.getvalue().split())
    assert "official leaves absent classes out, published too: car, building, tree." in words


def test_split_without_labels_is_refused_with_the_ones_that_have_some(cached, checkpoint) -> None:
    with pytest.raises(ConfigError, match=r"'test' has 5 scans, none with labels.*train, val"):
        evaluate(checkpoint, cached[0], split="test", group=ALONE)
    with pytest.raises(ConfigError, match="'val' has 0 scans of the sequences 00, none"):
        evaluate(checkpoint, cached[0], sequences=["00"], group=ALONE)


def test_limit_takes_scans_from_the_whole_split(cached, checkpoint) -> None:
    result = evaluate(checkpoint, cached[0], limit=2, group=ALONE)
    assert sorted(scan.scan_id for scan in result.best.scans) == ["08/000000", "08/000004"]
    with pytest.raises(ConfigError, match="limit must be at least 1"):
        evaluate(checkpoint, cached[0], limit=0, group=ALONE)


def test_checkpoint_of_other_classes_or_another_grid_is_refused(checkpoint, tmp_path: Path) -> None:
    info = sample_info()
    names = replace(info.labels, names=("unlabeled", "road", "car", "building", "bush"))
    write_sample_cache(tmp_path / "a", n_scans=1, info=replace(info, labels=names))
    with pytest.raises(ConfigError, match=r"trained on the 4 classes of semkitti"):
        evaluate(checkpoint, tmp_path / "a", group=ALONE)
    grid = GridConfig(low=(-50, -50, -4), high=(50, 50, 2), shape=(500, 500, 30))
    write_sample_cache(tmp_path / "b", n_scans=1, info=replace(info, grid=grid))
    with pytest.raises(ConfigError, match="Prepare the data set for that grid"):
        evaluate(checkpoint, tmp_path / "b", group=ALONE)


def test_pictures_of_the_worst_and_best_scan(report, cached, tmp_path: Path) -> None:
    paths = write_pictures(report, cached[0], tmp_path / "pictures", device=CPU)
    worst = report.best.scans[0].scan_id.replace("/", "_")
    names = {path.name for path in paths}
    views = ("prediction", "truth", "errors", "range", "camera")
    assert {"confusion.png"} | {f"{worst}_{view}.png" for view in views} <= names
    assert len(names) == 1 + 2 * len(views)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="no pictures can be written there"):
        write_pictures(report, cached[0], tmp_path / "file" / "below", device=CPU)


def test_prepared_scan_goes_back_together_as_in_its_raw_file(real_semkitti: Path) -> None:
    from pass2d.pipeline.compose import lidar_record
    from pass2d.pipeline.datasets.semkitti import list_semkitti

    listing = list_semkitti(real_semkitti, sequences=["08"])
    scan = lidar_record(listing.scans[0], listing.info).raw()
    folder = real_semkitti / "sequences/08"
    raw = np.fromfile(folder / "velodyne/000000.bin", "<f4").reshape(-1, 4)
    assert np.array_equal(scan.points, raw)
    assert scan.n_own == len(raw)
    raw_ids = np.fromfile(folder / "labels/000000.label", "<u4") & 0xFFFF
    table = listing.info.labels.raw_to_training
    assert scan.label is not None
    assert scan.label.tolist() == [table[int(raw_id)] for raw_id in raw_ids]


@pytest.mark.parametrize("outside", ["nearest", "ignore"])
def test_official_scores_of_a_real_scan_are_those_of_the_benchmarks_tools(
    real_semkitti: Path, outside: str
) -> None:
    """The tools' way, from the raw files: raw ids of both sides through the table, all points."""
    from pass2d.pipeline.compose import lidar_record
    from pass2d.pipeline.datasets.semkitti import list_semkitti

    listing = list_semkitti(real_semkitti, sequences=["08"])
    info = listing.info
    record = lidar_record(listing.scans[0], info)
    folder = real_semkitti / "sequences/08"
    raw = np.fromfile(folder / "velodyne/000000.bin", "<f4").reshape(-1, 4)
    raw_labels = np.fromfile(folder / "labels/000000.label", "<u4") & 0xFFFF

    def rule(points: Tensor) -> Tensor:
        """Often right near the ground; wrong ids, and 0 for some, elsewhere."""
        return torch.where(points[:, 2] < -1.4, 9, (points[:, 0].abs() * 3).long() % info_classes)

    info_classes = info.labels.n_classes
    network = StubNetwork(rule, n_classes=info_classes)
    counts = evaluate_network(network, OneRecord(record, info), [0], outside=outside)
    official = counts.scores(info)[0]

    predicted = rule(torch.from_numpy(raw)).numpy()
    inside = np.isin(np.arange(len(raw)), record.raw_index)
    assert (~inside).sum() > 1000
    _, source = cKDTree(raw[inside, :3]).query(raw[~inside, :3])
    predicted[~inside] = predicted[inside][source] if outside == "nearest" else 0
    written = np.array(info.labels.training_to_raw)[predicted]  # as a submission holds them
    iou, accuracy = tools_scores(raw_labels, written, info)
    assert official.iou[1:].tolist() == pytest.approx(iou, abs=1e-9)
    assert official.miou == pytest.approx(sum(iou) / (info_classes - 1), abs=1e-9)
    assert official.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert 0.0 in iou  # classes that this scan lacks count 0
    assert official.miou > 0


def tools_scores(
    labels: NDArray[np.uint32], predictions: NDArray[np.int64], info: DatasetInfo
) -> tuple[list[float], float]:
    """As SemanticKITTI's evaluation: a confusion matrix, the ignored label's points taken out."""
    table = info.labels.raw_to_training
    n_classes = info.labels.n_classes
    confusion = np.zeros((n_classes, n_classes), np.int64)  # [prediction][label]
    for label, prediction in zip(labels.tolist(), predictions.tolist(), strict=True):
        confusion[table[prediction], table[label]] += 1
    confusion[:, 0] = 0
    right = [int(confusion[c, c]) for c in range(n_classes)]
    false_positive = [int(confusion[c].sum()) - right[c] for c in range(n_classes)]
    false_negative = [int(confusion[:, c].sum()) - right[c] for c in range(n_classes)]
    unions = [sum(counts) for counts in zip(right, false_positive, false_negative, strict=True)]
    iou = [right[c] / unions[c] if unions[c] else 0.0 for c in range(1, n_classes)]
    return iou, sum(right[1:]) / (sum(right[1:]) + sum(false_positive[1:]))
